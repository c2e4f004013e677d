package proof

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
)

// archived writes records first to last of a book as an archive.
func archived(t testing.TB, c *Checkpoint, b *book, first, last int) []byte {
	t.Helper()
	before, err := EdgeOf(uint64(first-1), b)
	if err != nil {
		t.Fatal(err)
	}
	head, _ := c.Head(b.shard)
	var path tlog.TreeProof
	if last < int(head.Size) {
		if path, err = tlog.ProveTree(int64(head.Size), int64(last), b); err != nil {
			t.Fatal(err)
		}
	}
	h := NewArchiveHeader(c, &before, uint64(last), head, path)
	out := h.Append(nil)
	l := Lines{Shard: b.shard, Tree: before}
	for _, body := range b.bodies[first-1 : last] {
		r, err := ledger.DecodeRecord(body)
		if err != nil {
			t.Fatal(err)
		}
		out = l.Append(out, body, r)
	}
	return out
}

func TestVerifyArchive(t *testing.T) {
	c, books := twoBooks(t)
	b := books[1]
	head, _ := c.Head(b.shard)
	n := int(head.Size)
	for _, x := range [][2]int{{1, 1}, {1, n - 1}, {1, n}, {2, 5}, {n / 2, n - 3}, {n, n}} {
		a := archived(t, c, b, x[0], x[1])
		rep, err := VerifyArchive(bytes.NewReader(a), c)
		if err != nil || rep.Records != uint64(x[1]-x[0]+1) || rep.Shards[0].First != uint64(x[0]) || rep.Shards[0].Size != uint64(x[1]) {
			t.Fatalf("%v: %+v: %v", x, rep, err)
		}
	}
	whole := archived(t, c, b, 200, n-2)
	lines := strings.SplitAfter(string(whole), "\n")
	swap := func(i, j int) string {
		l := append([]string{}, lines...)
		l[i], l[j] = l[j], l[i]
		return strings.Join(l, "")
	}
	for name, x := range map[string]struct {
		text string
		kind Kind
	}{
		"empty":             {"", Truncated},
		"no header":         {strings.Join(lines[1:], ""), Altered},
		"the last is gone":  {strings.Join(lines[:len(lines)-2], ""), Truncated},
		"one is gone":       {strings.Join(lines[:2], "") + strings.Join(lines[3:], ""), Missing},
		"out of order":      {swap(1, 2), Reordered},
		"more":              {string(whole) + lines[1], Altered},
		"an export":         {string(export(c, books...)), Altered},
		"another cluster":   {strings.Replace(string(whole), `"cluster_id":"c1`, `"cluster_id":"c2`, 1), Foreign},
		"another size":      {strings.Replace(string(whole), `"path":`, `"path" :`, 1), Altered},
		"first behind last": {strings.Replace(string(whole), `"first":200`, `"first":9999`, 1), Altered},
	} {
		_, err := VerifyArchive(strings.NewReader(x.text), c)
		var f *Fault
		if !errors.As(err, &f) || f.Kind != x.kind {
			t.Errorf("%s: %v, want %s", name, err, x.kind)
		}
	}
	other := *c
	other.Shards = append([]Head{}, c.Shards...)
	other.Shards[1] = b.head(t, n-1)
	if _, err := VerifyArchive(bytes.NewReader(whole), &other); err == nil || !strings.Contains(err.Error(), "take the one that belongs to it") {
		t.Errorf("a checkpoint of another size: %v", err)
	}
	for i := 0; i < len(whole); i += 1 + 4*len(whole) / *mutations { // any byte that is altered is noticed
		bad := bytes.Clone(whole)
		bad[i] ^= 1 << (i % 7)
		if _, err := VerifyArchive(bytes.NewReader(bad), c); err == nil {
			t.Fatalf("byte %d of %d, %q", i, len(whole), whole[max(0, i-20):i+1])
		}
	}
}
