package proof

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
)

var (
	golden    = flag.Bool("golden", false, "write testdata anew")
	mutations = flag.Int("mutations", 4000, "bytes of an export that are altered, one at a time")
)

var cluster = [16]byte{0xc1, 15: 0x01}

// book is the log of one shard, with everything a node keeps of it.
type book struct {
	shard  uint32
	bodies [][]byte
	stored []tlog.Hash
}

func (b *book) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, b.stored[i])
	}
	return out, nil
}

func (b *book) head(t testing.TB, size int) Head {
	h, err := tlog.TreeHash(int64(size), b)
	if err != nil {
		t.Fatal(err)
	}
	if size == 0 {
		h = EmptyRoot
	}
	return Head{Shard: b.shard, Size: uint64(size), Root: h}
}

// newBook runs n tasks through a shard, the first of them with records of
// version 1.
func newBook(t testing.TB, shard uint32, n int) *book {
	b := &book{shard: shard}
	add := func(j []byte) {
		if j[0] == 1 {
			j = j[:len(j)-32]
		}
		j = bytes.Clone(j)
		hashes, err := tlog.StoredHashesForRecordHash(int64(len(b.bodies)), Leaf(j), b)
		if err != nil {
			t.Fatal(err)
		}
		b.bodies, b.stored = append(b.bodies, j), append(b.stored, hashes...)
	}
	s := ledger.NewTasks(shard, nil, add)
	if err := s.Restore(nil); err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	apply := func(c ledger.Command) {
		index++
		s.Apply(ledger.At{Index: index, Term: 1, TimeMillis: 1_790_000_000_000 + int64(index)}, c.Append(nil), nil)
	}
	for i := range n {
		if i == 2 {
			apply(&ledger.AuditFormat{Version: ledger.AuditFormatNow})
		}
		sp := ledger.Spec{Fleet: "default", Action: "vet", Target: "go:net/http", Guarantee: ledger.AtLeastOnce, LeaseMillis: 1000, Session: fmt.Sprintf("s\"%d\n", i%3), SubmittedBy: "ü"}
		id := ledger.NewTaskID(shard, 1_790_000_000_000, uint64(i))
		apply(&ledger.Submit{ID: id, RequestHash: ledger.RequestHash(&sp), Spec: sp})
		apply(&ledger.Complete{ID: id, Agent: "w1", Epoch: 1, Result: []byte(`{}`), StolenFrom: "w2", Node: "n1"})
	}
	return b
}

func export(c *Checkpoint, books ...*book) []byte {
	h := NewHeader(c, nil)
	out := h.Append(nil)
	for i, b := range books {
		l := Lines{Shard: b.shard}
		for _, body := range b.bodies[:c.Shards[i].Size] {
			r, err := ledger.DecodeRecord(body)
			if err != nil {
				panic(err)
			}
			out = l.Append(out, body, r)
		}
	}
	return out
}

type signer struct {
	note.Signer
	key string
}

