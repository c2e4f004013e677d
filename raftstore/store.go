package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// marksInterval is how far the high-water marks may trail the log.
const marksInterval = time.Second

// Store holds the replicas of this process: a few engines that drive them, one write-ahead log for all of them.
type Store struct {
	*disk
	env     shardEnv
	shards  atomic.Pointer[[]*shard] // by number, nil where there is none; replaced, never changed
	cancel  context.CancelFunc
	onFatal func(error)
	work    sync.WaitGroup // checkpoint writers, snapshot senders
	loops   sync.WaitGroup // ticker, marks writer

	started   atomic.Bool
	admin     sync.Mutex // held by Bootstrap, Create and Drop
	watch     diskWatch
	receiving sync.Map      // shard → true while a snapshot for it is being received
	quit      chan struct{} // closed by Close
	failed    chan struct{} // closed by the first fatal error
	life      struct {
		sync.Mutex
		closed bool
		opened bool
		err    error // the fatal one
	}
}

// Open opens what is in cfg.Dir and checks it. A fresh directory gives a store without shards. Damage, data of
// another raft ID, or a log shorter than its high-water mark is an error.
func Open(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("raftstore: config: %w", err)
	}
	s := &Store{onFatal: cfg.OnFatal, quit: make(chan struct{}), failed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	err := s.guard(func() error {
		d, err := openDisk(cfg, s.fatal)
		if err != nil {
			return err
		}
		s.life.Lock() // a database may fail in the background already
		s.env = shardEnv{
			cfg: &d.cfg, fs: d.fs, watch: &s.watch, state: d.state, log: cfg.Logger, fatal: s.fatal, ctx: ctx, work: &s.work,
			group: newStateGroup(newPacer(d.cfg.CheckpointInterval/2), d.state.write), senders: make(chan struct{}, maxSenders),
			limit: &limiter{perSecond: cfg.SnapshotBytesPerSecond},
		}
		for range d.cfg.Engines {
			e := newEngine(&s.env)
			e.sink.db = d.logDB
			s.env.engines = append(s.env.engines, e)
		}
		s.disk = d
		s.life.Unlock()
		if err := s.openShards(d.present); err != nil {
			return errors.Join(err, s.closeFiles())
		}
		return nil
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("raftstore: open %s: %w", cfg.Dir, err)
	}
	return s, nil
}

// guard runs fn in a goroutine that Pebble's fatal errors may end, and waits for it.
func (s *Store) guard(fn func() error) error {
	ch := make(chan error, 1)
	go func() {
		finished := false
		var err error
		defer func() {
			if !finished {
				s.life.Lock()
				err = s.life.err
				s.life.Unlock()
			}
			ch <- err
		}()
		err = fn()
		finished = true
	}()
	return <-ch
}

func (s *Store) closeFiles() error {
	var err error
	for _, sh := range s.all() {
		err = errors.Join(err, sh.journal.close())
	}
	return errors.Join(err, s.disk.close())
}

func (s *Store) openShards(ids []uint32) error {
	shards := make([]*shard, 0, len(ids))
	for _, id := range ids {
		sh, err := s.openShard(id)
		if err != nil {
			for _, sh := range shards {
				err = errors.Join(err, sh.journal.close())
			}
			return fmt.Errorf("shard %d: %w", id, err)
		}
		shards = append(shards, sh)
	}
	s.life.Lock()
	defer s.life.Unlock()
	if s.life.err != nil {
		for _, sh := range shards {
			_ = sh.journal.close() // the fatal error is the one to report
		}
		return s.life.err
	}
	s.place(shards...)
	s.life.opened = true
	return nil
}

func (s *Store) openShard(id uint32) (*shard, error) {
	l, j, err := s.disk.openShard(id)
	if err != nil {
		return nil, err
	}
	r := stateReader{s.state, id}
	m, err := s.cfg.Machine(id, r, j)
	if err == nil {
		err = m.Restore(r, l.checkpoint.machine)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("machine: %w", err), j.close())
	}
	sh, err := newShard(&s.env, id, l, j, m)
	if err != nil {
		return nil, errors.Join(err, j.close())
	}
	return sh, nil
}

// Bootstrap creates shards 0..shards-1, replicated by voters, in a fresh directory. It is durable when it returns.
// Every voter must do the same with the same arguments. It refuses when shards exist already. Call it before Start.
func (s *Store) Bootstrap(shards uint32, voters []uint64) error {
	if s.disk.known || s.started.Load() {
		return fmt.Errorf("raftstore: bootstrap: there are %d shards already", len(s.all()))
	}
	if shards == 0 || shards > MaxShards || !slices.Contains(voters, s.cfg.RaftID) || slices.Contains(voters, 0) {
		return fmt.Errorf("raftstore: bootstrap: %d shards on voters %x, this is %x", shards, voters, s.cfg.RaftID)
	}
	voters = slices.Compact(slices.Sorted(slices.Values(voters)))
	s.admin.Lock()
	defer s.admin.Unlock()
	err := s.guard(func() error {
		if err := s.disk.bootstrap(shards, voters); err != nil {
			return err
		}
		return s.openShards(s.disk.present)
	})
	if err != nil {
		return fmt.Errorf("raftstore: bootstrap: %w", err)
	}
	return nil
}

