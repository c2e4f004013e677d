package sim

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/quorate/quorate/raftstore"
)

// node drives the replicas of one process the way a store does, on a disk and
// a network that the simulation owns.
type node struct {
	sim      *sim
	id       uint64
	disk     *disk
	up       bool
	life     int // counts starts
	replicas map[uint32]*replica
	syncs    []pendingSync
	stalled  int               // until then the disk syncs nothing
	armed    int               // steps until it crashes; 0: it does not
	paused   int               // until then it neither hears nor ticks
	skew     int64             // of its clock, milliseconds
	context  map[uint32][]byte // planted: see disguise
}

// pendingSync is a log sync on its way: what to do when the first written
// records of the log are durable.
type pendingSync struct {
	r       *replica
	written int
	then    func()
}

// syncSome lets the disk get through with the oldest syncs.
func (n *node) syncSome() {
	if len(n.syncs) == 0 || n.stalled > n.sim.now || n.paused > n.sim.now {
		return
	}
	k := 1 + n.sim.rng.IntN(len(n.syncs))
	done := n.syncs[:k]
	n.syncs = n.syncs[k:]
	n.step("before sync is through")
	n.disk.syncTo(done[k-1].written)
	n.step("after sync is through")
	for _, d := range done {
		d.then()
	}
	for _, d := range done {
		d.r.process()
	}
}

// replica is one shard's part of a node.
type replica struct {
	*raftstore.Replica
	n       *node
	shard   uint32
	log     *simLog
	machine *watched
	life    int
	frozen  *state // being written
	staged  *snapshot
	streams map[uint64]uint64 // peer → index of the snapshot on its way there
	gone    bool              // put away
	confs   [2]*pb.ConfState  // the configuration before the last change, and after
}

// ended: the replica is no more, its node is down or was restarted since.
func (r *replica) ended() bool { return r.gone || !r.n.up || r.n.life != r.life }

// snapshot is a state checkpoint on its way.
type snapshot struct {
	*state
	leaderTerm uint64
	records    [][]byte
}

// crashed unwinds a node in the middle of whatever it does.
type crashed struct{ where string }

// step is a point at which a node may crash.
func (n *node) step(where string) {
	if n.armed == 0 {
		return
	}
	if n.armed--; n.armed == 0 {
		panic(crashed{where})
	}
}

// do runs a piece of the node; it may crash in it. A panic of anything else is
// a broken invariant.
func (n *node) do(fn func()) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case crashed:
			n.sim.tracef("node %d crashes %s", n.id, p.where)
			n.crash()
		case violation:
			panic(p)
		default:
			n.sim.failf("node %d: broken invariant: %v", n.id, p)
		}
	}()
	fn()
}

// crash takes the node down; its disk keeps what a power cut would.
func (n *node) crash() {
	if !n.up {
		return
	}
	n.up, n.armed, n.replicas, n.syncs = false, 0, nil, nil
	n.sim.net.forget(n.id)
	n.disk.crash()
	n.sim.crashes++
	if n.sim.chance(2) {
		n.sim.peersNotice(n.id)
	}
}

// start brings the node back from its disk.
func (n *node) start() {
	n.up, n.armed = true, 0
	n.life++
	n.replicas = map[uint32]*replica{}
	n.do(func() {
		for _, shard := range sorted(n.disk.states) {
			n.open(shard)
		}
	})
}

func (n *node) open(shard uint32) {
	l, err := openLog(n, shard)
	if err != nil {
		n.sim.failf("node %d shard %d does not open again: %v", n.id, shard, err)
	}
	r := &replica{n: n, shard: shard, log: l, life: n.life, streams: map[uint64]uint64{}}
	r.machine = &watched{n: n, shard: shard}
	if n.sim.ledger {
		r.machine.inner = newTasks(shard, reader{n.disk, shard}, r.machine.write)
	} else {
		r.machine.inner = &list{write: r.machine.write, differs: n.disk.plant == PlantApplyDiffers && n.id == 1}
	}
	st := n.disk.states[shard]
	b := n.disk.books[shard]
	b.records, b.durable = b.records[:st.records:st.records], st.records
	if err := r.machine.Restore(reader{n.disk, shard}, st.meta); err != nil {
		n.sim.failf("node %d shard %d: restore: %v", n.id, shard, err)
	}
	applied := st.index
	if n.disk.plant == PlantAppliedTwice && applied > l.now.truncated {
		applied--
	}
	r.Replica, err = raftstore.NewReplica(raftstore.ReplicaConfig{
		Shard: shard, ID: n.id, Log: l, Machine: r.machine, Applied: applied, SilentUntil: n.disk.tombs[shard].last, Send: r.send, Install: r.install,
		NowMillis:     func() int64 { return n.sim.millis() + n.skew },
		ElectionTicks: electionTicks, HeartbeatTicks: 2, MaxBatchCommands: 3, MaxBatchBytes: 256, MaxInflightEntries: 3,
		Logger: quiet{},
	})
	if err != nil {
		n.sim.failf("node %d shard %d: %v", n.id, shard, err)
	}
	n.replicas[shard] = r
	if n.sim.chance(2) {
		r.SeekLeader()
	}
	r.process()
}

