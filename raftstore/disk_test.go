package raftstore

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// lone is a cluster of one, and what it acknowledged.
type lone struct {
	*testNode
	acked map[string]string
}

func newLone(t *testing.T, change func(*Config)) *lone {
	w := newCluster(t, 1, 1, change)
	return &lone{w.nodes[1], map[string]string{}}
}

func (l *lone) put(t *testing.T, n, size int) {
	t.Helper()
	for i := range n {
		k, v := fmt.Sprintf("k%d", len(l.acked)), fmt.Sprint(i, strings.Repeat("v", size))
		l.net.must(0, k+"="+v)
		l.acked[k] = v
	}
}

// reopen opens a disk and says whether everything acknowledged is there. An error means that the store refused.
func (l *lone) reopen(t *testing.T, fs *vfs.MemFS) error {
	t.Helper()
	cfg := l.cfg
	cfg.FS = fs
	var fatal atomic.Value
	cfg.OnFatal = func(err error) { fatal.CompareAndSwap(nil, err) }
	var toy *toyMachine
	cfg.Machine = func(shard uint32, r Reader, j Journal) (Machine, error) {
		m, err := newToy(shard, r, j)
		toy = m.(*toyMachine)
		return m, err
	}
	s, err := Open(cfg)
	if err != nil {
		return err
	}
	s.Start()
	eventually(t, "a leader or a stop", func() bool { return fatal.Load() != nil || s.Status()[0].Ready })
	if err := s.stop(true); err != nil {
		return err
	}
	for k, v := range l.acked {
		if got := toy.get(k); got != v {
			t.Fatalf("%s = %.20q, acknowledged %.20q: a silent loss", k, got, v)
		}
	}
	return nil
}

// files lists those under dir whose names end so.
func files(t *testing.T, fs vfs.FS, dir, suffix string) []string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names) // MemFS lists in no order
	var out []string
	for _, n := range names {
		if strings.HasSuffix(n, suffix) {
			out = append(out, fs.PathJoin(dir, n))
		}
	}
	return out
}

