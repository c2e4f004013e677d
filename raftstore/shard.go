package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// shardEnv is what the shards of a store share.
type shardEnv struct {
	cfg     *Config
	fs      vfs.FS
	watch   *diskWatch
	state   *stateDB
	log     *slog.Logger
	fatal   func(error)
	ctx     context.Context // ends when the store closes
	work    *sync.WaitGroup // checkpoint writers and snapshot senders
	group   *stateGroup     // writes state checkpoints
	senders chan struct{}   // the same for snapshot senders
	limit   *limiter        // of what they write
	engines []*engine
}

// engine is the one that drives a shard.
func (e *shardEnv) engine(shard uint32) *engine { return e.engines[int(shard)%len(e.engines)] }

// shard drives one replica. Everything not named otherwise belongs to its engine's goroutine.
type shard struct {
	env     *shardEnv
	id      uint32
	mail    *mailbox // everybody's
	replica *Replica
	machine Machine
	log     *shardLog
	journal *journal // see there
	reader  stateReader

	frozen   checkpoint // being written, index 0 for none
	cpTicks  int        // since the last checkpoint began
	cpSeq    uint64
	stopping bool
	leaving  bool // is about to be dropped
	ended    bool // stopped, and everything is in the state checkpoint
	active   bool // there may be something to do in this turn
	detached bool // installs a snapshot in a goroutine of its own, which has the shard until it is done

	demands []demand          // wait for a state checkpoint
	jobs    sync.WaitGroup    // its checkpoint writer and snapshot senders
	streams map[uint64]uint64 // peer → index of the snapshot on its way there: the log behind it stays
	staged  *stagedSnapshot   // offered to raft
	arrived *stagedSnapshot   // waits for the checkpoint being written

	digests *digests
	held    announcements
	beats   heartbeats

	offered         atomic.Pointer[journalBase] // what JournalBase said last
	applied, commit atomic.Uint64               // written by the goroutine, read by everybody
	status          atomic.Pointer[ShardStatus]
	done            chan struct{} // closed when its engine has ended
}

// newShard makes the replica; its machine is restored, its goroutine not started.
func newShard(env *shardEnv, id uint32, l *shardLog, j *journal, m Machine) (*shard, error) {
	s := &shard{
		env: env, id: id, log: l, journal: j, machine: m, reader: stateReader{env.state, id},
		mail:    newMailbox(env.cfg.MailboxCommands, env.cfg.MailboxBytes, env.engine(id).signal),
		streams: map[uint64]uint64{}, done: make(chan struct{}), digests: newDigests(env.cfg.RaftID, l.checkpoint.index), held: announcements{}, beats: heartbeats{held: map[uint64]*pb.Message{}, answers: map[uint64]*pb.Message{}},
	}
	cfg := env.cfg
	var err error
	s.replica, err = NewReplica(ReplicaConfig{
		Shard: id, ID: cfg.RaftID, Log: l, Machine: m, Applied: l.checkpoint.index, SilentUntil: l.silentUntil,
		Send: s.send, Install: s.install, NowMillis: func() int64 { return cfg.Now().UnixMilli() }, Digested: s.digested,
		ElectionTicks: cfg.ElectionTicks, HeartbeatTicks: cfg.HeartbeatTicks,
		MaxBatchCommands: cfg.MaxBatchCommands, MaxBatchBytes: cfg.MaxBatchBytes,
		MaxInflightEntries: cfg.MaxInflightEntries,
		Logger:             &raftLogger{env.log.With("shard", id)},
	})
	if err != nil {
		return nil, err
	}
	s.replica.queue.left = s.mail.left
	l.owner, l.sink = s, &env.engine(id).sink
	s.publish()
	return s, nil
}

// intake takes the mail. abort: end at once.
func (s *shard) intake() (abort bool, err error) {
	in := s.mail.take()
	// First of all: whatever ends this goroutine, the replica answers what it was given.
	s.replica.Propose(in.proposals)
	if in.abort {
		return true, nil
	}
	for _, fn := range in.calls {
		fn()
	}
	if s.stopping = s.stopping || in.stop; s.stopping {
		s.replica.Stop()
		s.ended = s.frozen.index == 0 && s.replica.applied == s.log.checkpoint.index
	} else if err := s.input(in); err != nil {
		return false, err
	}
	in.release()
	return false, nil
}

func (s *shard) input(in letters) error {
	for _, m := range in.messages {
		if err := s.step(m); err != nil {
			return err
		}
	}
	s.beats.due = s.beats.due || in.beat
	if in.tick {
		s.cpTicks++
		s.beats.quiet++
		s.replica.Tick()
	}
	return nil
}

