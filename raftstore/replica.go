package raftstore

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Limits handed to raft.
const (
	maxAppendBytes      = 1 << 20  // of entries in one append message (one larger entry goes alone)
	maxInflightMessages = 64       // append messages to one peer not yet acknowledged: at most 64 MiB
	maxUncommittedBytes = 64 << 20 // of the leader's uncommitted tail; beyond it proposals wait in the mailbox
	maxApplyBytes       = 4 << 20  // of committed entries in one step
	leaderlessTicks     = 5        // commands wait this long for a leader to emerge: two rounds of early campaigns
)

// Log is where a Replica keeps its entries and its hard state.
type Log interface {
	raft.Storage
	// Append stores the hard state, if not nil, and entries, replacing what is stored from the first one's index
	// on. It may return before they are durable.
	Append(hs *pb.HardState, entries []*pb.Entry) error
	// Sync calls then once everything appended so far is durable: at once, or later on the goroutine that drives
	// the replica, but in the order of the calls to Sync.
	Sync(then func()) error
}

// ReplicaConfig configures a Replica. All fields but Digested and Logger are required.
type ReplicaConfig struct {
	Shard   uint32
	ID      uint64
	Log     Log
	Machine Machine // restored to Applied
	Applied uint64
	// SilentUntil: the replica has no part in elections before it has applied that index; see Replica.silent.
	SilentUntil uint64

	// Send passes a message on. Only a MsgSnap needs an answer: ReportSnapshot.
	Send func(m *pb.Message)
	// Install replaces log, hard state and machine by the snapshot that was stepped in, durably.
	Install func(s *pb.Snapshot, hs *pb.HardState) error
	// NowMillis stamps entries.
	NowMillis func() int64
	// Digested, unless nil, comes after every digestEvery-th entry was applied. Its error stops the replica.
	Digested func(index uint64) error

	ElectionTicks, HeartbeatTicks   int
	MaxBatchCommands, MaxBatchBytes int
	MaxInflightEntries              int
	Logger                          raft.Logger
}

// Replica is one member of one raft group: raft, the fate of proposals, linearizable reads and the application of
// entries, all synchronous. It has no goroutine and no clock, and does I/O through ReplicaConfig only. Give it input
// (Tick, Step, Propose, …), then call Process.
type Replica struct {
	cfg       ReplicaConfig
	rn        *raft.RawNode
	confState *pb.ConfState

	term, commit uint64 // as of the last Ready
	lead         uint64
	role         raft.StateType
	ledTerm      uint64 // the term Machine.Lead was last called with, 0 after Follow

	applied, appliedTerm uint64
	appliedBytes         int64       // of entries, since the driver reset it
	committed            *pb.Message // by Collect, to be applied
	commands             [][]byte    // scratch

	queue   proposalQueue
	pending pendingBatches
	reads   readQueue
	waits   []appliedWait

	ticks      uint64
	leaderless int               // ticks since no leader is known
	heard      map[uint64]uint64 // peer → tick of its last answer
	acked      map[uint64]acknowledged
	campaign   campaignPlan
	held       votesHeld
	spoke      map[uint64]heardMessage // peer → its last message while no leader was known
	denials    map[uint64]denial

	transfer    *transfer
	change      *pendingChange
	confChanged bool // since the driver reset it
}

type appliedWait struct {
	index uint64
	done  func(error)
}