func newSigner(t testing.TB, name string, seed byte) signer {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	vkey, err := note.NewEd25519VerifierKey(name, private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.SplitN(vkey, "+", 3)
	s, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%s+%s", name, parts[1], base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...))))
	if err != nil {
		t.Fatal(err)
	}
	return signer{s, vkey}
}

func sign(t testing.TB, c *Checkpoint, by ...signer) []byte {
	var s []note.Signer
	for _, x := range by {
		s = append(s, x)
	}
	b, err := note.Sign(&note.Note{Text: c.Text()}, s...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func twoBooks(t testing.TB) (*Checkpoint, []*book) {
	books := []*book{newBook(t, 0, 3), newBook(t, 1, 150)}
	c := &Checkpoint{Cluster: cluster, TimeMillis: 1_790_000_100_000}
	for _, b := range books {
		c.Shards = append(c.Shards, b.head(t, len(b.bodies)))
	}
	return c, books
}

func TestVerify(t *testing.T) {
	c, books := twoBooks(t)
	good := export(c, books...)
	rep, err := Verify(bytes.NewReader(good), c)
	if err != nil || rep.Records != c.Shards[0].Size+c.Shards[1].Size {
		t.Fatalf("%+v, %v", rep, err)
	}
	for _, l := range bytes.Split(good, []byte("\n"))[1:] { // each line is JSON
		var x struct {
			Time time.Time `json:"time"`
		}
		if len(l) > 0 && json.Unmarshal(l, &x) != nil {
			t.Fatalf("%s", l)
		}
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	lines = lines[:len(lines)-1]
	first := 1 + len(books[0].bodies) // line of record 1 of shard 1
	is := func(what string, b []byte, kind Kind, shard uint32, seq uint64) {
		t.Helper()
		_, err := Verify(bytes.NewReader(b), c)
		var f *Fault
		if !errors.As(err, &f) || f.Kind != kind || f.Shard != shard || f.Seq != seq {
			t.Errorf("%s: %v, want %s, shard %d record %d", what, err, kind, shard, seq)
		}
	}
	with := func(change func(l [][]byte) [][]byte) []byte {
		return bytes.Join(change(append([][]byte(nil), lines...)), nil)
	}
	for _, n := range []int{1, 2, 100, 255, 256} {
		at := first + n - 1
		if n > 256 {
			at++
		}
		is("missing", with(func(l [][]byte) [][]byte { return append(l[:at], l[at+1:]...) }), Missing, 1, uint64(n))
		is("twice", with(func(l [][]byte) [][]byte { return append(l[:at+1], append([][]byte{l[at]}, l[at+1:]...)...) }), map[bool]Kind{true: Reordered, false: Altered}[n != 256], 1, map[bool]uint64{true: uint64(n + 1), false: 1}[n != 256])
		is("cut", with(func(l [][]byte) [][]byte { return l[:at] }), Truncated, 1, uint64(n))
		is("cut within", good[:len(bytes.Join(lines[:at], nil))+40], Truncated, 1, uint64(n))
	}
	is("swapped", with(func(l [][]byte) [][]byte { l[first+9], l[first+10] = l[first+10], l[first+9]; return l }), Reordered, 1, 10)
	is("of another shard", with(func(l [][]byte) [][]byte { l[first] = l[1]; return l }), Reordered, 1, 1)
	other := newBook(t, 7, 1)
	is("foreign", with(func(l [][]byte) [][]byte { l[first] = appendRecord(other.bodies[0]); return l }), Foreign, 1, 1)
	is("behind", append(bytes.Clone(good), appendRecord(other.bodies[0])...), Altered, 0, 0)
	is("empty", nil, Truncated, 0, 0)
	// A record that another one stands for, with bytes, hash and words that fit.
	forged := *books[1]
	forged.bodies = append([][]byte(nil), forged.bodies...)
	r, _ := ledger.DecodeRecord(forged.bodies[20])
	r.Agent = "mallory"
	forged.bodies[20] = r.Append(nil)
	is("rewritten", with(func(l [][]byte) [][]byte { l[first+20] = appendRecord(forged.bodies[20]); return l }), Altered, 1, 1)
	is("rewritten with its milestones", export(c, books[0], &forged), Altered, 1, 257)
	older := *c
	older.Shards = []Head{c.Shards[0], books[1].head(t, 40)}
	if _, err := Verify(bytes.NewReader(good), &older); err == nil {
		t.Error("an export beyond its checkpoint")
	}
	foreign := *c
	foreign.Cluster[3] = 9
	_, err = Verify(bytes.NewReader(good), &foreign)
	var f *Fault
	if !errors.As(err, &f) || f.Kind != Foreign {
		t.Errorf("another cluster's checkpoint: %v", err)
	}
}

func appendRecord(body []byte) []byte {
	r, err := ledger.DecodeRecord(body)
	if err != nil {
		panic(err)
	}
	return AppendLine(nil, body, r)
}

// TestVerifySection: what was archived stays out, the rest verifies.
func TestVerifySection(t *testing.T) {
	c, books := twoBooks(t)
	for _, gone := range []uint64{1, 100, 255, 256, 300} {
		before, err := EdgeOf(gone, books[1])
		if err != nil {
			t.Fatal(err)
		}
		if before.Root() != books[1].head(t, int(gone)).Root {
			t.Fatalf("the peaks of %d records give another root", gone)
		}
		h := NewHeader(c, map[uint32]Tree{1: before})
		out := h.Append(nil)
		a, b := Lines{Shard: 0}, Lines{Shard: 1, Tree: before.Clone()}
		for _, x := range books[0].bodies {
			r, _ := ledger.DecodeRecord(x)
			out = a.Append(out, x, r)
		}
		for _, x := range books[1].bodies[gone:] {
			r, _ := ledger.DecodeRecord(x)
			out = b.Append(out, x, r)
		}
		if _, err := Verify(bytes.NewReader(out), c); err != nil {
			t.Errorf("%d gone: %v", gone, err)
		}
		bad := bytes.Replace(out, []byte(h.Shards[1].Frontier[0][:8]), []byte("00000000"), 1)
		if _, err := Verify(bytes.NewReader(bad), c); err == nil {
			t.Error("a forged frontier verifies")
		}
	}
}

// TestMutations: no byte of an export can be altered unseen.
func TestMutations(t *testing.T) {
	c, books := twoBooks(t)
	good := export(c, books...)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range *mutations {
		at, bit := rnd.IntN(len(good)), byte(1)<<rnd.IntN(8)
		good[at] ^= bit
		if _, err := Verify(bytes.NewReader(good), c); err == nil {
			t.Fatalf("byte %d altered by %#x: not seen", at, bit)
		}
		good[at] ^= bit
	}
}

func FuzzVerify(f *testing.F) {
	books := []*book{newBook(f, 0, 1), newBook(f, 1, 3)}
	c := &Checkpoint{Cluster: cluster}
	for _, b := range books {
		c.Shards = append(c.Shards, b.head(f, len(b.bodies)))
	}
	good := export(c, books...)
	f.Add(uint(10), byte(1))
	f.Add(uint(len(good)-1), byte(0x2a))
	f.Fuzz(func(t *testing.T, at uint, x byte) {
		if x == 0 {
			return
		}
		b := bytes.Clone(good)
		b[at%uint(len(b))] ^= x
		if _, err := Verify(bytes.NewReader(b), c); err == nil {
			t.Fatalf("byte %d altered by %#x: not seen", at%uint(len(b)), x)
		}
	})
}

func TestCheckpoint(t *testing.T) {
	c, _ := twoBooks(t)
	a, b, stranger := newSigner(t, "n1", 1), newSigner(t, "n2", 2), newSigner(t, "n3", 3)
	signed := sign(t, c, a, b)
	keys := []string{a.key, b.key, stranger.key}
	s, err := Open(signed, keys, 0)
	if err != nil || len(s.By) != 2 || s.Text() != c.Text() {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := Open(signed, keys, 3); err == nil {
		t.Error("two signatures pass for three")
	}
	if _, err := Open(sign(t, c, stranger), []string{a.key, b.key}, 0); err == nil {
		t.Error("a stranger's signature passes")
	}
	// Nodes that have left sign for nobody's majority.
	kept, current := ReadKeys("# keys\n" + Removed + a.key + "\n" + Removed + b.key + "\n" + stranger.key + "\n")
	if len(kept) != 3 || current != 1 {
		t.Fatalf("%d keys, %d current", len(kept), current)
	}
	if s, err := Open(signed, kept, 0); err == nil {
		t.Errorf("removed keys alone pass: %v", s.By)
	}
	if _, err := Open(sign(t, c, stranger), kept, 0); err != nil {
		t.Error(err)
	}
	if _, err := Open(signed, kept, 2); err != nil {
		t.Errorf("what was asked for: %v", err)
	}
	for i := range signed {
		x := bytes.Clone(signed)
		x[i] ^= 1
		if _, err := Open(x, keys[:2], 2); err == nil {
			t.Errorf("byte %d of the checkpoint altered: not seen", i)
		}
	}
	for _, text := range []string{"", "x\n", strings.Replace(c.Text(), "shard 1", "shard 0", 1), c.Text() + "more\n", strings.Replace(c.Text(), "time 1", "time +1", 1)} {
		if _, err := ParseCheckpoint(text); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestProofs(t *testing.T) {
	c, books := twoBooks(t)
	a := newSigner(t, "n1", 1)
	signed := sign(t, c, a)
	for _, n := range []int{1, 7, 256, len(books[1].bodies)} {
		b := proveRecord(t, books[1], n, c, signed)
		if _, _, err := VerifyRecord(b, nil, []string{a.key}, 1); err != nil {
			t.Fatal(err)
		}
		for _, x := range [][2]string{{`"path":["`, `"path":["00`}, {`"verb":"`, `"verb":"x`}, {`"size":`, `"size":1`}, {`"seq":`, `"seq":1`}, {`"version":1`, `"version":2`}} {
			if _, _, err := VerifyRecord(bytes.Replace(b, []byte(x[0]), []byte(x[1]), 1), nil, []string{a.key}, 1); err == nil {
				t.Errorf("%s altered: not seen", x[0])
			}
		}
	}
	for _, from := range []int{0, 1, 100, 301} {
		old, now := books[1].head(t, from), c.Shards[1]
		var path tlog.TreeProof
		if from > 0 {
			path, _ = tlog.ProveTree(int64(now.Size), int64(from), books[1])
		}
		p := NewConsistencyProof(old, now, path)
		if err := p.Check(old, now); err != nil {
			t.Errorf("from %d: %v", from, err)
		}
		old.Root[0] ^= 1
		if err := p.Check(old, now); (err == nil) != (from == 0) {
			t.Errorf("from %d with another root: %v", from, err)
		}
	}
}

func proveRecord(t testing.TB, b *book, n int, c *Checkpoint, signed []byte) []byte {
	path, err := tlog.ProveRecord(int64(c.Shards[1].Size), int64(n-1), b)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := ledger.DecodeRecord(b.bodies[n-1])
	out, err := json.Marshal(NewRecordProof(b.bodies[n-1], r, c.Shards[1].Size, path, signed))
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

// TestVectors holds that the vectors in testdata are what this package makes,
// and that an independent verifier agrees with it about them.
func TestVectors(t *testing.T) {
	c, books := twoBooks(t)
	a, b := newSigner(t, "n1", 1), newSigner(t, "n2", 2)
	signed := sign(t, c, a, b)
	var roots strings.Builder
	for _, n := range []int{0, 1, 2, 3, 4, 5, 7, 8, 255, 256, 257, 301} {
		h := books[1].head(t, n)
		fmt.Fprintf(&roots, "%d %x\n", n, h.Root[:])
	}
	path, _ := tlog.ProveTree(int64(c.Shards[1].Size), 100, books[1])
	consistency, _ := json.Marshal(NewConsistencyProof(books[1].head(t, 100), c.Shards[1], path))
	for name, want := range map[string][]byte{"export.jsonl": export(c, books...), "checkpoint": signed, "keys": []byte(a.key + "\n" + b.key + "\n"),
		"archive.jsonl": archived(t, c, books[1], 6, 260), "roots": []byte(roots.String()), "proof.json": proveRecord(t, books[1], 7, c, signed), "consistency.json": append(consistency, '\n')} {
		if *golden {
			if err := os.WriteFile("testdata/"+name, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile("testdata/" + name)
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s: %v, or its bytes have changed: the format is fixed", name, err)
		}
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3: the independent verifier was not run") // no part of Go
	}
	run := func(args ...string) ([]byte, error) {
		return exec.Command(python, append([]string{"verify.py"}, args...)...).CombinedOutput()
	}
	if out, err := run("testdata/export.jsonl", "testdata/checkpoint", "testdata/keys", "testdata/proof.json", "testdata/consistency.json"); err != nil {
		t.Errorf("verify.py: %v\n%s", err, out)
	}
	if out, err := run("testdata/archive.jsonl", "testdata/checkpoint", "testdata/keys"); err != nil || !bytes.Contains(out, []byte("255 records verify")) {
		t.Errorf("verify.py: an archive: %v\n%s", err, out)
	}
	good := export(c, books...)
	for i, from := range []int{0, len(good) / 3, len(good) / 2, 0} { // it has to be able to fail
		x := bytes.Clone(good)
		if i == 3 {
			x = archived(t, c, books[1], 6, 260)
		}
		at := from + bytes.Index(x[from:], []byte(lineStart)) + len(lineStart) + 30
		x[at] ^= 1
		name := t.TempDir() + "/export.jsonl"
		if err := os.WriteFile(name, x, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := run(name, "testdata/checkpoint", "testdata/keys"); err == nil {
			t.Errorf("verify.py does not see byte %d altered\n%s", at, out)
		}
	}
}

// TestTime holds appendTime against package time.
func TestTime(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 20000 {
		ms := rnd.Int64N(253402300800000)
		if i < 1000 {
			ms = int64(i) * 86_400_000 * 37
		}
		if got, want := string(appendTime(nil, ms)), time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Fatalf("%d: %s, want %s", ms, got, want)
		}
	}
}

// BenchmarkVerify: records an export has, and verifies, a second.
func BenchmarkVerify(b *testing.B) {
	book := newBook(b, 1, 20000)
	c := &Checkpoint{Cluster: cluster, Shards: []Head{book.head(b, len(book.bodies))}}
	n := float64(len(book.bodies))
	good := export(c, book)
	b.Run("export", func(b *testing.B) {
		for range b.N {
			export(c, book)
		}
		b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := Verify(bytes.NewReader(good), c); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
}
