package raftstore

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// sizedFS is a file system that says how much is free.
type sizedFS struct {
	vfs.FS
	free atomic.Uint64
}

func (f *sizedFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free.Load()}, nil
}

const testReserve = 8000

// proposeNew sends new work to a node.
func (n *testNode) proposeNew(command string) error {
	ch := make(chan Result, 1)
	n.store.Load().Propose(0, []Proposal{{New: true, Command: []byte(command), Done: func(r Result) { ch <- r }}})
	return (<-ch).Err
}

// sizedCluster has exactly the reserve free everywhere. look has every node look at its disk now.
func sizedCluster(t *testing.T) (w *network, disks map[uint64]*sizedFS, look func()) {
	disks = map[uint64]*sizedFS{}
	w = newCluster(t, 3, 1, func(c *Config) {
		fs := &sizedFS{FS: c.FS}
		fs.free.Store(testReserve)
		disks[c.RaftID], c.FS, c.DiskReserveBytes = fs, fs, testReserve
	})
	w.must(0, "a=1")
	return w, disks, func() {
		for _, n := range w.nodes {
			s := n.store.Load()
			s.lookAtSpace()
			s.tellPeers(time.Now())
		}
	}
}

// TestDiskReserve: below the reserve new work is refused, and only that, until there is room again.
func TestDiskReserve(t *testing.T) {
	w, disks, look := sizedCluster(t)
	leader := w.leader(0)
	s := leader.store.Load()
	look()
	if err := leader.proposeNew("at=limit"); err != nil || s.DiskHealth().Low {
		t.Fatalf("with exactly the reserve free: %v", err)
	}
	disks[leader.id].free.Store(testReserve - 1)
	look()
	if err := leader.proposeNew("below=limit"); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("a byte below the reserve: %v", err)
	}
	if h := s.DiskHealth(); !h.Low || h.FreeBytes != testReserve-1 || h.ReserveBytes != testReserve || h.Refused != 1 {
		t.Errorf("health: %+v", h)
	}
	// What ends work goes through, also in one call with new work.
	results := make(chan Result, 2)
	s.Propose(0, []Proposal{
		{New: true, Command: []byte("mixed=new"), Done: func(r Result) { results <- r }},
		{Command: []byte("mixed=old"), Done: func(r Result) { results <- r }},
	})
	if first, second := <-results, <-results; !errors.Is(first.Err, ErrDiskFull) || second.Err != nil {
		t.Errorf("mixed: %v and %v", first.Err, second.Err)
	}
	if got := leader.toy(0).get("mixed"); got != "old" {
		t.Errorf("mixed = %q", got)
	}
	// A follower that is asked says who leads, not that its disk is full.
	for _, n := range w.nodes {
		var nl *NotLeaderError
		if n != leader {
			if err := n.proposeNew("x=1"); !errors.As(err, &nl) {
				t.Errorf("a follower: %v", err)
			}
		}
	}
	// A little more does not count as room again: it would come and go.
	disks[leader.id].free.Store(testReserve + testReserve/8 - 1)
	look()
	if err := leader.proposeNew("hardly=room"); !errors.Is(err, ErrDiskFull) {
		t.Errorf("hardly more than the reserve: %v", err)
	}
	disks[leader.id].free.Store(testReserve + testReserve/8)
	look()
	if err := leader.proposeNew("room=again"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestDiskReserveOfOthers: one follower short of space is its own trouble; two leave no majority with room.
func TestDiskReserveOfOthers(t *testing.T) {
	w, disks, look := sizedCluster(t)
	leader := w.leader(0)
	s := leader.store.Load()
	var followers []*testNode
	for _, n := range w.nodes {
		if n != leader {
			followers = append(followers, n)
		}
	}
	disks[followers[0].id].free.Store(1)
	look()
	eventually(t, "the leader hears of it", func() bool { return s.watch.said(followers[0].id, diskLow) })
	if err := leader.proposeNew("one=low"); err != nil {
		t.Errorf("one follower low: %v", err)
	}
	disks[followers[1].id].free.Store(1)
	look()
	eventually(t, "refusals", func() bool { return errors.Is(leader.proposeNew("two=low"), ErrDiskFull) })
	disks[followers[0].id].free.Store(1 << 20)
	disks[followers[1].id].free.Store(1 << 20)
	eventually(t, "room everywhere", func() bool { look(); return leader.proposeNew("all=well") == nil })
}

// TestDiskOfUnknownSize: a file system that does not say is not taken for a full one.
func TestDiskOfUnknownSize(t *testing.T) {
	l := newLone(t, nil)
	l.put(t, 1, 1)
	l.store.Load().lookAtSpace()
	if h := l.store.Load().DiskHealth(); h.Low || h.FreeBytes != -1 || h.ReserveBytes == 0 {
		t.Errorf("health: %+v", h)
	}
	if err := l.proposeNew("a=1"); err != nil {
		t.Error(err)
	}
}

func TestDiskNotes(t *testing.T) {
	w := newCluster(t, 1, 1, nil)
	s := w.nodes[1].store.Load()
	for _, bad := range [][]byte{{0, noteDisk}, {0, noteDisk, 4}, {0, noteDisk, 1, 0}, {0, 9, 1}} {
		if err := s.Step(0, 2, bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", bad, err)
		}
	}
	if err := s.Step(0, 2, []byte{0, noteDisk, diskStall}); err != nil || !s.watch.said(2, diskStall) || s.watch.said(2, diskLow) {
		t.Error(err)
	}
	if err := s.TransferLeader(t.Context(), 0, 2); err == nil || !strings.Contains(err.Error(), "stands still") {
		t.Errorf("handed over to a node whose disk stands still: %v", err)
	}
	if err := s.Step(0, 2, []byte{0, noteDisk, 0}); err != nil || s.watch.said(2, diskStall) {
		t.Error(err)
	}
	s.heardDisk(3, diskLow)
	s.updateTrouble(time.Now().Add(diskNoteKept + time.Second))
	if s.watch.said(3, diskLow) {
		t.Error("an old note is kept")
	}
}

// stall keeps log syncs waiting while it is on.
type stall struct {
	on      atomic.Bool
	once    sync.Once
	release chan struct{}
}

func (s *stall) end() {
	s.on.Store(false)
	s.once.Do(func() { close(s.release) })
}

func (s *stall) wrap(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if s.on.Load() && strings.HasPrefix(op.Path, "/data/log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			<-s.release
		}
		return nil
	}))
}

