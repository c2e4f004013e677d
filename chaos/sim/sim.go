package sim

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"sync"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/raftstore"
)

// Config says what a run simulates. The seed decides everything else: nodes,
// shards, machine, which faults there are and how often.
type Config struct {
	Seed  uint64
	Steps int       // of simulated time; 0: DefaultSteps
	Plant Plant     // a mistake to make
	Trace io.Writer // gets a line per event; nil: nothing
}

// DefaultSteps is how long faults go on: some 80 election timeouts.
const DefaultSteps = 2000

// Stats say what a run, or many, went through.
type Stats struct {
	Steps, Messages, Entries, Acknowledged, Reads          int
	Elections, Crashes, Checkpoints, Installs, Comparisons int
	Changes                                                int // of members
}

func (s *Stats) add(o Stats) {
	s.Steps += o.Steps
	s.Messages += o.Messages
	s.Entries += o.Entries
	s.Acknowledged += o.Acknowledged
	s.Reads += o.Reads
	s.Elections += o.Elections
	s.Crashes += o.Crashes
	s.Checkpoints += o.Checkpoints
	s.Installs += o.Installs
	s.Comparisons += o.Comparisons
	s.Changes += o.Changes
}

// Failure is a broken invariant, and how to see it again.
type Failure struct {
	Seed  uint64
	Plant Plant
	Steps int // of the run, if not the usual number
	Step  int
	What  string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d, step %d: %s\nreplay: %s", f.Seed, f.Step, f.What, f.Replay())
}

// Replay is the command that repeats the run.
func (f *Failure) Replay() string {
	cmd := fmt.Sprintf("quorate chaos sim --seed %d --trace", f.Seed)
	if f.Steps != 0 {
		cmd += fmt.Sprintf(" --steps %d", f.Steps)
	}
	if f.Plant != PlantNone {
		cmd += " --plant " + string(f.Plant)
	}
	return cmd
}

// violation unwinds a run.
type violation struct{ *Failure }

// sim is one run.
type sim struct {
	seed     uint64
	plant    Plant
	trace    io.Writer
	rng      *mrand.Rand
	now      int
	shards   int
	ledger   bool
	nodes    []*node
	net      *network
	check    *checker
	todo     []task
	removed  []*replica // to be put away
	founders *pb.ConfState
	retain   uint64
	repair   int // a node that is down starts with a chance of one in so many steps

	ops     map[string]*op
	opNo    int
	ids     []ledger.TaskID
	shard   int // of the command being made
	calm    bool
	hurry   int // until then clients read much
	severAt int // when a leader is cut off
	rates   rates

	changes, sent, entries, acked, reads, elections, crashes, checkpoints, installs int
}

// task is something a replica does later, unless its node is down by then.
type task struct {
	due int
	r   *replica
	fn  func()
}

// op is one command of a client.
type op struct {
	n, shard int
	floor    uint64 // acknowledged or seen before it was proposed
	index    uint64 // where it was applied
	answered bool
	refused  bool
	node     *node
	life     int
}

// rates are events in 10,000 steps.
type rates struct{ crash, cut, heal, transfer, checkpoint, stall, change, propose, read int }

func (s *sim) failf(format string, args ...any) {
	panic(violation{&Failure{Seed: s.seed, Plant: s.plant, Step: s.now, What: fmt.Sprintf(format, args...)}})
}

func (s *sim) tracef(format string, args ...any) {
	if s.trace != nil {
		fmt.Fprintf(s.trace, "%5d "+format+"\n", append([]any{s.now}, args...)...)
	}
}

// chance is one in n.
func (s *sim) chance(n int) bool { return s.rng.IntN(n) == 0 }

// event says whether something that happens so often in 10,000 steps does now.
func (s *sim) event(rate int) bool { return s.rng.IntN(10_000) < rate }

// millis is the simulated clock.
func (s *sim) millis() int64 { return 1_790_000_000_000 + int64(s.now)*10 }

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// seeded is the source of raft's election jitter, which comes from
// crypto/rand and has no other way to be decided by a seed.
var seeded sync.Mutex

