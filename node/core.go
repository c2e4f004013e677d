package node

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/internal/form"
	"github.com/quorate/quorate/node/internal/peer"
	"github.com/quorate/quorate/raftstore"
	"github.com/quorate/quorate/sched"
)

// core is a member of a formed cluster: its replicas, desks, scheduler and
// what it knows of agents. Its methods are the operations every face renders.
type core struct {
	cfg     Config
	id      form.Identity
	shards  uint32 // all, the control shard included
	ctx     context.Context
	cancel  context.CancelFunc
	tasksWG sync.WaitGroup // everything started by background and loops

	store      *raftstore.Store
	peers      *peer.Transport
	sched      *sched.Scheduler
	control    *controlMachine
	replicas   *replicas
	contacts   atomic.Pointer[[]nodeRef] // members as told when joining
	ledChanged chan struct{}             // capacity 1: what this node leads changed, or somebody came who does not know it
	admin      administrator
	orders     sync.Mutex                     // replicas are made and put away one at a time
	hosts      atomic.Pointer[map[uint64]int] // what each member holds; nil when not known
	fatal      func(error)

	trails   *trails
	archives archiver
	diskUse  diskUse
	leaders  *leaders
	holds    *holds
	recalls  recalls
	thieves  *thieves
	idlers   *idlers
	counts   stealCounts
	depths   *depths
	roster   *roster
	rater    *rater
	sessions *sessions
	turns    turns
	waiters  *waiters
	metrics  *metrics
	rules    ruleBook
	seats    struct {
		sync.Mutex
		of map[string]*seat
	}

	cursorKey []byte
	nextShard atomic.Uint64
	backlog   chan struct{} // capacity 1: queued work no local worker took
	mail      chan struct{} // capacity 1: a shard led here may have letters to deliver
	policy    Policy
	draining  atomic.Bool
	events    bell          // rung when entries were applied
	leaving   chan struct{} // closed when draining starts
}

// newCore opens the replicas of a formed cluster and starts everything that
// drives them.
func newCore(cfg Config, id form.Identity, peers *peer.Transport, fatal func(error)) (*core, error) {
	n := &core{cfg: cfg, id: id, shards: id.Shards, peers: peers, leaders: newLeaders(), holds: newHolds(cfg.Now), thieves: newThieves(), idlers: newIdlers(), depths: newDepths(),
		sessions: newSessions(cfg.Now), waiters: newWaiters(), fatal: fatal, replicas: newReplicas(), ledChanged: make(chan struct{}, 1), backlog: make(chan struct{}, 1),
		mail: make(chan struct{}, 1), policy: cfg.policy(), leaving: make(chan struct{})}
	n.contacts.Store(&[]nodeRef{})
	n.holds.rested = n.thieves.parked
	n.control = &controlMachine{notify: n.agentEvents, lead: n.onLead, follow: n.onFollow}
	n.control.mu.control = ledger.NewControl(nil, nil) // empty until there is a replica
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.turns.clock = cfg.Now
	n.roster = newRoster(n.nowMillis)
	rank := cfg.ranking()
	n.rater = &rater{weights: rankWeights{rank.WeightSuccess, rank.WeightLoad, rank.WeightTrust}, view: n.viewAgents, now: n.nowMillis}
	n.metrics = newMetrics()
	n.seats.of = map[string]*seat{}
	key := sha256.Sum256(append([]byte("quorate cursor key v1\x00"), id.ClusterID[:]...))
	n.cursorKey = key[:]
	rank.NowMillis, rank.OnBacklog = n.nowMillis, func() {
		select {
		case n.backlog <- struct{}{}:
		default:
		}
	}
	n.sched = sched.New(rank)
	var err error
	if n.trails, err = openTrails(&cfg, id.NodeID, id.RaftID, [16]byte(id.ClusterID)); err != nil {
		return nil, err
	}
	n.archives.dir = cfg.ArchiveDir
	n.archives.mu.until, n.archives.mu.failed = map[uint32]recordsWait{}, map[uint32]error{}
	sc := raftstore.Config{Dir: cfg.DataDir, FS: cfg.FS, RaftID: id.RaftID, Machine: n.machine, Transport: raftTransport{peers},
		Logger: cfg.Logger, Now: cfg.Now, OnFatal: fatal}
	cfg.storeBudget(&sc, id.Shards)
	if cfg.logRetain > 0 {
		sc.LogRetainEntries, sc.LogRetainMax = cfg.logRetain, cfg.logRetain
	}
	store, err := raftstore.Open(sc)
	if err != nil {
		return nil, err
	}
	n.store = store
	if store.Fresh() && !id.Joined {
		voters := make([]uint64, len(id.Voters))
		for i, v := range id.Voters {
			voters[i] = v.RaftID
		}
		if err := store.Bootstrap(id.Shards, voters); err != nil {
			store.Close()
			return nil, err
		}
	}
	return n, nil
}