func (s *shard) step(m *pb.Message) error {
	if len(m.GetEntries()) > 0 {
		s.beats.quiet = 0
	}
	err := s.replica.Step(m)
	if errors.Is(err, ErrMalformed) {
		s.env.log.Warn("raftstore: message refused", "layer", "L5", "shard", s.id, "peer", m.GetFrom(), "error", err)
		return nil
	}
	return err
}

// send passes a message on, at once or a little later; a snapshot becomes a stream.
func (s *shard) send(m *pb.Message) {
	if m.GetType() == pb.MsgSnap {
		s.startStream(m.GetTo(), m.GetTerm())
		return
	}
	if s.beats.take(m) {
		return
	}
	if s.held.take(m) {
		s.env.engine(s.id).armAnnounce()
		return
	}
	s.transmit(m)
}

// transmit marshals a message for the transport.
func (s *shard) transmit(m *pb.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("marshal %v: %v", m.GetType(), err))
	}
	s.env.cfg.Transport.Send(m.GetTo(), s.id, b)
}

// publish lets others see where the replica is. The full status is made once a tick and when something changes
// that people wait for.
func (s *shard) publish() {
	r := s.replica
	s.applied.Store(r.applied)
	s.commit.Store(r.commit)
	old := s.status.Load()
	if old != nil && old.statusTick == r.ticks && old.Term == r.term && old.Leader == r.lead && old.Role == roleOf(r.role) &&
		!r.confChanged && old.Ready == (r.ledTerm == r.term) && old.CheckpointIndex == s.log.checkpoint.index {
		return
	}
	st := &ShardStatus{
		Shard: s.id, Term: r.term, Leader: r.lead, Role: roleOf(r.role), Ready: r.ledTerm == r.term,
		FirstIndex: s.log.truncated + 1, LastIndex: s.log.last, CheckpointIndex: s.log.checkpoint.index,
		Voters: slices.Sorted(slices.Values(r.confState.GetVoters())), Learners: slices.Clone(r.confState.GetLearners()),
		JournalBytes: s.journal.Size(), JournalStart: s.journal.beginning().bytes, statusTick: r.ticks,
		AgreedIndex: s.digests.agreed, Differ: s.digests.differing(), DigestsEqual: s.digests.compared,
	}
	if r.role == raft.StateLeader {
		st.Followers = r.followers()
	}
	s.status.Store(st)
}

func roleOf(st raft.StateType) Role {
	switch st {
	case raft.StateLeader:
		return RoleLeader
	case raft.StateCandidate, raft.StatePreCandidate:
		return RoleCandidate
	}
	return RoleFollower
}

// ask runs fn on the shard's goroutine and waits for what it reports. fn's answer must come at last.
func ask[T any](ctx context.Context, s *shard, fn func(answer func(T, error))) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	var zero T
	if !s.mail.call(func() { fn(func(v T, err error) { ch <- result{v, err} }) }) {
		return zero, ErrStopped
	}
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
		return zero, ctx.Err()
	case <-s.done:
		select {
		case r := <-ch:
			return r.v, r.err
		default:
			return zero, ErrStopped
		}
	}
}

// maybeCheckpoint begins a state checkpoint when one is due and none is being written. One that is due may wait a
// tick for another shard's (later), or their freezes add up.
func (s *shard) maybeCheckpoint(later bool) bool {
	cfg := s.env.cfg
	idle := s.replica.applied == s.log.checkpoint.index && !s.journal.trimmed()
	if s.frozen.index == 0 && idle {
		s.awaitChanges()
	}
	if s.frozen.index != 0 || later && !s.stopping || idle || s.stopping && s.replica.applied == s.log.checkpoint.index {
		return false
	}
	due := time.Duration(s.cpTicks)*cfg.TickInterval >= cfg.CheckpointInterval || s.replica.appliedBytes >= cfg.CheckpointBytes ||
		s.replica.confChanged // a snapshot without its receiver among the members is refused
	if !due && !s.stopping && len(s.demands) == 0 {
		return false
	}
	start := time.Now()
	changes := s.machine.Freeze()
	if took := time.Since(start); took > freezeWarning {
		s.env.log.Warn("raftstore: slow freeze", "shard", s.id, "ms", took.Milliseconds())
	}
	s.cpTicks, s.replica.appliedBytes, s.replica.confChanged = 0, 0, false
	s.cpSeq++
	size, sum := s.journal.end()
	s.frozen = checkpoint{
		index: s.replica.applied, term: s.replica.appliedTerm, conf: s.replica.confState,
		journalBytes: size, journalSum: sum, floor: s.journal.wantedFloor(), machine: changes.Meta,
	}
	name, c := fmt.Sprintf("checkpoint-%d-%d", s.id, s.cpSeq), s.frozen
	s.background(func() { s.writeCheckpoint(name, changes, c) })
	return true
}