const electionTicks = 6

// process lets the replica handle its input, and checks what it is then.
func (r *replica) process() {
	if err := r.Process(); err != nil {
		r.n.sim.failf("node %d shard %d stops: %v", r.n.id, r.shard, err)
	}
	r.n.sim.check.processed(r)
}

func (r *replica) send(m *pb.Message) {
	r.n.step("before send")
	s := r.n.sim
	s.check.sent(r, m)
	if m.GetType() == pb.MsgSnap {
		if _, busy := r.streams[m.GetTo()]; busy {
			return
		}
		st := r.n.disk.states[r.shard]
		if to := m.GetTo(); !slices.Contains(st.conf.GetVoters(), to) && !slices.Contains(st.conf.GetLearners(), to) {
			s.later(r, func() { // it would be of no use to it: a newer checkpoint comes
				r.ReportSnapshot(to, false)
				r.process()
				r.checkpoint()
			})
			return
		}
		r.streams[m.GetTo()] = st.index
		s.net.stream(r, m.GetTo(), &snapshot{state: st, leaderTerm: m.GetTerm(), records: slices.Clone(r.n.disk.books[r.shard].records[:st.records])})
		return
	}
	if s.plant == PlantVotesUnsaid && m.GetType() == pb.MsgVoteResp && !m.GetReject() {
		return
	}
	s.disguise(r, m)
	b, err := proto.Marshal(m)
	if err != nil {
		s.failf("marshal: %v", err)
	}
	s.net.send(r.n.id, m.GetTo(), r.shard, b)
}

// receive takes a message in.
func (r *replica) receive(from uint64, b []byte) {
	m, err := raftstore.DecodeMessage(r.n.id, from, b)
	if err == nil {
		r.n.sim.reveal(r, m)
		if r.n.sim.trace != nil {
			r.n.sim.tracef("  shard %d: %d→%d %v term %d index %d/%d entries %d commit %d reject %v", r.shard, from, r.n.id, m.GetType(), m.GetTerm(),
				m.GetLogTerm(), m.GetIndex(), len(m.GetEntries()), m.GetCommit(), m.GetReject())
		}
		err = r.Step(m)
	}
	if conf := r.Standing().Conf; errors.Is(err, raftstore.ErrMalformed) &&
		(!slices.Contains(slices.Concat(conf.GetVoters(), conf.GetLearners()), from) || r.n.disk.tombs[r.shard].last > r.Standing().Applied) {
		return // an answer of one that was removed meanwhile, or a word for this one before it was put away
	}
	if err != nil {
		r.n.sim.failf("node %d shard %d refuses a message of node %d: %v", r.n.id, r.shard, from, err)
	}
}

// offer takes a whole snapshot in. false: not now, a checkpoint is being written
// or the log is.
func (r *replica) offer(from uint64, g *snapshot) bool {
	if r.frozen != nil || slices.ContainsFunc(r.n.syncs, func(p pendingSync) bool { return p.r == r }) {
		return false
	}
	r.staged = g
	err := r.Step(&pb.Message{
		Type: pb.MsgSnap.Enum(), To: new(r.n.id), From: new(from), Term: new(g.leaderTerm),
		Snapshot: &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: new(g.index), Term: new(g.term), ConfState: g.conf}},
	})
	if err != nil {
		r.n.sim.failf("node %d shard %d refuses a snapshot: %v", r.n.id, r.shard, err)
	}
	r.process()
	r.staged = nil
	return true
}