// Start starts the goroutines. Step and Receive work from then on.
func (s *Store) Start() {
	if s.started.Swap(true) {
		return
	}
	for _, sh := range s.all() {
		e := s.env.engine(sh.id)
		e.shards = append(e.shards, sh)
	}
	for _, e := range s.env.engines {
		go e.run() // joined through done
	}
	s.loops.Go(s.tickLoop)
	s.loops.Go(s.marksLoop)
	s.loops.Go(s.spaceLoop)
}

// ticker is time.NewTicker on the process's beat.
func (s *Store) ticker(interval time.Duration) *time.Ticker {
	t := time.NewTimer(UntilBeat(time.Now(), s.cfg.RaftID))
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.quit:
	}
	return time.NewTicker(interval)
}

// tickLoop gives every shard its ticks. A shard that is busy for longer gets one, not all it missed: a replica that
// was stuck must hear from its leader before it believes that it lost it.
func (s *Store) tickLoop() {
	t := s.ticker(s.cfg.TickInterval)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-t.C:
			for _, sh := range s.all() {
				sh.mail.tick(n%s.cfg.HeartbeatTicks == 0)
			}
			for _, e := range s.env.engines {
				e.signal()
			}
			s.watchSyncs(time.Now())
		case <-s.quit:
			return
		}
	}
}

func (s *Store) marksLoop() {
	t := s.ticker(marksInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := s.marks.flush(); err != nil {
				s.fatal(fmt.Errorf("high-water marks: %w", err))
				return
			}
		case <-s.quit:
			return
		}
	}
}

// fatal stops the store for good.
func (s *Store) fatal(err error) {
	err = fmt.Errorf("raftstore: %w", err)
	s.life.Lock()
	first := s.life.err == nil
	if first {
		s.life.err = err
		close(s.failed)
	}
	shards, engines, opened := s.all(), s.env.engines, s.life.opened
	s.life.Unlock()
	if !first {
		return
	}
	for _, sh := range shards {
		sh.mail.finish(true)
	}
	for _, e := range engines {
		e.finish(true)
	}
	if opened { // otherwise Open fails with it
		s.onFatal(err)
	}
}

// shard finds one; nil when there is none.
func (s *Store) shard(id uint32) *shard {
	table := s.shards.Load()
	if table == nil || int64(id) >= int64(len(*table)) {
		return nil
	}
	return (*table)[id]
}

func (s *Store) running(id uint32) (*shard, error) {
	sh := s.shard(id)
	if sh == nil {
		return nil, fmt.Errorf("raftstore: shard %d: %w", id, ErrNoShard)
	}
	if !s.started.Load() {
		return nil, fmt.Errorf("raftstore: shard %d: %w", id, ErrStopped)
	}
	return sh, nil
}

// Shards lists the shards of this process in ascending order.
func (s *Store) Shards() []uint32 {
	shards := s.all()
	ids := make([]uint32, len(shards))
	for i, sh := range shards {
		ids[i] = sh.id
	}
	return ids
}

// Propose queues commands on a shard and never blocks. Each Done is called exactly once.
func (s *Store) Propose(shard uint32, ps []Proposal) {
	sh, err := s.running(shard)
	if err != nil {
		for _, p := range ps {
			p.Done(Result{Err: err})
		}
		return
	}
	if s.watch.trouble.Load() {
		ps = s.refuseNew(sh, ps)
	}
	sh.mail.propose(ps, s.cfg.MaxCommandBytes)
}

// ReadIndex is the linearizable barrier: it returns when this replica, the leader, has applied everything that was
// acknowledged anywhere before the call.
func (s *Store) ReadIndex(ctx context.Context, shard uint32) (index uint64, err error) {
	sh, err := s.running(shard)
	if err != nil {
		return 0, err
	}
	return ask(ctx, sh, func(answer func(uint64, error)) { sh.replica.Read(answer) })
}

// WaitApplied returns when this replica has applied index.
func (s *Store) WaitApplied(ctx context.Context, shard uint32, index uint64) error {
	sh, err := s.running(shard)
	if err != nil {
		return err
	}
	if sh.applied.Load() >= index {
		return nil
	}
	_, err = ask(ctx, sh, func(answer func(struct{}, error)) {
		sh.replica.Await(index, func(err error) {
			sh.publish() // so that Status does not lag behind what was waited for
			answer(struct{}{}, err)
		})
	})
	return err
}