// start lets messages in and the replicas run.
func (n *core) start() {
	n.store.Start()
	n.loop(n.deskLoop)
	n.loop(n.agentLoop)
	n.loop(n.depthLoop)
	n.loop(n.relayLoop)
	n.loop(n.balanceLoop)
	n.loop(n.renewLoop)
	n.loop(n.stealLoop)
	n.loop(n.trailLoop)
	n.loop(n.archiveLoop)
	n.loop(n.retentionLoop)
	n.loop(n.leadsLoop)
	n.loop(n.adminLoop)
}

// stop ends everything in the order that lets callers finish: leadership goes
// to others first.
func (n *core) stop(ctx context.Context) error {
	if !n.draining.Swap(true) {
		close(n.leaving)
	}
	n.handOver(ctx)
	n.cancel()
	n.seats.Lock()
	for _, s := range n.seats.of {
		s.close()
	}
	n.seats.Unlock()
	n.tasksWG.Wait()
	return n.store.Close()
}

func (n *core) closing() bool { return n.draining.Load() || n.ctx.Err() != nil }

// loop runs fn until the core stops; background runs it once. Both are waited
// for by stop.
func (n *core) loop(fn func()) { n.tasksWG.Go(fn) }

func (n *core) background(fn func()) {
	if n.ctx.Err() == nil {
		n.tasksWG.Go(fn)
	}
}

func (n *core) nowMillis() int64 { return n.cfg.Now().UnixMilli() }

// random is 64 bits that make task IDs of one millisecond differ.
func (n *core) random() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return binary.BigEndian.Uint64(b[:])
}

// machine makes a shard's state machine.
func (n *core) machine(shard uint32, r raftstore.Reader, j raftstore.Journal) (raftstore.Machine, error) {
	if shard == controlShard {
		n.control.reset(r, j)
		return n.control, nil
	}
	d := newDesk(shard, n.pushReady)
	d.now, d.why = n.nowMillis, n.rater.choose
	m := &taskMachine{shard: shard, desk: d, notify: n.taskEvents, mail: n.mail, lead: n.onLead, follow: n.onFollow, waits: n.metrics.applyWaits}
	m.mu.tasks = ledger.NewTasks(shard, r, j.Append)
	n.replicas.put(shard, taskReplica{m, d})
	if wrapMachine != nil {
		return wrapMachine(m), nil
	}
	return m, nil
}

// wrapMachine, set by tests only, watches what is asked of a machine.
var wrapMachine func(raftstore.Machine) raftstore.Machine

// pushReady hands ready tasks to the scheduler.
func (n *core) pushReady(list []ready) {
	for _, r := range list {
		class, err := n.sched.ClassOf(r.fleet, r.capability)
		if err != nil {
			if class, err = n.sched.ClassOf("", r.capability); err != nil {
				n.overflow(r, err)
				continue
			}
		}
		n.sched.Push(r.handle, class, r.band, r.millis)
	}
}

// overflow leaves a task that the scheduler has no class for on its desk, which
// offers it again.
func (n *core) overflow(r ready, err error) {
	n.cfg.Logger.Error("a ready task waits: this node has seen too many capabilities; start it again", "layer", 5,
		"fleet", r.fleet, "capability", r.capability, "error", err)
	if d := n.desk(handleShard(r.handle)); d != nil {
		d.shelve(r.handle, n.nowMillis()+overflowMillis)
	}
}

