package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

// journalModel drives a journal as a shard does, with crashes, and knows what must be there.
type journalModel struct {
	t    *testing.T
	rnd  *rand.Rand
	fs   *vfs.MemFS
	j    *journal
	recs []string // all that ever were
	at   []int64  // where each starts
	cp   checkpoint
	n    int // records as of cp
}

func (m *journalModel) open() {
	var err error
	if m.j, err = openJournal(m.fs, "j", 7, m.cp, 256, func(err error) { m.t.Error(err) }); err != nil {
		m.t.Fatal(err)
	}
	for i := m.n; i < len(m.recs); i++ { // replay
		m.j.Append([]byte(m.recs[i]))
	}
	m.check()
}

func (m *journalModel) append() {
	r := strings.Repeat("r", 1+m.rnd.IntN(90)) + fmt.Sprint(len(m.recs))
	m.recs, m.at = append(m.recs, r), append(m.at, m.j.Size())
	m.j.Append([]byte(r))
}

// checkpoint does what a shard does: fixed, synced, written (or not, when the crash comes before), dropped.
func (m *journalModel) checkpoint(written, dropped bool) {
	c := checkpoint{index: 1, term: 1, journalBytes: m.j.Size(), journalSum: sumOf(m.j), floor: m.j.wantedFloor()}
	n := len(m.recs)
	for range m.rnd.IntN(4) {
		m.append() // applying goes on
	}
	if err := m.j.sync(); err != nil {
		m.t.Fatal(err)
	}
	if written {
		m.cp, m.n = c, n
	}
	if dropped {
		if err := m.j.drop(c.floor); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *journalModel) trim() {
	starts := m.j.starts()
	at := starts[m.rnd.IntN(len(starts))]
	if err := m.j.trim(at, []byte(fmt.Sprint(at))); err != nil {
		m.t.Fatal(err)
	}
}

func (m *journalModel) crash() {
	m.fs = m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: m.rnd.IntN(101), RNG: m.rnd})
	_ = m.j.close()
	m.open()
}

// check reads all that must be there, from anywhere.
func (m *journalModel) check() {
	floor := m.j.beginning()
	if string(floor.note) != "" && string(floor.note) != fmt.Sprint(floor.bytes) || floor.bytes > 0 && floor.note == nil {
		m.t.Fatalf("floor %d has note %q", floor.bytes, floor.note)
	}
	first, ok := slices.BinarySearch(append(slices.Clone(m.at), m.j.Size()), floor.bytes)
	if !ok {
		m.t.Fatalf("it begins at %d, within a record", floor.bytes)
	}
	if first < len(m.recs) {
		first += m.rnd.IntN(len(m.recs) - first)
	}
	i := first
	from := m.j.Size()
	if first < len(m.recs) {
		from = m.at[first]
	}
	if err := m.j.Read(from, func(at, _ int64, r []byte) bool {
		if i >= len(m.recs) || string(r) != m.recs[i] || at != m.at[i] {
			m.t.Fatalf("record %d at %d: %.20q", i, at, r)
		}
		i++
		return true
	}); err != nil || i != len(m.recs) {
		m.t.Fatalf("from %d: %d of %d records: %v", first, i, len(m.recs), err)
	}
	if start := m.j.starts()[0]; start > 0 {
		if err := m.j.Read(m.rnd.Int64N(start), func(int64, int64, []byte) bool { return true }); !errors.Is(err, ErrTrimmed) {
			m.t.Fatalf("what is gone: %v", err)
		}
	}
	segs, size, err := m.j.acquire()
	if err != nil {
		m.t.Fatal(err)
	}
	if sum, err := sumJournal(segs, size); err != nil || sum != sumOf(m.j) {
		m.t.Fatalf("sum %x, %x kept: %v", sum, sumOf(m.j), err)
	}
	if err := m.j.release(segs); err != nil {
		m.t.Fatal(err)
	}
}

