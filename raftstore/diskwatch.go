package raftstore

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
)

// A disk that is about to be full, and one that takes too long, are no reason to stop: while less than
// Config.DiskReserveBytes is free, new work is refused and the reserve is left to what ends or removes work; while a
// log write is on its way for longer than Config.StallAfter, the shards led here are led by somebody else. A disk that
// is full for all that, or fails, stops the store.
const (
	spaceInterval   = time.Second // between two looks at the free space
	diskNoteKept    = 5 * time.Second
	stallRemembered = 10 * time.Second // leaderships do not come back sooner
)

// DiskHealth is how the disk under a store does.
type DiskHealth struct {
	FreeBytes    int64 // -1: the file system does not say
	ReserveBytes int64 // below it new work is refused; 0: never
	UsedBytes    int64 // in the data directory; 0 without a budget
	BudgetBytes  int64 // from seven eighths of it on new work is refused; 0: never
	Low          bool  // it is being refused
	Stalled      bool  // a log write takes too long, or did within the last ten seconds
	Stalls       uint64
	Pending      time.Duration // how long the log write that is waited for has been on its way
	Refused      uint64        // proposals refused with ErrDiskFull
}

// diskWatch is what a store knows about its own disk and its peers'.
type diskWatch struct {
	free    atomic.Int64
	used    atomic.Int64
	low     atomic.Bool
	stalled atomic.Bool
	stalls  atomic.Uint64
	refused atomic.Uint64
	trouble atomic.Bool // somebody's disk is low: proposals are looked at one by one
	mu      struct {
		sync.Mutex
		peers     map[uint64]diskNote
		lastStall time.Time
		lastHand  time.Time // when leaderships were last offered to others
		told      time.Time // when the peers were last told
		toldFlags byte
	}
}

type diskNote struct {
	flags byte
	at    time.Time
}

// Flags of a disk note. Between peers it is a message that no raft message can be (see noteByte):
//
//	0 u8, kind u8 (2), flags u8
const (
	noteDisk       = 2
	diskLow   byte = 1
	diskStall byte = 2
	diskFlags      = diskLow | diskStall
)

func decodeDiskNote(b []byte) (flags byte, err error) {
	if len(b) != 3 || b[2]&^diskFlags != 0 {
		return 0, fmt.Errorf("a disk note of %d bytes that is not known: %w", len(b), ErrMalformed)
	}
	return b[2], nil
}

// DiskHealth says how the disk does.
func (s *Store) DiskHealth() DiskHealth {
	w := &s.watch
	h := DiskHealth{FreeBytes: w.free.Load(), ReserveBytes: max(s.cfg.DiskReserveBytes, 0),
		UsedBytes: w.used.Load(), BudgetBytes: s.cfg.DiskBudgetBytes, Low: w.low.Load(), Stalled: w.stalled.Load(),
		Stalls: w.stalls.Load(), Refused: w.refused.Load()}
	for _, e := range s.env.engines {
		h.Pending = max(h.Pending, e.pendingSync(time.Now()))
	}
	return h
}

// pendingSync is how long the log write being waited for has been on its way. Any goroutine.
func (e *engine) pendingSync(now time.Time) time.Duration {
	if since := e.waiting.Load(); since != nil {
		return max(now.Sub(*since), 0)
	}
	return 0
}

// spaceLoop looks at the free space. It is a goroutine of its own because the file system may keep it waiting.
func (s *Store) spaceLoop() {
	t := s.ticker(spaceInterval)
	defer t.Stop()
	for {
		s.lookAtSpace()
		select {
		case <-t.C:
		case <-s.quit:
			return
		}
	}
}

func (s *Store) lookAtSpace() {
	w, reserve := &s.watch, s.cfg.DiskReserveBytes
	budget, over := s.cfg.DiskBudgetBytes, false
	if budget > 0 {
		used := diskBytes(s.fs, s.cfg.Dir)
		w.used.Store(used)
		limit := budget - budget/8 // the rest is for what ends or removes work
		if w.low.Load() {
			limit -= budget / 64
		}
		over = used > limit
	}
	free := int64(-1) // the file system does not say
	if usage, err := s.fs.GetDiskUsage(s.cfg.Dir); err == nil {
		free = int64(min(usage.AvailBytes, 1<<62))
	}
	w.free.Store(free)
	enough := reserve
	if w.low.Load() {
		enough += reserve / 8 // so that it does not come and go
	}
	if low := over || reserve > 0 && free >= 0 && free < enough; low != w.low.Swap(low) {
		if low {
			s.cfg.Logger.Error("raftstore: the disk is almost full: new work is refused", "layer", "L5", "free_bytes", free, "reserve_bytes", reserve,
				"used_bytes", w.used.Load(), "budget_bytes", budget)
		} else {
			s.cfg.Logger.Info("raftstore: the disk has room again", "layer", "L5", "free_bytes", free)
		}
	}
	s.updateTrouble(time.Now())
}

