package sim

import (
	"errors"

	"github.com/quorate/quorate/raftstore"
)

// pick finds a replica to ask: most often one that believes it leads.
func (s *sim) pick(shard int) *replica {
	var up, leads []*replica
	for _, n := range s.nodes {
		if r := n.replicas[uint32(shard)]; n.up && n.paused <= s.now && r != nil {
			up = append(up, r)
			if r.Standing().Role == raftstore.RoleLeader {
				leads = append(leads, r)
			}
		}
	}
	if len(leads) > 0 && !s.chance(8) {
		up = leads
	}
	if len(up) == 0 {
		return nil
	}
	return up[s.rng.IntN(len(up))]
}

// propose sends a few commands to one replica.
func (s *sim) propose() {
	s.shard = s.rng.IntN(s.shards)
	r := s.pick(s.shard)
	if r == nil {
		return
	}
	var ps []raftstore.Proposal
	for range 1 + s.rng.IntN(4) {
		s.opNo++
		o := &op{n: s.opNo, shard: s.shard, floor: s.check.shards[uint32(s.shard)].floor, node: r.n, life: r.n.life}
		cmd := s.command(o.n)
		s.ops[string(cmd)] = o
		ps = append(ps, raftstore.Proposal{Command: cmd, Done: func(res raftstore.Result) { s.answer(r, o, res) }})
	}
	r.n.do(func() {
		r.Propose(ps)
		r.process()
	})
}

// answer takes in what became of a command.
func (s *sim) answer(r *replica, o *op, res raftstore.Result) {
	if o.answered {
		s.failf("shard %d: command %d is answered twice", o.shard, o.n)
	}
	o.answered = true
	switch {
	case res.Err == nil:
		s.check.acknowledged(r, o, res.Index)
	case errors.Is(res.Err, raftstore.ErrUnknown):
	default:
		if o.index != 0 {
			s.failf("shard %d: command %d is refused as certainly not done (%v), but was applied at %d", o.shard, o.n, res.Err, o.index)
		}
		o.refused = true
	}
}

// read asks for a linearizable read, and follows it up on another replica now
// and then.
func (s *sim) read() {
	shard := s.rng.IntN(s.shards)
	r := s.pick(shard)
	if r == nil {
		return
	}
	floor := s.check.shards[uint32(shard)].floor
	done := func(index uint64, err error) {
		if err != nil {
			return
		}
		at := r
		if other := s.nodes[s.rng.IntN(len(s.nodes))].replicas[uint32(shard)]; s.chance(3) && other != nil && other.n.up {
			at = other
		}
		if at == r {
			if r.machine.applied < index && r.Standing().Applied < index {
				s.failf("node %d shard %d: a read at %d is answered before it is applied", r.n.id, shard, index)
			}
			s.check.read(r, floor, index)
			return
		}
		at.Await(index, func(err error) {
			if err == nil {
				s.check.read(at, floor, index)
			}
		})
	}
	r.n.do(func() {
		if s.plant == PlantReadAlone && r.Standing().Ready {
			done(r.Standing().Applied, nil)
			return
		}
		r.Read(done)
		r.process()
	})
}

// faults are what may happen in any step.
func (s *sim) faults() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if s.event(s.rates.crash) && n.up && n.armed == 0 {
		n.armed = 1 + s.rng.IntN(40)
	}
	if s.event(s.rates.crash/8) && s.chance(3) { // all at once, as when a rack loses power
		s.tracef("all crash")
		for _, n := range s.nodes {
			n.crash()
		}
	}
	for _, n := range s.nodes {
		if !n.up && s.chance(s.repair) {
			s.tracef("node %d starts", n.id)
			n.start()
		}
	}
	if s.event(s.rates.cut) {
		s.cutSome()
	}
	if s.event(s.rates.cut) {
		s.hurry, s.severAt = s.now+80, s.now+10+s.rng.IntN(10)
	}
	if s.now == s.severAt {
		s.sever()
	}
	if len(s.net.cut) > 0 && s.event(s.rates.heal) {
		s.tracef("links heal")
		clear(s.net.cut)
	}
	if s.event(s.rates.stall) && n.up {
		n.paused = s.now + s.rng.IntN(150)
		s.tracef("node %d stands still until %d", n.id, n.paused)
	}
	if s.event(s.rates.stall) {
		n.stalled = s.now + s.rng.IntN(80)
		s.tracef("the disk of node %d stands still until %d", n.id, n.stalled)
	}
	if s.event(s.rates.transfer) {
		s.transfer()
	}
	if s.event(s.rates.change) {
		s.change()
	}
	s.putAway()
}

// cutSome cuts a link one way, a node off, or the cluster in two.
func (s *sim) cutSome() {
	n := uint64(len(s.nodes))
	a, b := 1+s.rng.Uint64N(n), 1+s.rng.Uint64N(n)
	switch s.rng.IntN(3) {
	case 0:
		s.net.cut[[2]uint64{a, b}] = true
		s.tracef("link %d to %d is cut", a, b)
	case 1:
		for o := uint64(1); o <= n; o++ {
			s.net.cut[[2]uint64{a, o}], s.net.cut[[2]uint64{o, a}] = true, true
		}
		s.tracef("node %d is cut off", a)
		if s.chance(2) {
			s.peersNotice(a)
		}
	default:
		side := s.rng.Uint64N(1 << n)
		for i := range n {
			for j := range n {
				if side>>i&1 != side>>j&1 {
					s.net.cut[[2]uint64{i + 1, j + 1}] = true
				}
			}
		}
		s.tracef("the cluster is cut in two: %0*b", int(n), side)
	}
}

// sever cuts a leader off while clients read much and what the others sent it
// is late: a leader that does not know that it was replaced may mislead.
func (s *sim) sever() {
	r := s.pick(s.rng.IntN(s.shards))
	if r == nil {
		return
	}
	s.tracef("node %d, which leads shard %d, is cut off", r.n.id, r.shard)
	for _, o := range s.nodes {
		s.net.cut[[2]uint64{r.n.id, o.id}], s.net.cut[[2]uint64{o.id, r.n.id}] = true, true
	}
	for _, p := range s.net.packets {
		if p.to == r.n.id && s.chance(2) {
			p.due += 10 + s.rng.IntN(40)
		}
	}
	s.peersNotice(r.n.id)
}

// peersNotice tells everybody that the connection to a node broke.
func (s *sim) peersNotice(id uint64) {
	for _, o := range s.nodes {
		if o.id == id || !o.up || o.paused > s.now {
			continue
		}
		o.do(func() {
			for _, shard := range sorted(o.replicas) {
				o.replicas[shard].PeerDown(id)
				o.replicas[shard].process()
			}
		})
	}
}

func (s *sim) transfer() {
	shard := s.rng.IntN(s.shards)
	r := s.pick(shard)
	if r == nil {
		return
	}
	to := 1 + s.rng.Uint64N(uint64(len(s.nodes)))
	r.n.do(func() {
		s.tracef("node %d is to hand shard %d to node %d", r.n.id, shard, to)
		r.TransferLeader(to, func(err error) { s.tracef("node %d, shard %d to node %d: %v", r.n.id, shard, to, err) })
		r.process()
	})
}