// Run simulates one seed. The error is a *Failure. Nothing else in the process
// may want secrets from crypto/rand meanwhile: it reads from the seed.
func Run(cfg Config) (stats Stats, err error) {
	seeded.Lock()
	defer seeded.Unlock()
	var key [32]byte
	copy(key[:], fmt.Sprintf("%032d", cfg.Seed))
	was := rand.Reader
	rand.Reader = mrand.NewChaCha8(key)
	defer func() { rand.Reader = was }()
	if cfg.Steps == 0 {
		cfg.Steps = DefaultSteps
	}
	s := newSim(cfg)
	defer func() {
		stats = Stats{Steps: s.now, Messages: s.sent, Entries: s.entries, Acknowledged: s.acked, Reads: s.reads, Elections: s.elections,
			Crashes: s.crashes, Checkpoints: s.checkpoints, Installs: s.installs, Comparisons: s.check.digest, Changes: s.changes}
		if p := recover(); p != nil {
			v, ok := p.(violation)
			if !ok {
				panic(p)
			}
			if cfg.Steps != DefaultSteps {
				v.Steps = cfg.Steps
			}
			err = v.Failure
		}
	}()
	s.run(cfg.Steps)
	return stats, nil
}

func newSim(cfg Config) *sim {
	s := &sim{seed: cfg.Seed, plant: cfg.Plant, trace: cfg.Trace, rng: mrand.New(mrand.NewPCG(cfg.Seed, 7)), ops: map[string]*op{}}
	s.shards = 1 + s.rng.IntN(2)
	s.ledger = s.chance(6) && cfg.Plant == PlantNone
	n := []int{1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5}[s.rng.IntN(11)]
	s.retain, s.repair = 1+s.rng.Uint64N(10), 2+s.rng.IntN(200)
	s.check = newChecker(s)
	s.net = &network{s: s, cut: map[[2]uint64]bool{}, splits: s.chance(2)}
	// Each kind of fault is absent from some seeds: what one hides another may show.
	some := func(rate int) int {
		if s.chance(3) {
			return 0
		}
		return 1 + s.rng.IntN(rate)
	}
	s.net.lose, s.net.repeat, s.net.linger = some(150), some(150), some(200)
	s.rates = rates{crash: some(120), cut: some(100), heal: 50 + s.rng.IntN(200), transfer: some(60), checkpoint: 50 + some(1000),
		stall: some(60), change: some(150), propose: 1000 + some(4000), read: 300 + some(3000)}
	if cfg.Plant != PlantNone && cfg.Plant != PlantTombForgotten {
		s.rates.change = 0 // these do not need it
	}
	conf := &pb.ConfState{}
	s.founders = conf
	spare := 0 // nodes that begin without a replica
	if s.rates.change > 0 {
		spare = s.rng.IntN(3)
	}
	for id := uint64(1); id <= uint64(n); id++ {
		conf.Voters = append(conf.Voters, id)
	}
	for id := uint64(1); id <= uint64(n+spare); id++ {
		nd := &node{sim: s, id: id, disk: newDisk(s.rng, cfg.Plant), skew: s.rng.Int64N(2000) - 1000, context: map[uint32][]byte{}}
		for shard := range s.shards {
			if id <= uint64(n) {
				nd.disk.format(uint32(shard), conf)
			}
		}
		s.nodes = append(s.nodes, nd)
	}
	s.tracef("%d nodes, %d shards, ledger %v, rates %+v, lose %d repeat %d linger %d", n, s.shards, s.ledger, s.rates, s.net.lose, s.net.repeat, s.net.linger)
	return s
}

func (s *sim) run(steps int) {
	for _, n := range s.nodes {
		n.start()
	}
	for s.now < steps {
		s.step()
	}
	s.settle()
}

// step is a moment of simulated time.
func (s *sim) step() {
	s.now++
	s.net.deliver()
	s.work()
	for _, n := range s.nodes {
		if n.up && s.chance(2) {
			n.do(n.syncSome)
		}
		if n.up && n.paused <= s.now && s.chance(4) {
			n.do(n.tick)
		}
	}
	if !s.calm {
		s.faults()
	}
	if s.event(s.rates.propose) {
		s.propose()
	}
	if s.event(s.rates.read) || s.now < s.hurry && s.chance(8) {
		s.read()
	}
}

func (n *node) tick() {
	for _, shard := range sorted(n.replicas) {
		r := n.replicas[shard]
		r.Tick()
		r.process()
		if n.sim.event(n.sim.rates.checkpoint) {
			r.checkpoint()
		}
	}
}

// later runs fn on a replica after a while.
func (s *sim) later(r *replica, fn func()) {
	s.todo = append(s.todo, task{s.now + 1 + s.rng.IntN(10), r, fn})
}