// TestStalledDisk: a leader whose log writes do not return is replaced, and nothing is lost on the way.
func TestStalledDisk(t *testing.T) {
	stalls := map[uint64]*stall{}
	w := newCluster(t, 3, 2, func(c *Config) {
		st := &stall{release: make(chan struct{})}
		stalls[c.RaftID], c.FS, c.StallAfter = st, st.wrap(c.FS), 60*time.Millisecond
	})
	acked := map[string]string{}
	put := func(shard uint32, i int) {
		k, v := fmt.Sprintf("s%dk%d", shard, i), fmt.Sprint(i)
		w.must(shard, k+"="+v)
		acked[k] = v
	}
	for i := range 50 {
		put(0, i)
		put(1, i)
	}
	old := w.leader(0)
	stalls[old.id].on.Store(true)
	defer stalls[old.id].end()
	start := time.Now()
	for i := 50; i < 100; i++ {
		put(0, i)
		put(1, i)
	}
	eventually(t, "other leaders", func() bool {
		for _, st := range old.store.Load().Status() {
			if st.Role == RoleLeader || st.Leader == 0 {
				return false
			}
		}
		return true
	})
	t.Logf("handed over within %v of the stall", time.Since(start))
	h := old.store.Load().DiskHealth()
	if !h.Stalled || h.Stalls != 1 || h.Pending == 0 {
		t.Errorf("health: %+v", h)
	}
	now := w.leader(0)
	eventually(t, "the new leader knows", func() bool { return now.store.Load().watch.said(old.id, diskStall) })
	if err := now.store.Load().TransferLeader(t.Context(), 0, old.id); err == nil {
		t.Error("leadership goes back to a disk that stands still")
	}
	stalls[old.id].end()
	for i := 100; i < 120; i++ {
		put(0, i)
		put(1, i)
	}
	w.converge(2)
	for k, v := range acked {
		shard := uint32(k[1] - '0')
		for _, n := range w.nodes {
			if got := n.toy(shard).get(k); got != v {
				t.Fatalf("node %d: %s = %q, acknowledged %q", n.id, k, got, v)
			}
		}
	}
}

// TestDiskBudget: with more than seven eighths of the budget in the directory new work is refused, and only that, until
// there is less.
func TestDiskBudget(t *testing.T) {
	const budget, slack = 64 << 20, 256 << 10 // slack: the store itself writes meanwhile
	w := newCluster(t, 1, 1, func(c *Config) { c.DiskReserveBytes, c.DiskBudgetBytes = -1, budget })
	w.must(0, "a=1")
	leader := w.leader(0)
	s := leader.store.Load()
	path := s.fs.PathJoin(s.cfg.Dir, "ballast")
	ballast := func(size int64) { // so much more than the store has itself
		t.Helper()
		f, err := s.fs.Create(path+".new", vfs.WriteCategoryUnspecified)
		if err == nil {
			_, err = f.Write(make([]byte, size))
		}
		// Renamed, because the store looks by itself as well: it must not see less for a moment.
		if err = errors.Join(err, f.Close(), s.fs.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	own := diskBytes(s.fs, s.cfg.Dir)
	if own == 0 {
		t.Fatal("nothing is counted")
	}
	for _, x := range []struct {
		size int64
		want error
	}{{budget - budget/8 - own - slack, nil}, {budget - budget/8 - own + slack, ErrDiskFull},
		{budget - budget/8 - own - slack, ErrDiskFull}, // it does not come and go
		{budget - budget/8 - budget/64 - own - slack, nil}} {
		ballast(x.size)
		eventually(t, fmt.Sprintf("%d bytes: %v", x.size, x.want), func() bool { // a look that began earlier saw two files
			s.lookAtSpace()
			return errors.Is(leader.proposeNew("b=1"), x.want)
		})
		w.must(0, "a=2")
	}
}