// Step takes in a raft message. Malformed ones are refused and change nothing. msg is not kept.
func (s *Store) Step(shard uint32, from uint64, msg []byte) error {
	sh, err := s.running(shard)
	if err != nil {
		return err
	}
	if isNote(msg) {
		if err := s.note(sh, from, msg); err != nil {
			return fmt.Errorf("raftstore: shard %d: note from %x: %w", shard, from, err)
		}
		return nil
	}
	m, err := decodeMessage(s.cfg.RaftID, from, msg)
	if err != nil {
		return fmt.Errorf("raftstore: shard %d: message: %w", shard, err)
	}
	sh.mail.message(m, len(msg))
	return nil
}

// PeerDown says that the connection to a peer broke: shards it leads look for another leader at once.
func (s *Store) PeerDown(raftID uint64) {
	for _, sh := range s.all() {
		sh.mail.call(func() { sh.replica.PeerDown(raftID) })
	}
}

// Receive takes in a snapshot stream. A damaged or truncated one is refused and changes nothing.
func (s *Store) Receive(from uint64, r io.Reader) error {
	if !s.started.Load() {
		return fmt.Errorf("raftstore: snapshot from %x: %w", from, ErrStopped)
	}
	g := &stagedSnapshot{from: from, fs: s.fs}
	g.accept = func(h snapshotHeader) error {
		sh := s.shard(h.shard)
		if sh == nil {
			return fmt.Errorf("shard %d: %w", h.shard, ErrNoShard)
		}
		offered := sh.offered.Load()
		if h.base.bytes > 0 && (offered == nil || *offered != h.base) {
			return fmt.Errorf("shard %d: a journal from byte %d on, which was not asked for: %w", h.shard, h.base.bytes, ErrMalformed)
		}
		if _, busy := s.receiving.LoadOrStore(h.shard, true); busy {
			return fmt.Errorf("shard %d: another snapshot is being received", h.shard)
		}
		g.shard, g.claimed = h.shard, true
		g.unpin = sh.journal.pin() // what the stream goes on from must be there when it is installed
		if g.ownFloor = sh.journal.beginning(); h.base.bytes > 0 && g.ownFloor.bytes > h.base.bytes {
			return fmt.Errorf("shard %d: the journal in front of byte %d was trimmed meanwhile", h.shard, h.base.bytes)
		}
		g.tables = tableSet{d: s.state, name: fmt.Sprintf("snapshot-%d", h.shard)}
		return nil
	}
	defer func() {
		if g.claimed {
			g.unpin()
			s.receiving.Delete(g.shard)
		}
	}()
	err := readSnapshot(r, g)
	if err == nil {
		err = g.finish()
	}
	if err != nil {
		g.discard()
		return fmt.Errorf("raftstore: snapshot from %x: %w", from, err)
	}
	sh := s.shard(g.shard)
	if sh == nil { // dropped meanwhile
		g.discard()
		return fmt.Errorf("raftstore: snapshot from %x: shard %d: %w", from, g.shard, ErrNoShard)
	}
	_, err = ask(s.env.ctx, sh, func(answer func(struct{}, error)) { g.answer, sh.arrived = answer, g })
	if err != nil {
		return fmt.Errorf("raftstore: snapshot from %x: %w", from, err)
	}
	return nil
}

// TransferLeader hands the leadership of a shard over and returns when the other is known to lead, or with what was in
// the way (*NotLeaderError, *TransferError, ErrStopped); proposals wait meanwhile, for an election timeout at most.
func (s *Store) TransferLeader(ctx context.Context, shard uint32, to uint64) error {
	sh, err := s.running(shard)
	if err != nil {
		return err
	}
	if s.watch.said(to, diskStall) {
		return &TransferError{Shard: shard, To: to, Reason: "its disk stands still"}
	}
	_, err = ask(ctx, sh, func(answer func(struct{}, error)) {
		sh.replica.TransferLeader(to, func(err error) {
			sh.publish() // so that Status does not lag behind
			answer(struct{}{}, err)
		})
	})
	return err
}

// Status describes every shard. It never blocks.
func (s *Store) Status() []ShardStatus {
	shards := s.all()
	all := make([]ShardStatus, len(shards))
	for i, sh := range shards {
		all[i] = sh.describe()
	}
	return all
}

// ShardStatus describes one shard; false when there is no replica of it here.
func (s *Store) ShardStatus(shard uint32) (ShardStatus, bool) {
	if sh := s.shard(shard); sh != nil {
		return sh.describe(), true
	}
	return ShardStatus{}, false
}

func (s *shard) describe() ShardStatus {
	st := *s.status.Load()
	st.Commit, st.Applied = s.commit.Load(), s.applied.Load()
	st.QueuedCommands = s.mail.queued()
	return st
}

// Reader reads the checkpointed state of a shard; nil when there is none.
func (s *Store) Reader(shard uint32) Reader {
	if sh := s.shard(shard); sh != nil {
		return sh.reader
	}
	return nil
}

// Journal is the journal of a shard; nil when there is none.
func (s *Store) Journal(shard uint32) Journal {
	if sh := s.shard(shard); sh != nil {
		return sh.journal
	}
	return nil
}