// TestJournalSegments appends, checkpoints, trims, cuts, pins and crashes a journal at random.
func TestJournalSegments(t *testing.T) {
	for seed := range uint64(300) {
		m := &journalModel{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), fs: vfs.NewCrashableMem(), cp: checkpoint{index: 1, term: 1}}
		if err := errors.Join(m.fs.MkdirAll("j", 0o755), syncDir(m.fs, "")); err != nil {
			t.Fatal(err)
		}
		m.open()
		unpin := func() {}
		for range 60 {
			switch m.rnd.IntN(12) {
			case 0:
				m.trim()
			case 1:
				if err := m.j.roll(); err != nil {
					t.Fatal(err)
				}
			case 2:
				m.checkpoint(true, true)
			case 3:
				m.checkpoint(m.rnd.IntN(2) == 0, false)
				m.crash()
				unpin = func() {}
			case 4:
				m.crash()
				unpin = func() {}
			case 5:
				unpin()
				unpin = m.j.pin()
			case 6:
				unpin()
				unpin = func() {}
			default:
				m.append()
			}
			m.check()
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		_ = m.j.close()
	}
}

// TestJournalOneFile: a journal of one file, as there was before there were segments, goes on.
func TestJournalOneFile(t *testing.T) {
	fs := vfs.NewMem()
	open := func(c checkpoint, segment int64) *journal {
		t.Helper()
		j, err := openJournal(fs, "", 3, c, segment, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open(checkpoint{}, 1<<30)
	for i := range 100 {
		j.Append(fmt.Append(nil, "old ", i))
	}
	c := checkpoint{journalBytes: j.Size(), journalSum: sumOf(j)}
	if err := errors.Join(j.sync(), j.close()); err != nil {
		t.Fatal(err)
	}
	if names, _ := fs.List(""); !slices.Equal(names, []string{"0003.qj"}) {
		t.Fatal(names)
	}
	j = open(c, 128)
	for i := range 50 {
		j.Append(fmt.Append(nil, "new ", i))
	}
	if got := journalRecords(t, j); len(got) != 150 || got[99] != "old 99" || got[100] != "new 0" {
		t.Fatalf("%d records", len(got))
	}
	if n := len(j.starts()); n < 2 {
		t.Fatalf("%d files", n)
	}
	at := j.starts()[1]
	for _, c := range []struct {
		at   int64
		note int
		ok   bool
	}{{at, maxFloorNote + 1, false}, {at - 1, 1, false}, {at + 1, 1, false}, {1 << 40, 1, false}, {0, 1, true}, {at, maxFloorNote, true}, {at - 1, 1, true}} {
		if err := j.trim(c.at, make([]byte, c.note)); (err == nil) != c.ok {
			t.Errorf("trim to %d, note of %d bytes: %v", c.at, c.note, err)
		}
	}
	if err := j.drop(j.wantedFloor()); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Stat("0003.qj"); err == nil {
		t.Error("the first file was not deleted")
	}
	// A file that is missing in the middle is damage, not an end.
	c = checkpoint{journalBytes: j.Size(), journalSum: sumOf(j), floor: j.wantedFloor()}
	names := j.starts()
	_ = j.close()
	if len(names) < 3 {
		t.Fatal(names)
	}
	all, err := listSegments(fs, "", 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Remove(all[1].path); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(fs, "", 3, c, 128, func(error) {}); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
}

// TestCheckpointFloor: the two versions, and every damaged byte.
func TestCheckpointFloor(t *testing.T) {
	conf := &pb.ConfState{Voters: []uint64{1}}
	for _, c := range []checkpoint{
		{conf: conf, index: 4, term: 2, journalBytes: 9, journalSum: 3, machine: []byte("m")},
		{conf: conf, index: 4, term: 2, journalBytes: 9, whole: true},
		{conf: conf, index: 4, term: 2, journalBytes: 9, floor: journalFloor{journalBase{9, 5}, []byte("gone")}},
		{conf: conf, index: 4, term: 2, journalBytes: 9, floor: journalFloor{journalBase{8, 5}, nil}, whole: true, machine: []byte{}},
	} {
		b, err := encodeCheckpoint(c)
		if err != nil {
			t.Fatal(err)
		}
		if want := c.floor.bytes > 0 || c.whole; (b[0] == checkpointFloor) != want {
			t.Errorf("%+v is written as version %d", c, b[0])
		}
		got, err := decodeCheckpoint(b)
		again, _ := encodeCheckpoint(got)
		if err != nil || !bytes.Equal(again, b) || got.floor.journalBase != c.floor.journalBase || string(got.floor.note) != string(c.floor.note) || got.whole != c.whole {
			t.Errorf("%+v became %+v: %v", c, got, err)
		}
		for i := range b {
			for _, bad := range [][]byte{b[:i], append(slices.Clone(b[:i]), append([]byte{b[i] ^ 1}, b[i+1:]...)...)} {
				if _, err := decodeCheckpoint(bad); err == nil {
					t.Errorf("byte %d of %d", i, len(b))
				}
			}
		}
	}
	c := checkpoint{conf: conf, index: 4, term: 2, journalBytes: 9, floor: journalFloor{journalBase{10, 5}, nil}}
	b, _ := encodeCheckpoint(c)
	if _, err := decodeCheckpoint(b); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a journal that begins behind its end: %v", err)
	}
}

func smallFiles(c *Config) { shortLog(c); c.JournalSegmentBytes = 2048 }

// trimTo gives up a node's journal up to its last file but some.
func (n *testNode) trimTo(tb testing.TB, but int) int64 {
	tb.Helper()
	s := n.store.Load()
	var at int64
	eventually(tb, "files to trim", func() bool {
		if err := s.CutJournal(0); err != nil {
			tb.Fatal(err)
		}
		list := s.JournalFiles(0)
		if len(list) <= but+1 {
			n.net.must(0, "more=1")
			return false
		}
		at = list[len(list)-1-but]
		return true
	})
	if err := s.TrimJournal(0, at, []byte("gone")); err != nil {
		tb.Fatal(err)
	}
	eventually(tb, "trimmed", func() bool { // also while nothing is written
		start, note := s.JournalFloor(0)
		return start >= at && string(note) == "gone" && s.JournalFiles(0)[0] == start
	})
	return at
}

// TestTrimmedSnapshot: a node that was away gets what is left of the journal from one that has trimmed it.
func TestTrimmedSnapshot(t *testing.T) {
	w := newCluster(t, 3, 1, smallFiles)
	w.must(0, "a=1")
	w.converge(1)
	var away *testNode
	for _, n := range w.nodes {
		if n != w.leader(0) {
			away = n
		}
	}
	away.crash(t)
	w.fillPast()
	for _, n := range w.nodes {
		if n != away {
			n.trimTo(t, 1+int(n.id)%2)
		}
	}
	away.open(t)
	w.converge(1)
	if start, note := away.store.Load().JournalFloor(0); start == 0 || string(note) != "gone" {
		t.Fatalf("it begins at %d, note %q", start, note)
	}
	away.crash(t)
	away.open(t)
	w.must(0, "again=1")
	w.converge(1)
	// It lacks the end only, and trims itself while others do: what it has goes on.
	for range 2 {
		away.crash(t)
		w.fillPast()
		away.open(t)
		w.converge(1)
		away.trimTo(t, 0)
		w.must(0, "more=1")
		w.leader(0).trimTo(t, 0)
	}
	for _, n := range w.nodes {
		n.crash(t)
	}
	for _, n := range w.nodes {
		n.open(t)
	}
	w.must(0, "end=1")
	w.converge(1)
}

// TestTrimmedInstallCrash crashes a receiver after every step of an installation, with files of its own about.
func TestTrimmedInstallCrash(t *testing.T) {
	for _, step := range []string{"noted", "journal", "replaced", "state"} {
		for _, how := range []string{"end", "whole", "trimmed"} {
			t.Run(step+"/"+how, func(t *testing.T) {
				w := newCluster(t, 3, 1, smallFiles)
				w.mute = how == "whole"
				var away *testNode
				for i := range 100 {
					w.must(0, fmt.Sprintf("k%d=%d", i, i))
				}
				w.converge(1)
				for _, n := range w.nodes {
					if n != w.leader(0) {
						away = n
					}
				}
				away.crash(t)
				w.fillPast()
				if how == "trimmed" {
					for _, n := range w.nodes {
						if n != away {
							n.trimTo(t, 1)
						}
					}
				}
				died := make(chan struct{})
				var once sync.Once
				away.cfg.OnFatal = func(error) { once.Do(func() { close(died) }) }
				installStep = func(s string) error {
					if s == step {
						return errors.New("crash here")
					}
					return nil
				}
				away.open(t)
				select {
				case <-died:
				case <-time.After(testTimeout):
					t.Fatal("nothing was installed")
				}
				crashed := away.clone()
				if err := away.store.Swap(nil).Close(); err == nil {
					t.Fatal("a failed store closed without an error")
				}
				installStep = nil
				away.cfg.FS = crashed
				away.cfg.OnFatal = func(err error) { t.Error(err) }
				away.open(t)
				w.must(0, "b=2")
				w.converge(1)
			})
		}
	}
}

func sumOf(j *journal) uint32 {
	_, sum := j.end()
	return sum
}
