package trail

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
)

// TestLogFloor: a tree goes on when the beginning of its journal is given up, and begins behind it where it has
// nothing else.
func TestLogFloor(t *testing.T) {
	j := &memJournal{}
	dir := t.TempDir()
	l := open(t, dir, j)
	j.grow(100)
	check(t, l, j)
	j.trim(77)
	j.grow(20)
	check(t, l, j) // all its hashes are still there
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	check(t, open(t, dir, j), j)
	if err := os.Truncate(dir+"/0003.hashes", 0); err != nil { // what can be made again is
		t.Fatal(err)
	}
	begun := func(l *Log) {
		t.Helper()
		advance(t, l)
		n := len(j.records)
		if h := l.Head(); h.Size != uint64(n) || h.Root != j.root(n) {
			t.Fatalf("%d records, head %+v", n, h)
		}
		for _, size := range []int{int(j.floor), int(j.floor) + 1, n - 1} {
			if h, err := l.HeadAt(uint64(size)); err != nil || h.Root != j.root(size) {
				t.Fatalf("at %d of %d: %v", size, n, err)
			}
		}
		for _, size := range []int{7, 75} {
			if _, err := l.HeadAt(uint64(size)); !errors.Is(err, ErrGap) {
				t.Fatalf("at %d, which is gone: %v", size, err)
			}
		}
		p, err := tlog.ProveTree(int64(n), j.floor, l)
		if err == nil {
			err = tlog.CheckTree(p, int64(n), j.root(n), j.floor, j.root(int(j.floor)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	begun(open(t, dir, j))
	l = open(t, t.TempDir(), j)
	begun(l)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	// A snapshot replaced the journal by one that begins further on than this tree reaches.
	far := &memJournal{}
	far.grow(300)
	far.trim(250)
	j.records, j.floor, j.note = far.records, far.floor, far.note
	begun(l)
	// A beginning that does not fit what was hashed is not taken.
	j.trim(270)
	j.note = []byte(strings.Replace(string(j.note), `"peaks":["`, `"peaks":["00`, 1))
	if _, err := l.Advance(); !errors.Is(err, errFloor) {
		t.Errorf("a note that can't be read: %v", err)
	}
	other := &memJournal{}
	other.grow(300)
	other.records[4][52]++
	other.trim(270)
	j.note = other.note
	if _, err := l.Advance(); !errors.Is(err, ErrAltered) {
		t.Errorf("another tree before the beginning: %v", err)
	}
}

func TestReadFloor(t *testing.T) {
	var tree proof.Tree
	for range 5 {
		tree.Append(tlog.Hash{1})
	}
	f := NewFloor(ledger.Head{Seq: 5, Hash: [32]byte{9}}, tree)
	f.Archive = "x"
	got, head, back, err := ReadFloor(1, f.Note())
	if err != nil || got.Archive != "x" || head.Seq != 5 || head.Hash != [32]byte{9} || back.Root() != tree.Root() {
		t.Fatalf("%+v %+v: %v", got, head, err)
	}
	if _, head, tree, err := ReadFloor(1, nil); err != nil || head != ledger.NewChain(1) || tree.Size != 0 {
		t.Error(err)
	}
	for _, bad := range []string{"x", `{"records":5,"chain":"00","peaks":[]}`, strings.Replace(string(f.Note()), `"records":5`, `"records":4`, 1)} {
		if _, _, _, err := ReadFloor(1, []byte(bad)); !errors.Is(err, errFloor) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestIndexFloor: blocks in front of a journal's beginning go, and the rest finds what it found.
func TestIndexFloor(t *testing.T) {
	j := &madeJournal{n: 5*BlockRecords + 100}
	dir := t.TempDir()
	x := buildIndex(t, dir, j)
	term := TermOf(ledger.FieldRegulation, []byte("GDPR-17"))
	want := find(t, x, 0, 1<<30, 0, 1<<62, term)
	before, _ := x.Bytes()
	look := func(x *Index, from uint64) {
		t.Helper()
		i, _ := slices.BinarySearch(want, from)
		if got := find(t, x, from, 1<<30, 0, 1<<62, term); !slices.Equal(got, want[i:]) {
			t.Fatalf("from %d: %d found, %d there", from, len(got), len(want[i:]))
		}
	}
	trim := func(x *Index, to int) {
		t.Helper()
		j.floor = to
		for more := true; more; {
			var err error
			if more, err = x.Advance(uint64(j.n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	trim(x, BlockRecords+5) // one block: not worth it
	if now, _ := x.Bytes(); now != before {
		t.Errorf("%d of %d bytes", now, before)
	}
	look(x, BlockRecords+6)
	trim(x, 3*BlockRecords+5)
	if now, _ := x.Bytes(); now > before/2 {
		t.Errorf("%d of %d bytes", now, before)
	}
	look(x, 3*BlockRecords+6)
	look(x, 4*BlockRecords+6)
	x.Close()
	x = buildIndex(t, dir, j)
	look(x, 3*BlockRecords+6)
	trim(x, 5*BlockRecords+3) // all of them
	if now, _ := x.Bytes(); now != 0 {
		t.Errorf("%d bytes", now)
	}
	if next, at := x.Next(); next != 5*BlockRecords+4 || at != int64(5*BlockRecords+3)*madeWidth {
		t.Errorf("goes on at record %d, %d", next, at)
	}
	j.n += BlockRecords
	x.Close()
	x = buildIndex(t, dir, j)
	if got := find(t, x, 0, 1<<30, 0, 1<<62, TermOf(ledger.FieldVerb, []byte("submit"))); len(got) != BlockRecords/2 || got[0] <= uint64(j.floor) {
		t.Errorf("%d found in a block that begins anywhere", len(got))
	}
}