// awaitChanges has the first checkpoint of what is to come begin at the replica's part of the interval.
func (s *shard) awaitChanges() {
	part, of := checkpointPhase(s.env.cfg.RaftID, s.replica.confState.GetVoters())
	ticks := int(s.env.cfg.CheckpointInterval / s.env.cfg.TickInterval)
	s.cpTicks, s.replica.appliedBytes = ticks*part/of, s.env.cfg.CheckpointBytes*int64(part)/int64(of)
}

// background runs one of the shard's jobs; the store waits for it, and whoever drops the shard.
func (s *shard) background(fn func()) {
	s.jobs.Add(1)
	s.env.work.Go(func() {
		defer s.jobs.Done()
		fn()
	})
}

const freezeWarning = 20 * time.Millisecond

// writeCheckpoint runs in a goroutine of its own: journal first, then state and applied index in one ingest, perhaps
// together with those of other shards.
func (s *shard) writeCheckpoint(name string, changes Changes, c checkpoint) {
	err := s.env.group.put(&stateWrite{name: name, shard: s.id, changes: changes, c: c, prepare: func(w *stateWrite) error {
		ch := &w.changes
		puts := [][]KV{ch.Puts}
		for more := ch.More != nil; more; {
			var part Changes
			part.Puts, part.Deletes, more = ch.More()
			puts, ch.Deletes = append(puts, part.Puts), append(ch.Deletes, part.Deletes...)
			runtime.Gosched() // or the turn of this goroutine ends within More, and Apply waits for its lock meanwhile
			s.env.group.pace.rest()
		}
		ch.Puts = slices.Concat(puts...)
		return s.journal.sync()
	}})
	if err != nil {
		s.env.fatal(fmt.Errorf("shard %d: state checkpoint: %w", s.id, err))
		return
	}
	if durable := changes.Durable; durable != nil {
		changes = Changes{} // the rows are written: let go of them before anything else
		for durable() {
			runtime.Gosched() // as above
		}
	}
	s.mail.call(s.checkpointWritten)
}

func (s *shard) checkpointWritten() {
	s.log.checkpoint, s.frozen = s.frozen, checkpoint{}
	s.machine.Thaw()
	if err := s.journal.drop(s.log.checkpoint.floor); err != nil { // what is left is deleted at the next open
		s.env.log.Warn("raftstore: journal files were not deleted", "layer", "L5", "shard", s.id, "error", err)
	}
	s.meetDemands()
	if err := s.truncateLog(); err != nil {
		s.env.fatal(fmt.Errorf("shard %d: truncate log: %w", s.id, err))
	}
}

// truncateLog drops entries that the checkpoint covers, but keeps some for peers that lag a little: sending them is
// cheaper than a snapshot.
func (s *shard) truncateLog() error {
	cfg := s.env.cfg
	target := s.log.checkpoint.index - min(s.log.checkpoint.index, cfg.LogRetainEntries)
	target = min(target, s.replica.slowestActive(s.log.last-min(s.log.last, cfg.LogRetainMax)))
	for _, index := range s.streams {
		target = min(target, index)
	}
	// Each truncation leaves a range tombstone: not one for every few entries.
	if step := 1 + min(cfg.LogRetainEntries/8, 64); target < s.log.truncated+step {
		return nil
	}
	return s.log.truncate(target)
}

// raftLogger passes raft's warnings on and the rest as debugging.
type raftLogger struct{ log *slog.Logger }

func (l *raftLogger) at(level slog.Level, format string, args []any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	text := fmt.Sprint(args...)
	if format != "" {
		text = fmt.Sprintf(format, args...)
	}
	l.log.Log(context.Background(), level, "raft: "+text)
}

func (l *raftLogger) Debug(v ...any)                 { l.at(slog.LevelDebug, "", v) }
func (l *raftLogger) Debugf(format string, v ...any) { l.at(slog.LevelDebug, format, v) }

func (l *raftLogger) Info(v ...any)                    { l.at(slog.LevelDebug, "", v) }
func (l *raftLogger) Infof(format string, v ...any)    { l.at(slog.LevelDebug, format, v) }
func (l *raftLogger) Warning(v ...any)                 { l.at(slog.LevelDebug, "", v) }
func (l *raftLogger) Warningf(format string, v ...any) { l.at(slog.LevelDebug, format, v) }
func (l *raftLogger) Error(v ...any)                   { l.at(slog.LevelWarn, "", v) }
func (l *raftLogger) Errorf(format string, v ...any)   { l.at(slog.LevelWarn, format, v) }
func (l *raftLogger) Fatal(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l *raftLogger) Fatalf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
func (l *raftLogger) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l *raftLogger) Panicf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