func fileSize(t *testing.T, fs vfs.FS, name string) int64 {
	t.Helper()
	st, err := fs.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

func flipBit(t *testing.T, fs vfs.FS, name string, at int64) {
	t.Helper()
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	b[0] ^= 1 << (at % 8)
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func rewrite(t *testing.T, fs vfs.FS, name string, content []byte) {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func never(c *Config) { c.CheckpointInterval = time.Hour }

// copyFS makes an independent copy of a crash clone.
func copyFS(fs *vfs.MemFS) *vfs.MemFS { return fs.CrashClone(vfs.CrashCloneCfg{}) }

// TestDamagedLog flips bits in, and cuts, the write-ahead log of a store that never checkpointed: it must refuse to
// open or have lost nothing.
func TestDamagedLog(t *testing.T) {
	l := newLone(t, never)
	l.put(t, 300, 400) // four blocks of 32 KiB
	if err := l.store.Load().marks.flush(); err != nil {
		t.Fatal(err)
	}
	disk := l.clone()
	if err := l.reopen(t, copyFS(disk)); err != nil {
		t.Fatal(err)
	}
	wal, size := "", int64(0)
	for _, f := range files(t, disk, "/data/log", ".log") {
		if n := fileSize(t, disk, f); n > size {
			wal, size = f, n
		}
	}
	if size < 100<<10 {
		t.Fatalf("%s has %d bytes", wal, size)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 60 {
		fs := copyFS(disk)
		at := rng.Int64N(size)
		flipBit(t, fs, wal, at)
		if err := l.reopen(t, fs); err != nil {
			refused++
		}
	}
	t.Logf("bit flips: %d of 60 refused, the others did no harm", refused)
	if refused < 40 {
		t.Errorf("only %d of 60 flipped bits were noticed", refused)
	}
	content, err := readFile(disk, wal)
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		fs := copyFS(disk)
		keep := rng.Int64N(size - 1000)
		rewrite(t, fs, wal, content[:keep])
		if err := l.reopen(t, fs); err == nil {
			t.Errorf("opened with a log cut to %d of %d bytes", keep, size)
		}
	}
}

// TestFirstLog: the very first write-ahead log of a fresh store is made before the format version is raised. Damage
// in what Bootstrap wrote must be noticed all the same.
func TestFirstLog(t *testing.T) {
	l := newLone(t, never)
	l.put(t, 150, 400)
	disk := l.clone()
	wals := files(t, disk, "/data/log", ".log")
	for _, wal := range wals {
		// Anything but the last block: its damage looks like a torn write, which the marks are for.
		size := fileSize(t, disk, wal) - 33<<10
		for at := int64(20); at < size; at += size/20 + 1 {
			fs := copyFS(disk)
			flipBit(t, fs, wal, at)
			_ = l.reopen(t, fs) // fails the test if something is lost
		}
	}
}

func TestMarks(t *testing.T) {
	l := newLone(t, never)
	l.put(t, 20, 10)
	if err := l.store.Load().marks.flush(); err != nil {
		t.Fatal(err)
	}
	disk := l.clone()
	refuse := func(what, want string, change func(fs *vfs.MemFS)) {
		t.Helper()
		fs := copyFS(disk)
		change(fs)
		err := l.reopen(t, fs)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refuse("flipped", "checksum", func(fs *vfs.MemFS) { flipBit(t, fs, "/data/marks", 20) })
	refuse("missing", "marks", func(fs *vfs.MemFS) { _ = fs.Remove("/data/marks") })
	refuse("log gone", "high-water", func(fs *vfs.MemFS) { _ = fs.RemoveAll("/data/log") })
	refuse("state gone", "checkpoint", func(fs *vfs.MemFS) { _ = fs.RemoveAll("/data/state") })
	for _, m := range []struct {
		change func(*mark)
		want   string
	}{
		{func(m *mark) { m.last += 1 }, "it lost its end"},
		{func(m *mark) { m.term += 1 }, "it lost its end"},
		{func(m *mark) { m.vote += 1 }, "vote"},
	} {
		refuse("mark beyond the log", m.want, func(fs *vfs.MemFS) {
			marks, err := readMarks(fs, "/data", 1)
			if err != nil {
				t.Fatal(err)
			}
			v := marks.mu.now[0]
			m.change(&v)
			marks.raise(0, v)
			if err := marks.flush(); err != nil {
				t.Fatal(err)
			}
		})
	}
	l.cfg.RaftID = 2
	refuse("other raft ID", "belongs to raft ID 1", func(*vfs.MemFS) {})
}

func TestDamagedState(t *testing.T) {
	l := newLone(t, nil)
	l.put(t, 300, 300)
	eventually(t, "a checkpoint", func() bool {
		st := l.store.Load().Status()[0]
		return st.CheckpointIndex == st.Applied
	})
	disk := l.clone()
	rng := rand.New(rand.NewPCG(3, 4))
	refused := 0
	tables := files(t, disk, "/data/state", ".sst")
	for range 40 {
		name := tables[rng.IntN(len(tables))]
		fs := copyFS(disk)
		flipBit(t, fs, name, rng.Int64N(fileSize(t, fs, name)))
		if err := l.reopen(t, fs); err != nil {
			refused++
		}
	}
	t.Logf("flips in tables: %d of 40 refused", refused)
	if refused < 10 {
		t.Error("damaged tables were not noticed")
	}
	fs := copyFS(disk)
	rewrite(t, fs, "/data/journal/0000.qj", []byte("short"))
	if err := l.reopen(t, fs); !errors.Is(err, ErrCorrupt) {
		t.Errorf("short journal: %v", err)
	}
}

func TestDamagedJournal(t *testing.T) {
	l := newLone(t, nil)
	l.put(t, 50, 100)
	var offsets []int64
	j := l.store.Load().Journal(0)
	if err := j.Read(0, func(at, next int64, record []byte) bool {
		offsets = append(offsets, at)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(offsets) != 50 {
		t.Fatalf("%d records", len(offsets))
	}
	flipBit(t, l.cfg.FS, "/data/journal/0000.qj", offsets[30]+12)
	n := 0
	err := j.Read(0, func(int64, int64, []byte) bool { n++; return true })
	if !errors.Is(err, ErrCorrupt) || n != 30 || !strings.Contains(err.Error(), fmt.Sprintf("offset %d:", offsets[30])) {
		t.Fatalf("%d records, then %v", n, err)
	}
	if err := j.Read(offsets[31], func(at, _ int64, _ []byte) bool { return at != offsets[40] }); err != nil {
		t.Fatal(err)
	}
	if err := j.Read(offsets[5]+1, func(int64, int64, []byte) bool { return true }); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read from the middle of a record: %v", err)
	}
	if err := j.Read(j.Size()+1, func(int64, int64, []byte) bool { return true }); err == nil {
		t.Fatal("read from beyond the end")
	}
}

// TestFsyncFailure: after a failed fsync nothing is acknowledged, and the store stops with a reason.
func TestFsyncFailure(t *testing.T) {
	for _, where := range []string{"/data/log", "/data/state", "/data/staging", "/data/journal", "/data/marks"} {
		testFsyncFailure(t, where, "")
	}
	testFsyncFailure(t, "/data/log", ".sst") // Pebble's own tables, which it would write anew
}

func testFsyncFailure(t *testing.T, where, suffix string) {
	t.Run(where[6:]+suffix, func(t *testing.T) {
		var broken atomic.Bool
		l := newLone(t, func(c *Config) {
			c.MemTableBytes = 256 << 10 // so that it is flushed soon
			c.FS = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				if broken.Load() && strings.HasPrefix(op.Path, where) && strings.HasSuffix(op.Path, suffix) &&
					(op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
					return errors.New("no fsync today")
				}
				return nil
			}))
		})
		l.put(t, 5, 10)
		broken.Store(true)
		s := l.store.Load()
		var err error
		eventually(t, "the store stops", func() bool {
			r := l.propose(0, "a="+strings.Repeat("1", 8<<10))
			if where == "/data/log" && suffix == "" && r.Err == nil {
				t.Fatal("acknowledged without fsync")
			}
			select {
			case err = <-l.fatal:
				return true
			default:
				return false
			}
		})
		if !strings.Contains(err.Error(), "no fsync today") {
			t.Fatalf("reason: %v", err)
		}
		eventually(t, "refusals", func() bool { return errors.Is(l.propose(0, "b=2").Err, ErrStopped) })
		l.store.Store(nil)
		if err := s.Close(); err == nil {
			t.Error("closed without an error")
		}
	})
}

// TestDirectoryFsyncFailure: the directory of the log can't be synced when there is a new log in it, where Pebble would
// end the process; or when there is a new table, which Pebble would write anew.
func TestDirectoryFsyncFailure(t *testing.T) {
	for _, where := range []string{"/data/log", "/data/state"} {
		t.Run(where[6:], func(t *testing.T) {
			var broken atomic.Bool
			l := newLone(t, func(c *Config) {
				c.MemTableBytes = 256 << 10
				c.CheckpointInterval = 20 * time.Millisecond
				c.FS = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
					if broken.Load() && op.Path == where && op.Kind == errorfs.OpFileSync {
						return errors.New("no fsync today")
					}
					return nil
				}))
			})
			l.put(t, 5, 10)
			broken.Store(true)
			s := l.store.Load()
			stop := make(chan struct{})
			go func() { // the last one may wait for good
				for {
					select {
					case <-stop:
						return
					default:
						l.propose(0, "a="+strings.Repeat("1", 8<<10))
					}
				}
			}()
			err := <-l.fatal
			close(stop)
			if !strings.Contains(err.Error(), "fsync of "+where+": no fsync today") {
				t.Errorf("reason: %v", err)
			}
			eventually(t, "refusals", func() bool { return errors.Is(l.propose(0, "b=2").Err, ErrStopped) })
			l.store.Store(nil)
			if err := s.Close(); err == nil {
				t.Error("closed without an error")
			}
		})
	}
}