// NewReplica starts from what the log and the machine hold.
func NewReplica(cfg ReplicaConfig) (*Replica, error) {
	hs, cs, err := cfg.Log.InitialState()
	if err != nil {
		return nil, err
	}
	appliedTerm, err := cfg.Log.Term(cfg.Applied)
	if err != nil && !errors.Is(err, raft.ErrCompacted) {
		return nil, fmt.Errorf("term of applied index %d: %w", cfg.Applied, err)
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: cfg.ID, ElectionTick: cfg.ElectionTicks, HeartbeatTick: cfg.HeartbeatTicks,
		Storage: cfg.Log, Applied: cfg.Applied, AsyncStorageWrites: true,
		MaxSizePerMsg: maxAppendBytes, MaxCommittedSizePerReady: maxApplyBytes,
		MaxUncommittedEntriesSize: maxUncommittedBytes, MaxInflightMsgs: maxInflightMessages,
		CheckQuorum: true, PreVote: true, StepDownOnRemoval: true,
		DisableProposalForwarding: true, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	r := &Replica{
		cfg: cfg, rn: rn, confState: cs,
		term: hs.GetTerm(), commit: hs.GetCommit(),
		applied: cfg.Applied, appliedTerm: appliedTerm,
		heard: make(map[uint64]uint64), acked: make(map[uint64]acknowledged), spoke: make(map[uint64]heardMessage), denials: make(map[uint64]denial),
	}
	r.queue.maxCommands, r.queue.maxBytes = cfg.MaxBatchCommands, cfg.MaxBatchBytes
	return r, nil
}

// Tick advances raft's clock.
func (r *Replica) Tick() {
	r.ticks++
	if !r.silent() {
		r.rn.Tick() // which may call an election
		r.tickCampaign()
	}
	r.tickTransfer()
	r.tickChange()
	r.queue.held = false
	if r.lead == 0 {
		r.leaderless++
	}
	r.reads.tick(uint64(r.cfg.ElectionTicks))
	// A command whose entry is undecided this long after leadership was lost is answered: nobody may wait for ever.
	if r.role != raft.StateLeader && r.pending.len() > 0 {
		if r.pending.orphanTicks++; r.pending.orphanTicks > 2*r.cfg.ElectionTicks {
			r.pending.failAll(ErrUnknown)
		}
	}
}

// Step takes in a message from a peer. The message is the replica's from then on. An error wrapping ErrMalformed
// refuses the message and leaves everything as it was; any other means that this replica must stop.
func (r *Replica) Step(m *pb.Message) error {
	if err := r.check(m); err != nil {
		return err
	}
	switch m.GetType() {
	case pb.MsgAppResp, pb.MsgHeartbeatResp:
		r.heard[m.GetFrom()] = r.ticks
		if m.GetType() == pb.MsgAppResp {
			r.noteAppended(m)
		}
	case pb.MsgVote, pb.MsgPreVote, pb.MsgTimeoutNow:
		if r.silent() {
			return nil
		}
	}
	if r.lead == 0 {
		r.spoke[m.GetFrom()] = heardMessage{m.GetType().String(), m.GetTerm(), r.ticks}
	}
	err := r.rn.Step(m)
	if err == nil || errors.Is(err, raft.ErrProposalDropped) {
		return nil
	}
	if errors.Is(err, raft.ErrStepPeerNotFound) || errors.Is(err, raft.ErrStepLocalMsg) {
		return fmt.Errorf("%v: %w", err, ErrMalformed)
	}
	return err
}

// Propose queues commands; Process packs and proposes them, or refuses them when this replica does not lead.
func (r *Replica) Propose(ps []Proposal) { r.queue.push(ps) }

// Read asks for a linearizable read index. done runs in Process once everything up to it is applied.
func (r *Replica) Read(done func(index uint64, err error)) { r.reads.push(done) }

// Await runs done once index is applied here, possibly at once.
func (r *Replica) Await(index uint64, done func(error)) {
	if index <= r.applied {
		done(nil)
		return
	}
	r.waits = append(r.waits, appliedWait{index, done})
}

// ReportSnapshot ends what a MsgSnap began, for better or worse.
func (r *Replica) ReportSnapshot(to uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	r.rn.ReportSnapshot(to, status)
}

// Stop answers everything that still waits.
func (r *Replica) Stop() {
	r.pending.failAll(ErrUnknown)
	r.queue.refuseAll(ErrStopped)
	r.reads.failAll(ErrStopped)
	for _, w := range r.waits {
		w.done(ErrStopped)
	}
	r.waits = nil
	r.finishTransfer(ErrStopped)
	r.stopChange()
}

// leads says whether raft takes this replica for the leader.
func (r *Replica) leads() bool { return r.role == raft.StateLeader }

// choosing: there is no leader, but probably there is one soon. Commands and reads wait that long, because most
// handovers take milliseconds and a refusal that names nobody helps nobody.
func (r *Replica) choosing() bool { return r.lead == 0 && r.leaderless < leaderlessTicks }

func (r *Replica) notLeader() *NotLeaderError {
	leader := r.lead
	if leader == r.cfg.ID {
		leader = 0
	}
	return &NotLeaderError{Shard: r.cfg.Shard, Leader: leader}
}

// Process handles input until nothing is left to do. An error means that the replica must stop.
func (r *Replica) Process() error {
	for {
		more, err := r.Collect()
		if err == nil {
			err = r.Apply()
		}
		if err != nil || !more {
			return err
		}
	}
}

// Collect is the first half of a step: what is queued is proposed, messages leave, entries go to the log. more is
// false when there was nothing to do.
func (r *Replica) Collect() (more bool, err error) {
	r.proposeQueued()
	r.proposeChange()
	r.startReads()
	if !r.rn.HasReady() {
		return false, nil
	}
	return true, r.handleReady(r.rn.Ready())
}

// Apply is the second half: what Collect found committed is applied. It comes second so that the disk and the peers
// work meanwhile.
func (r *Replica) Apply() error {
	m := r.committed
	if m == nil {
		return nil
	}
	r.committed = nil
	if err := r.apply(m.GetEntries()); err != nil {
		return err
	}
	r.deliver(m.GetResponses())
	return nil
}

// proposeQueued packs what is queued into entries. The first two entries in flight go at once, so that a lone
// command never waits; further ones only when full, because many small entries cost more than they gain.
func (r *Replica) proposeQueued() {
	if r.queue.len() == 0 {
		return
	}
	if r.role != raft.StateLeader {
		if !r.choosing() {
			r.queue.refuseAll(r.notLeader())
		}
		return
	}
	for r.queue.len() > 0 && !r.queue.held && r.pending.len() < r.cfg.MaxInflightEntries {
		n, full := r.queue.next()
		if r.pending.len() >= 2 && !full {
			return
		}
		batch := r.queue.head(n)
		seq := r.pending.nextSeq()
		payload := packEntry(entryHeader{r.cfg.NowMillis(), r.cfg.ID, seq}, batch)
		if err := r.rn.Propose(payload); err != nil {
			// Leadership is being handed over, or too much is uncommitted: they wait for the next tick or for
			// the new leader's name.
			r.queue.held = true
			return
		}
		r.pending.add(seq, batch)
		r.queue.pop(n)
	}
}

// handleReady follows raft's rules for asynchronous storage writes: messages to peers may leave at once, those in
// the append message only after it is durable. Requests for votes wait too. With the votes of all others a candidate
// would lead in a term that is not on its own disk; after a crash it could win that term again, and write other
// entries under the same index and term.
func (r *Replica) handleReady(rd raft.Ready) error {
	var appendMsg, applyMsg *pb.Message
	var candidacy []*pb.Message
	r.observe(rd)
	r.observeTransfer()
	for _, m := range rd.Messages {
		switch {
		case m.GetTo() == raft.LocalAppendThread:
			appendMsg = m
			r.pending.assign(m.GetEntries(), r.cfg.ID, r.term)
			r.assignChange(m.GetEntries())
		case m.GetTo() == raft.LocalApplyThread:
			applyMsg = m
		case m.GetType() == pb.MsgVote:
			candidacy = append(candidacy, m)
		}
	}
	r.sendAll(slices.DeleteFunc(rd.Messages, func(m *pb.Message) bool {
		return m == appendMsg || m == applyMsg || m.GetType() == pb.MsgVote
	}))
	if appendMsg != nil {
		if err := r.beginAppend(appendMsg); err != nil {
			return err
		}
	}
	if appendMsg != nil || candidacy != nil {
		responses := append(candidacy, appendMsg.GetResponses()...)
		then := func() { r.deliver(responses) }
		if candidacy != nil {
			release := r.holdVotes(len(candidacy))
			then = func() { release(); r.deliver(responses) }
		}
		if err := r.cfg.Log.Sync(then); err != nil {
			return fmt.Errorf("log sync: %w", err)
		}
	}
	r.committed = applyMsg
	for _, rs := range rd.ReadStates {
		r.reads.confirm(rs, r.applied)
	}
	return nil
}

// observe notes term, commit, leader and role, and tells the machine when leadership is gone.
func (r *Replica) observe(rd raft.Ready) {
	was := r.role
	oldTerm, oldLead := r.term, r.lead
	if rd.HardState != nil {
		r.term, r.commit = rd.HardState.GetTerm(), rd.HardState.GetCommit()
	}
	if rd.SoftState != nil {
		r.lead, r.role = rd.SoftState.Lead, rd.SoftState.RaftState
	}
	if r.term == oldTerm && rd.SoftState == nil {
		return
	}
	r.queue.held = false
	if r.lead != 0 {
		r.campaign, r.leaderless = campaignPlan{}, 0
	}
	lost := was == raft.StateLeader && (r.role != raft.StateLeader || r.term != oldTerm)
	if lost || (r.role != raft.StateLeader && r.lead != oldLead) {
		r.ledTerm = 0
		follow := r.lead
		if r.role == raft.StateLeader {
			follow = 0 // lost and won between two Readies
		}
		r.cfg.Machine.Follow(follow)
	}
	if r.role == raft.StateLeader {
		if was != raft.StateLeader || lost {
			r.failUnlogged()
		}
		r.pending.orphanTicks = 0
		for id := range r.heard { // what was heard before this term says nothing about it
			delete(r.heard, id)
		}
	}
	if lost {
		r.reads.retry()
	}
}

func (r *Replica) beginAppend(m *pb.Message) error {
	var hs *pb.HardState
	if m.Term != nil {
		hs = &pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	if s := m.GetSnapshot(); !raft.IsEmptySnap(s) {
		if err := r.cfg.Install(s, hs); err != nil {
			return fmt.Errorf("install snapshot: %w", err)
		}
		r.installed(s)
	}
	if hs == nil && len(m.GetEntries()) == 0 {
		return nil
	}
	if err := r.cfg.Log.Append(hs, m.GetEntries()); err != nil {
		return fmt.Errorf("log append: %w", err)
	}
	return nil
}

// installed: everything up to the snapshot happened, but which of our commands were in it is not known.
func (r *Replica) installed(s *pb.Snapshot) {
	meta := s.GetMetadata()
	r.applied, r.appliedTerm, r.appliedBytes = meta.GetIndex(), meta.GetTerm(), 0
	r.confState = meta.GetConfState()
	r.pending.failUpTo(r.applied, ErrUnknown)
	r.overtakeChange()
	r.wake()
}

// deliver hands raft's responses to itself or to peers. It runs after what they promise is durable.
func (r *Replica) deliver(responses []*pb.Message) {
	others := responses[:0]
	for _, m := range responses {
		if m.GetTo() == r.cfg.ID {
			// Responses to oneself are acknowledgements; raft refuses none that matters.
			_ = r.rn.Step(m)
		} else {
			others = append(others, m)
		}
	}
	r.sendAll(others)
}

func (r *Replica) apply(entries []*pb.Entry) error {
	for _, e := range entries {
		if e.GetIndex() != r.applied+1 {
			return fmt.Errorf("entry %d committed after %d was applied", e.GetIndex(), r.applied)
		}
		if err := r.applyEntry(e); err != nil {
			return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		r.applied, r.appliedTerm = e.GetIndex(), e.GetTerm()
		r.settleChange(r.applied, r.appliedTerm)
		r.appliedBytes += int64(len(e.GetData()))
		if r.applied%digestEvery == 0 && r.cfg.Digested != nil {
			if err := r.cfg.Digested(r.applied); err != nil {
				return err
			}
		}
	}
	r.wake()
	if r.role == raft.StateLeader && r.appliedTerm == r.term && r.ledTerm != r.term {
		r.ledTerm = r.term
		r.cfg.Machine.Lead(r.term)
	}
	return nil
}

func (r *Replica) applyEntry(e *pb.Entry) error {
	batch, ours := r.pending.take(e.GetIndex(), e.GetTerm(), r.notLeader)
	if e.GetType() != pb.EntryNormal {
		return r.applyChange(e)
	}
	if len(e.GetData()) == 0 {
		return nil
	}
	h, commands, err := unpackEntry(e.GetData(), r.commands)
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	r.commands = commands
	outcomes := r.cfg.Machine.Apply(Entry{
		Index: e.GetIndex(), Term: e.GetTerm(), TimeMillis: h.timeMillis, Commands: commands, Local: ours,
	})
	if ours {
		batch.answer(e.GetIndex(), outcomes)
		r.pending.recycle(batch)
	}
	return nil
}

// wake answers everyone who waited for the applied index.
func (r *Replica) wake() {
	r.reads.applied(r.applied)
	keep := r.waits[:0]
	for _, w := range r.waits {
		if w.index <= r.applied {
			w.done(nil)
		} else {
			keep = append(keep, w)
		}
	}
	clear(r.waits[len(keep):])
	r.waits = keep
}
