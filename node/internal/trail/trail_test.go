package trail

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/internal/files"
)

// memJournal has a record an offset.
type memJournal struct {
	records [][]byte
	floor   int64
	note    []byte
}

func (j *memJournal) Floor() (int64, []byte) { return j.floor, j.note }

// trim has the journal begin behind n records.
func (j *memJournal) trim(n int) {
	var t proof.Tree
	for _, b := range j.records[:n] {
		t.Append(proof.Leaf(b))
	}
	f := NewFloor(ledger.Head{Seq: uint64(n)}, t)
	j.floor, j.note = int64(n), f.Note()
}

func (j *memJournal) Size() int64 { return int64(len(j.records)) }

func (j *memJournal) Read(offset int64, fn func(offset, next int64, record []byte) bool) error {
	if offset < j.floor {
		return errors.New("trimmed")
	}
	for i := offset; i < int64(len(j.records)); i++ {
		if !fn(i, i+1, j.records[i]) {
			return nil
		}
	}
	return nil
}

func (j *memJournal) grow(n int) {
	for range n {
		b := make([]byte, 60)
		b[0] = 2
		binary.BigEndian.PutUint32(b[1:], 3)
		binary.BigEndian.PutUint64(b[5:], uint64(len(j.records)+1))
		b[50] = byte(len(j.records))
		j.records = append(j.records, b)
	}
}

func (j *memJournal) root(n int) tlog.Hash {
	var t proof.Tree
	for _, b := range j.records[:n] {
		t.Append(proof.Leaf(b))
	}
	return t.Root()
}

func open(t *testing.T, dir string, j *memJournal) *Log {
	t.Helper()
	l, err := OpenLog(files.FS{}, dir, 3, j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.mu.file.Close() })
	return l
}

func advance(t *testing.T, l *Log) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, err = l.Advance(); err != nil {
			t.Fatal(err)
		}
	}
}

func check(t *testing.T, l *Log, j *memJournal) {
	t.Helper()
	advance(t, l)
	n := len(j.records)
	if h := l.Head(); h.Size != uint64(n) || h.Root != j.root(n) {
		t.Fatalf("%d records, head %+v", n, h)
	}
	for _, size := range []int{0, 1, n / 2, n} {
		if h, err := l.HeadAt(uint64(size)); err != nil || h.Root != j.root(size) {
			t.Fatalf("at %d of %d: %v", size, n, err)
		}
	}
	if n > 1 {
		p, err := tlog.ProveRecord(int64(n), int64(n/2), l)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, int64(n), j.root(n), int64(n/2), proof.Leaf(j.records[n/2])); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLogRecovers: whatever a crash leaves of the hashes, they are the
// journal's afterwards.
func TestLogRecovers(t *testing.T) {
	j := &memJournal{}
	dir := t.TempDir()
	l := open(t, dir, j)
	for _, n := range []int{1, 1, 5, 100, passRecords + 3} {
		j.grow(n)
		check(t, l, j)
	}
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	j.grow(50)
	check(t, l, j) // hashed, and not saved
	damage := map[string]func(path string) error{
		"nothing":               func(string) error { return nil },
		"unsaved tail is gone":  func(p string) error { return os.Truncate(p, tlog.StoredHashCount(int64(l.saved.Size))*hashSize) },
		"unsaved tail is holes": func(p string) error { return zero(p, tlog.StoredHashCount(int64(l.saved.Size))*hashSize, 64) },
		"all is gone":           func(p string) error { return os.Truncate(p, 0) },
		"the last hash is bad":  func(p string) error { return zero(p, (tlog.StoredHashCount(int64(l.saved.Size))-1)*hashSize, 32) },
	}
	for name, do := range damage {
		if err := do(dir + "/0003.hashes"); err != nil {
			t.Fatal(err)
		}
		again := open(t, dir, j)
		check(t, again, j)
		if name == "nothing" && again.Bytes() == 0 {
			t.Error("hashed from the beginning")
		}
	}
	// The state a crash leaves the journal in: shorter, until it is replayed.
	short := &memJournal{records: j.records[:20]}
	again := open(t, dir, short)
	advance(t, again)
	if again.Head().Size < 20 {
		t.Error("a journal that is replayed takes durable hashes back")
	}
	short.records = j.records
	check(t, again, j)
}

func zero(path string, at int64, n int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, n), at)
		err = errors.Join(err, f.Close())
	}
	return err
}