// diskBytes is what the files below dir hold. Files come and go meanwhile:
// what can't be read counts nothing.
func diskBytes(fs vfs.FS, dir string) (n int64) {
	names, err := fs.List(dir)
	if err != nil {
		return 0
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		switch info, err := fs.Stat(path); {
		case err != nil:
		case info.IsDir():
			n += diskBytes(fs, path)
		default:
			n += info.Size()
		}
	}
	return n
}

// updateTrouble forgets old notes of peers.
func (s *Store) updateTrouble(now time.Time) {
	w := &s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	trouble := w.low.Load()
	for id, n := range w.mu.peers {
		if now.Sub(n.at) > diskNoteKept {
			delete(w.mu.peers, id)
			continue
		}
		trouble = trouble || n.flags&diskLow != 0
	}
	w.trouble.Store(trouble)
}

func (s *Store) heardDisk(from uint64, flags byte) {
	w := &s.watch
	w.mu.Lock()
	if w.mu.peers == nil {
		w.mu.peers = map[uint64]diskNote{}
	}
	if flags == 0 {
		delete(w.mu.peers, from)
	} else {
		w.mu.peers[from] = diskNote{flags, time.Now()}
	}
	w.mu.Unlock()
	s.updateTrouble(time.Now())
}

// said tells whether a peer lately said so of its disk.
func (w *diskWatch) said(id uint64, flag byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, ok := w.mu.peers[id]
	return ok && n.flags&flag != 0 && time.Since(n.at) <= diskNoteKept
}

// full: new work for this shard is refused, because this node leads it and its disk is low, or because so many of the
// others' are that no majority has room.
func (s *Store) full(sh *shard) bool {
	st := sh.status.Load()
	if st.Leader != s.cfg.RaftID {
		return false // it is refused as not the leader
	}
	if s.watch.low.Load() {
		return true
	}
	room := 0
	for _, id := range st.Voters {
		if id == s.cfg.RaftID || !s.watch.said(id, diskLow) {
			room++
		}
	}
	return room <= len(st.Voters)/2
}

// refuseNew answers the new work among proposals, and returns the rest.
func (s *Store) refuseNew(sh *shard, ps []Proposal) []Proposal {
	if !slices.ContainsFunc(ps, func(p Proposal) bool { return p.New }) || !s.full(sh) {
		return ps
	}
	keep := make([]Proposal, 0, len(ps))
	for _, p := range ps {
		if p.New {
			s.watch.refused.Add(1)
			p.Done(Result{Err: ErrDiskFull})
		} else {
			keep = append(keep, p)
		}
	}
	return keep
}

// watchSyncs looks, every tick, whether the log is stuck.
func (s *Store) watchSyncs(now time.Time) {
	w := &s.watch
	stuck := false
	for _, e := range s.env.engines {
		stuck = stuck || e.pendingSync(now) > s.cfg.StallAfter
	}
	w.mu.Lock()
	if stuck {
		w.mu.lastStall = now
	}
	stalled := stuck || !w.mu.lastStall.IsZero() && now.Sub(w.mu.lastStall) < stallRemembered
	began := stalled && !w.stalled.Swap(stalled)
	if !stalled {
		w.stalled.Store(false)
	}
	offer := stuck && now.Sub(w.mu.lastHand) > time.Second
	if offer {
		w.mu.lastHand = now
	}
	w.mu.Unlock()
	if began {
		w.stalls.Add(1)
		s.cfg.Logger.Error("raftstore: the disk is stuck in a log write: leaderships are handed over", "layer", "L5", "after", s.cfg.StallAfter)
	}
	s.tellPeers(now)
	if !offer {
		return
	}
	for _, sh := range s.all() {
		sh.mail.call(sh.handOver)
	}
}

// tellPeers says how the disk does: at once when that changes, and every second while there is trouble.
func (s *Store) tellPeers(now time.Time) {
	w := &s.watch
	var flags byte
	if w.low.Load() {
		flags |= diskLow
	}
	if w.stalled.Load() {
		flags |= diskStall
	}
	w.mu.Lock()
	tell := flags != w.mu.toldFlags || flags != 0 && now.Sub(w.mu.told) >= time.Second
	if tell {
		w.mu.told, w.mu.toldFlags = now, flags
	}
	w.mu.Unlock()
	if !tell {
		return
	}
	told := map[uint64]bool{s.cfg.RaftID: true}
	for _, sh := range s.all() {
		st := sh.status.Load()
		for _, id := range slices.Concat(st.Voters, st.Learners) {
			if !told[id] {
				told[id] = true
				s.cfg.Transport.Send(id, sh.id, []byte{noteByte, noteDisk, flags})
			}
		}
	}
}

// handOver gives the leadership to the follower that has most, if one answers whose disk does not stand still too.
func (s *shard) handOver() {
	if s.replica.role != raft.StateLeader {
		return
	}
	best := s.replica.mostAdvanced(func(id uint64) bool { return s.env.watch.said(id, diskStall) })
	if best.RaftID == 0 {
		return
	}
	s.replica.TransferLeader(best.RaftID, func(err error) {
		if err != nil {
			s.env.log.Warn("raftstore: leadership not handed over", "layer", "L5", "shard", s.id, "peer", best.RaftID, "error", err)
		}
	})
}