// install replaces log, state, journal and machine, step by step, as the
// store does.
func (r *replica) install(sn *pb.Snapshot, hs *pb.HardState) error {
	g, d := r.staged, r.n.disk
	if g == nil || g.index != sn.GetMetadata().GetIndex() {
		return fmt.Errorf("raft installs a snapshot at %d that is not staged", sn.GetMetadata().GetIndex())
	}
	if raft.IsEmptyHardState(hs) {
		hs, _, _ = r.log.InitialState() // never fails
	}
	if s := r.n.sim; s.rates.crash > 0 && r.n.armed == 0 && !s.calm && s.chance(3) {
		r.n.armed = 1 + s.rng.IntN(6)
	}
	r.n.step("before install")
	d.append(walOp{shard: r.shard, note: g.index})
	d.sync()
	r.n.step("install: noted")
	d.books[r.shard] = &book{records: slices.Clone(g.records), durable: len(g.records)}
	r.n.step("install: journal replaced")
	if d.plant == PlantInstallHalf {
		r.log.reset(g.index, g.term, hs)
		r.n.step("install: log reset before the state")
	}
	d.states[r.shard] = g.state
	r.n.step("install: state replaced")
	r.log.reset(g.index, g.term, hs)
	r.n.step("install: log reset")
	r.staged = nil
	r.n.sim.installs++
	return r.machine.Restore(reader{d, r.shard}, g.meta)
}

// checkpoint begins a state checkpoint, which the simulation finishes in
// stages, unless one is being written.
func (r *replica) checkpoint() {
	at := r.Standing()
	st := r.n.disk.states[r.shard]
	if r.frozen != nil || at.Applied == st.index {
		return
	}
	c := r.machine.Freeze()
	r.n.step("checkpoint: frozen")
	r.frozen = &state{index: at.Applied, term: at.AppliedTerm, conf: at.Conf, records: len(r.n.disk.books[r.shard].records), meta: c.Meta}
	if r.n.disk.plant == PlantTruncateAhead {
		r.log.truncate(at.Applied)
	}
	r.n.sim.later(r, func() { r.collect(&c) })
}

// collect takes further parts of what changed, then makes the journal durable,
// then replaces the state.
func (r *replica) collect(c *raftstore.Changes) {
	s, d := r.n.sim, r.n.disk
	if c.More != nil {
		puts, deletes, more := c.More()
		c.Puts, c.Deletes = append(c.Puts, puts...), append(c.Deletes, deletes...)
		if !more {
			c.More = nil
		}
		s.later(r, func() { r.collect(c) })
		return
	}
	var twice string
	if r.frozen.rows, twice = d.states[r.shard].with(*c); twice != "" {
		s.failf("node %d shard %d: key %x is twice in one checkpoint", r.n.id, r.shard, twice)
	}
	if b := d.books[r.shard]; d.plant != PlantJournalUnsynced {
		b.durable = max(b.durable, r.frozen.records)
	}
	r.n.step("checkpoint: journal durable")
	s.later(r, func() {
		d.states[r.shard] = r.frozen
		r.n.step("checkpoint: ingested")
		s.later(r, func() { r.release(c) })
	})
}

// release lets the machine forget what can be read from the state now.
func (r *replica) release(c *raftstore.Changes) {
	if c.Durable != nil && c.Durable() {
		r.n.sim.later(r, func() { r.release(c) })
		return
	}
	r.checkpointed()
}

func (r *replica) checkpointed() {
	r.frozen = nil
	r.machine.Thaw()
	s := r.n.sim
	target := r.n.disk.states[r.shard].index
	target -= min(target, s.rng.Uint64N(s.retain))
	for _, index := range r.streams {
		target = min(target, index)
	}
	r.log.truncate(target)
	s.checkpoints++
}

// quiet is a raft logger that panics where raft's would and says nothing else.
type quiet struct{}

// Debug implements raft.Logger, as do the following.
func (quiet) Debug(...any)                   {}
func (quiet) Debugf(string, ...any)          {}
func (quiet) Error(...any)                   {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Info(...any)                    {}
func (quiet) Infof(string, ...any)           {}
func (quiet) Warning(...any)                 {}
func (quiet) Warningf(string, ...any)        {}
func (quiet) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (quiet) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (quiet) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (quiet) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }

var _ raft.Logger = quiet{}