// overflowMillis is how long a task waits on its desk that the scheduler had
// no class for.
const overflowMillis = 30_000

// taskEvents runs on every replica after its desk has seen the events.
func (n *core) taskEvents(shard uint32, events []ledger.Event) {
	n.events.ring()
	n.watchRollbacks(shard, events)
	n.roster.applied(events)
	n.waiters.applied(events)
	if gone := n.holds.applied(events); len(gone) > 0 {
		n.sessions.tell(gone)
	}
}

// onLead runs on the shard's goroutine when this node leads it and has applied
// everything before its term.
func (n *core) onLead(shard uint32, term uint64) {
	if shard == controlShard {
		var ids []string
		n.control.view(func(c *ledger.Control) {
			for _, a := range c.Agents() {
				ids = append(ids, a.ID)
			}
		})
		n.roster.restart(ids)
		n.background(n.announce)
	} else {
		n.background(func() {
			if d := n.desk(shard); d != nil {
				d.begin(term)
			}
			n.awaitReturns()
			n.openDesk(shard, term)
		})
	}
	n.background(func() { n.raiseAuditFormat(shard) })
	n.leaders.set(shard, n.id.RaftID)
	n.leadsNews()
}

// leadsNews has the other nodes told what this one leads.
func (n *core) leadsNews() {
	select {
	case n.ledChanged <- struct{}{}:
	default:
	}
}

func (n *core) onFollow(shard uint32, leader uint64) {
	if leader == n.id.RaftID {
		leader = 0 // elected, but not yet through with its own term's first entry
	}
	n.leaders.set(shard, leader)
}

// announce has the control leader enter the cluster and its nodes.
func (n *core) announce() {
	known := false
	n.control.view(func(c *ledger.Control) { known = c.Cluster().Name != "" })
	if !known {
		c := &ledger.ClusterInit{ClusterID: n.id.ClusterID, Name: n.id.Cluster, Shards: n.id.Shards}
		for _, v := range n.id.Voters {
			c.Members = append(c.Members, ledger.Node{RaftID: v.RaftID, NodeID: v.NodeID, PeerAddr: v.PeerAddr})
		}
		n.doHere(n.ctx, controlShard, []ledger.Command{c})
	}
}

// enter has this node's present addresses in the control shard.
func (n *core) enter(api, gossip, version string) {
	up := &ledger.NodeUp{RaftID: n.id.RaftID, NodeID: n.id.NodeID, PeerAddr: n.peers.Addr().String(), APIAddr: api, GossipAddr: gossip, Version: version}
	n.background(func() {
		for n.ctx.Err() == nil {
			a := n.do(n.ctx, controlShard, []ledger.Command{up})[0]
			if a.err == nil {
				n.background(n.enterKey)
				if a.outcome.Code != ledger.OK {
					n.cfg.Logger.Error("this node was not entered in the registry", "layer", 5, "code", a.outcome.Code.String(), "detail", a.outcome.Detail)
				}
				return
			}
		}
	})
}

// raftTransport lets the replicas send over the peer connections.
type raftTransport struct{ *peer.Transport }

// Send queues: the engine flushes when all its shards have sent.
func (t raftTransport) Send(to uint64, shard uint32, msg []byte) { t.Queue(to, shard, msg) }

type journalBase struct {
	Bytes int64  `json:"bytes"`
	Sum   uint32 `json:"crc32c"`
}

// AskJournal implements raftstore.JournalAsker.
func (t raftTransport) AskJournal(ctx context.Context, to uint64, shard uint32) (int64, uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	b, err := t.Call(ctx, to, methodJournal, []byte(strconv.FormatUint(uint64(shard), 10)))
	if err != nil {
		return 0, 0, err
	}
	var j journalBase
	err = json.Unmarshal(b, &j)
	return j.Bytes, j.Sum, err
}

func (n *core) journalHere(shard uint32) ([]byte, error) {
	size, sum, err := n.store.JournalBase(shard)
	if err != nil {
		return nil, err
	}
	return json.Marshal(journalBase{size, sum})
}