// TestLogAltered: a journal that was rewritten does not pass, with the hashes
// there or without.
func TestLogAltered(t *testing.T) {
	j := &memJournal{}
	dir := t.TempDir()
	l := open(t, dir, j)
	j.grow(40)
	advance(t, l)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	j.records[17][55] ^= 1
	if err := os.Remove(dir + "/0003.hashes"); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir, j).Advance(); !errors.Is(err, ErrAltered) {
		t.Errorf("rewritten: %v", err)
	}
	j.records[17][55] ^= 1
	j.records[3], j.records[4] = j.records[4], j.records[3]
	if _, err := open(t, dir, j).Advance(); !errors.Is(err, ErrAltered) {
		t.Errorf("swapped: %v", err)
	}
	if err := os.WriteFile(dir+"/0003.tree", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLog(files.FS{}, dir, 3, j); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("a damaged mark: %v", err)
	}
}

func TestSigner(t *testing.T) {
	j := &memJournal{}
	j.grow(30)
	cluster := [16]byte{1}
	dir := t.TempDir()
	s, err := OpenSigner(files.FS{}, dir, "n1", 7, cluster)
	if err != nil {
		t.Fatal(err)
	}
	own := func(last, head proof.Head) error {
		for _, h := range []proof.Head{last, head} {
			if j.root(int(h.Size)) != h.Root {
				return ErrInconsistent
			}
		}
		return nil
	}
	at := func(n int) string {
		return (&proof.Checkpoint{Cluster: cluster, TimeMillis: 5, Shards: []proof.Head{{Shard: 3, Size: uint64(n), Root: j.root(n)}}}).Text()
	}
	line, err := s.Sign(at(10), own)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(s.Key())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open([]byte(at(10)+"\n"+line), note.VerifierList(v)); err != nil {
		t.Fatal(err)
	}
	// Another start: same key, and it remembers.
	s2, err := OpenSigner(files.FS{}, dir, "n1", 7, cluster)
	if err != nil || s2.Key() != s.Key() || len(s2.Last()) != 1 || s2.Last()[0].Size != 10 {
		t.Fatalf("%+v, %v", s2, err)
	}
	for _, n := range []int{10, 30, 20} { // further back is the same log
		if _, err := s2.Sign(at(n), own); err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
	if s2.Last()[0].Size != 30 {
		t.Errorf("%+v", s2.Last())
	}
	refusesForks(t, s2, cluster, own)
	if err := os.WriteFile(dir+"/signed", []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSigner(files.FS{}, dir, "n1", 7, cluster); err == nil {
		t.Error("forgot what it signed")
	}
}

// refusesForks: s2 has signed 30 records of one log, and signs no other.
func refusesForks(t *testing.T, s2 *Signer, cluster [16]byte, own Agrees) {
	t.Helper()
	other := &memJournal{}
	other.grow(40)
	other.records[5][55] ^= 1
	fork := (&proof.Checkpoint{Cluster: cluster, Shards: []proof.Head{{Shard: 3, Size: 40, Root: other.root(40)}}}).Text()
	withProof := func(last, head proof.Head) error {
		path, err := tlog.ProveTree(40, int64(last.Size), tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
			l := open(t, t.TempDir(), other)
			advance(t, l)
			return l.ReadHashes(idx)
		}))
		if err != nil {
			return err
		}
		p := proof.NewConsistencyProof(last, head, path)
		return p.Check(last, head)
	}
	if _, err := s2.Sign(fork, withProof); err == nil {
		t.Error("a forked log was signed")
	}
	elsewhere := proof.Checkpoint{Cluster: cluster, Shards: []proof.Head{{Shard: 9, Root: proof.EmptyRoot}}}
	if _, err := s2.Sign(elsewhere.Text(), own); err != nil || len(s2.Last()) != 2 {
		t.Errorf("another shard: %v, %+v", err, s2.Last())
	}
	if _, err := s2.Sign((&proof.Checkpoint{Cluster: [16]byte{2}}).Text(), own); !errors.Is(err, ErrInconsistent) {
		t.Errorf("another cluster: %v", err)
	}
}