// anywhere proposes on one node after the other until one acknowledges.
func (w *network) anywhere(command string) bool {
	for id := range uint64(len(w.nodes)) {
		if w.nodes[id+1].propose(0, command).Err == nil {
			return true
		}
	}
	return false
}

// TestPowerCuts crashes whole clusters at random moments under load, with part of the unsynced data surviving.
// Everything acknowledged must survive.
func TestPowerCuts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newCluster(t, 3, 1, func(c *Config) { shortLog(c); c.CheckpointInterval = 20 * time.Millisecond })
	var mu sync.Mutex
	acked, next := map[string]string{}, 0
	for range 6 {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					mu.Lock()
					next++
					key := fmt.Sprintf("k%d", next)
					mu.Unlock()
					if w.anywhere(key + "=" + key) {
						mu.Lock()
						acked[key] = key
						mu.Unlock()
					}
				}
			})
		}
		count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
		target := count() + 50 + rng.IntN(300)
		eventually(t, "progress", func() bool { return count() > target })
		// All at once: nothing acknowledged after its node's clone counts, so take what is acknowledged before.
		mu.Lock()
		before := maps.Clone(acked)
		mu.Unlock()
		for id := range w.nodes {
			w.setCut(id, true) // what a node says after its clone nobody may hear
		}
		clones := map[uint64]*vfs.MemFS{}
		percent := rng.IntN(101)
		for id, n := range w.nodes {
			clones[id] = n.cfg.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		}
		close(stop)
		for _, n := range w.nodes {
			if err := n.store.Swap(nil).stop(true); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
		acked = before // the writers are gone
		for id := range w.nodes {
			w.setCut(id, false)
		}
		for id, n := range w.nodes {
			n.cfg.FS = clones[id]
			n.open(t)
		}
		w.must(0, "alive=1")
		w.converge(1)
		for k, v := range acked {
			if got := w.nodes[1].toy(0).get(k); got != v {
				t.Fatalf("%s = %q, acknowledged %q (unsynced data kept: %d %%)", k, got, v, percent)
			}
		}
	}
	t.Logf("%d commands acknowledged", len(acked))
}