func (s *sim) work() {
	var due []task
	s.todo = slices.DeleteFunc(s.todo, func(t task) bool {
		gone := t.r.ended()
		if !gone && t.due <= s.now {
			due = append(due, t)
		}
		return gone || t.due <= s.now
	})
	for _, t := range due {
		if !t.r.ended() {
			t.r.n.do(t.fn)
		}
	}
}

// settle ends all faults, and wants to see everything agree.
func (s *sim) settle() {
	s.calm = true
	clear(s.net.cut)
	s.net.lose, s.net.repeat, s.net.linger = 0, 0, 0
	for _, n := range s.nodes {
		n.paused, n.armed, n.stalled = 0, 0, 0
		if !n.up {
			n.start()
		}
	}
	s.rates.propose, s.rates.read = 300, 300
	for limit, led := s.now+leaderSteps, false; !led; led = s.led() {
		if s.now > limit {
			s.failf("not every shard has a leader that its members name %d steps after the last fault:\n%s", leaderSteps, s.standings())
		}
		s.step()
	}
	for limit := s.now + settleSteps; !s.settled(); {
		if s.now > limit {
			s.failf("no agreement %d steps after there were leaders:\n%s", settleSteps, s.standings())
		}
		if s.now > limit-settleSteps+settleLoad {
			s.rates.propose, s.rates.read = 0, 0
		}
		s.step()
	}
	s.check.final()
	s.answers()
}

// standings are where all replicas stand, a line each.
func (s *sim) standings() string {
	var at []string
	for _, n := range s.nodes {
		for _, shard := range sorted(n.replicas) {
			r := n.replicas[shard]
			st := r.Standing()
			at = append(at, fmt.Sprintf("node %d shard %d: %v term %d leader %d (told %d) commit %d applied %d", n.id, shard, st.Role, st.Term, st.Leader, r.machine.told, st.Commit, st.Applied))
		}
	}
	return strings.Join(at, "\n")
}

// led: every shard has a leader that is ready, and that its voters know, which
// means that their machines were told. One that was away from its group, or was
// put away, hears of it when it gets the log.
func (s *sim) led() bool {
	for shard := range s.shards {
		lead := s.leader(uint32(shard))
		if lead == nil {
			return false
		}
		for _, id := range lead.Conf.GetVoters() {
			r := s.nodes[id-1].replicas[uint32(shard)]
			if r == nil || r.Standing().Leader != lead.Leader || r.machine.told != lead.Leader {
				return false
			}
		}
	}
	return true
}

// leaderSteps are some twenty election timeouts: votes may split, and terms differ.
const leaderSteps = 800

// settleSteps are some 40 election timeouts: elections may split, and a
// snapshot may be on its way.
const (
	settleSteps = 1500
	settleLoad  = 150 // of them with commands still coming
)

// settled: every shard has a leader that is ready, and all replicas are where it is.
func (s *sim) settled() bool {
	if s.rates.propose > 0 {
		return false
	}
	for shard := range s.shards {
		lead := s.leader(uint32(shard))
		if lead == nil {
			return false
		}
		for _, id := range slices.Concat(lead.Conf.GetVoters(), lead.Conf.GetLearners()) {
			r := s.nodes[id-1].replicas[uint32(shard)]
			if r == nil {
				s.failf("node %d is a member of shard %d and has no replica of it", id, shard)
			}
			if at := r.Standing(); at.Applied != lead.Commit || at.Term != lead.Term || at.Leader != lead.Leader || r.machine.told != lead.Leader {
				return false
			}
		}
	}
	return true
}

// leader is where the newest leader of a shard stands; nil: there is none that
// is ready.
func (s *sim) leader(shard uint32) (lead *raftstore.Standing) {
	for _, n := range s.nodes {
		if r := n.replicas[shard]; r != nil {
			if at := r.Standing(); at.Ready && (lead == nil || at.Term > lead.Term) {
				lead = &at
			}
		}
	}
	return lead
}

// answers: nobody who asked a node that is still the same waits for ever.
func (s *sim) answers() {
	for _, n := range s.nodes {
		n.do(func() {
			for _, shard := range sorted(n.replicas) {
				n.replicas[shard].Stop()
			}
		})
	}
	for _, k := range sorted(s.ops) {
		if o := s.ops[k]; !o.answered && o.node.life == o.life {
			s.failf("shard %d: command %d was never answered by node %d", o.shard, o.n, o.node.id)
		}
	}
}
