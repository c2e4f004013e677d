package form

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this simulation seed only")
	seedsFlag = flag.Uint64("seeds", 4000, "how many simulation seeds to run")
)

// sim is nodes that start at once on a network that loses, repeats and reorders
// messages and shows each node some of the others; nodes crash at any point and
// come back with what was durable.
type sim struct {
	rng      *rand.Rand
	nodes    []*simNode
	net      []packet
	drawn    uint64
	healed   bool
	forgets  bool // planted bug: a promise is given before it is durable
	commits  map[ID]bool
	promised int
	crashes  int
}

type simNode struct {
	disk Identity // what a crash leaves
	core *core
	down bool // crashed in the middle of a step
}

// packet is a message under way: a request, or the reply to one.
type packet struct {
	to    int
	req   request
	reply *message
}

var errCrash = errors.New("crash")

func addrOf(i int) string { return fmt.Sprint("addr", i) }

func newSim(seed uint64, forgets bool) *sim {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 1)), forgets: forgets, commits: map[ID]bool{}}
	n := 4 + s.rng.IntN(2)
	for i, raftID := range s.rng.Perm(n) {
		nd := &simNode{disk: Identity{NodeID: fmt.Sprint("n", i), RaftID: uint64(raftID + 1), Cluster: "sim"}}
		s.nodes = append(s.nodes, nd)
		s.boot(i)
	}
	return s
}

// boot starts a node from its disk.
func (s *sim) boot(i int) {
	nd := s.nodes[i]
	nd.down = false
	nd.core = &core{me: nd.disk, addr: addrOf(i), expect: 3, shards: 5, jitter: s.rng.IntN,
		draw: func() (id ID) {
			s.drawn++
			binary.BigEndian.PutUint64(id[:], s.drawn)
			return id
		},
		save: func(id Identity) error { return s.write(nd, id) }}
}

// write makes an identity durable, or crashes before or after it did.
func (s *sim) write(nd *simNode, id Identity) error {
	crash := !s.healed && s.rng.IntN(20) == 0
	if crash && s.rng.IntN(2) == 0 {
		nd.down = true
		return errCrash
	}
	if id.Promise != nil {
		s.promised++
	}
	if !s.forgets || id.Promise == nil {
		nd.disk = id
	}
	if id.formed() {
		s.commits[id.ClusterID] = true
	}
	if crash {
		nd.down = true
		return errCrash
	}
	return nil
}

// settle takes what a step of node i wants to send; a crash sends nothing.
func (s *sim) settle(i int, out []packet) {
	if s.nodes[i].down || !s.healed && s.rng.IntN(60) == 0 {
		s.crashes++
		s.boot(i)
		return
	}
	s.net = append(s.net, out...)
}

func (s *sim) requests(rs []request) []packet {
	var out []packet
	for _, r := range rs {
		for j := range s.nodes {
			if r.addr == addrOf(j) {
				out = append(out, packet{to: j, req: r})
			}
		}
	}
	return out
}

// tick gives node i a round with what it sees of the others.
func (s *sim) tick(i int) {
	var view []Candidate
	for j, nd := range s.nodes {
		if s.healed || i == j || s.rng.IntN(4) > 0 {
			v := Candidate{RaftID: nd.disk.RaftID, NodeID: nd.disk.NodeID, PeerAddr: addrOf(j)}
			if s.healed || s.rng.IntN(2) == 0 { // gossip of it may be old
				v.ClusterID = nd.disk.ClusterID
			}
			view = append(view, v)
		}
	}
	s.settle(i, s.requests(s.nodes[i].core.round(view)))
}

// deliver hands over one packet.
func (s *sim) deliver(p packet) {
	c := s.nodes[p.to].core
	if p.reply != nil {
		s.settle(p.to, s.requests(c.reply(&p.req, p.reply)))
		return
	}
	r := c.answer(&p.req.msg)
	for j, nd := range s.nodes {
		if nd.disk.RaftID == p.req.msg.From {
			s.settle(p.to, []packet{{to: j, req: p.req, reply: &r}})
		}
	}
}

// run is one history: chaos, then a network that works. It returns what is wrong.
func (s *sim) run() error {
	for range 50 + s.rng.IntN(400) {
		switch k := s.rng.IntN(10); {
		case k < 3 || len(s.net) == 0:
			s.tick(s.rng.IntN(len(s.nodes)))
		default:
			at := s.rng.IntN(len(s.net))
			p := s.net[at]
			if s.rng.IntN(8) > 0 { // else it will come again
				s.net[at] = s.net[len(s.net)-1]
				s.net = s.net[:len(s.net)-1]
			}
			if s.rng.IntN(5) > 0 { // else it is lost
				s.deliver(p)
			}
		}
		if err := s.check(); err != nil {
			return err
		}
	}
	s.healed = true
	for i, nd := range s.nodes {
		if nd.down {
			s.boot(i)
		}
	}
	for range 200 {
		for i := range s.nodes {
			s.tick(i)
		}
		for len(s.net) > 0 {
			p := s.net[0]
			s.net = s.net[1:]
			s.deliver(p)
		}
		if err := s.check(); err != nil {
			return err
		}
		if s.done() {
			return s.final()
		}
	}
	return errors.New("no cluster after 200 rounds on a network that works")
}

func (s *sim) check() error {
	if len(s.commits) > 1 {
		return fmt.Errorf("%d clusters were committed", len(s.commits))
	}
	for _, nd := range s.nodes {
		if f := nd.core.fatal; f != nil && !nd.down {
			return fmt.Errorf("%s gave up: %w", nd.disk.NodeID, f)
		}
	}
	return nil
}

func (s *sim) done() bool {
	for _, nd := range s.nodes {
		if !nd.disk.formed() {
			return false
		}
	}
	return true
}

// final: three founders agree on who they are, the others are gateways.
func (s *sim) final() error {
	founders := map[uint64]bool{}
	for _, v := range s.nodes[0].disk.Voters {
		founders[v.RaftID] = true
	}
	if len(founders) != 3 {
		return fmt.Errorf("%d founders", len(founders))
	}
	for _, nd := range s.nodes {
		if nd.disk.Joined == founders[nd.disk.RaftID] || nd.disk.Promise != nil || fmt.Sprint(nd.disk.Voters) != fmt.Sprint(s.nodes[0].disk.Voters) {
			return fmt.Errorf("%s ended as %+v", nd.disk.NodeID, nd.disk)
		}
	}
	return nil
}

func TestNeverTwoClusters(t *testing.T) {
	from, to := uint64(1), *seedsFlag
	if *seedFlag != 0 {
		from, to = *seedFlag, *seedFlag
	}
	var promised, crashes int
	for seed := from; seed <= to; seed++ {
		s := newSim(seed, false)
		if err := s.run(); err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./node/internal/form -run TestNeverTwoClusters -seed %d", seed, err, seed)
		}
		promised, crashes = promised+s.promised, crashes+s.crashes
	}
	t.Logf("%d histories, %d promises, %d crashes", to-from+1, promised, crashes)
	if *seedFlag == 0 && (promised < 1000 || crashes < 1000) {
		t.Error("the simulation does not exercise the protocol")
	}
}

// A promise that is not durable is found out: the simulation looks where it matters.
func TestSimulationFindsForgottenPromises(t *testing.T) {
	for seed := uint64(1); seed <= *seedsFlag; seed++ {
		s := newSim(seed, true)
		if err := s.run(); len(s.commits) > 1 {
			t.Logf("seed %d: %v", seed, err)
			return
		}
	}
	t.Fatalf("not found in %d seeds", *seedsFlag)
}
