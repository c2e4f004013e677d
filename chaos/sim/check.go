package sim

import (
	"hash/fnv"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quorate/quorate/raftstore"
)

// checker knows what every replica ever said and did, and what must hold of it.
type checker struct {
	s      *sim
	shards map[uint32]*truth
	digest int // how often digests were compared
}

// truth is what is known of one shard.
type truth struct {
	leaders   map[uint64]uint64         // term → who led in it
	votes     map[[2]uint64]uint64      // voter, term → for whom
	entries   map[[2]uint64]entrySum    // index, term → what it is
	committed map[uint64]committedEntry // by index
	last      uint64                    // greatest committed index
	digests   map[uint64]digestAt       // by applied index
	outcomes  map[[2]uint64]uint64      // index, number of the command → hash of its outcome
	floor     uint64                    // a read or write that begins now must see this index
}

type entrySum struct{ data, prevTerm uint64 }

type committedEntry struct {
	term, data uint64
	seen       uint64 // term of the replica that first applied it: the leader that committed it had none above
}

type digestAt struct {
	digest uint64
	node   uint64
	record uint64 // number of journal records and hash of the last one
}

func newChecker(s *sim) *checker {
	c := &checker{s: s, shards: map[uint32]*truth{}}
	for shard := range s.shards {
		c.shards[uint32(shard)] = &truth{leaders: map[uint64]uint64{}, votes: map[[2]uint64]uint64{}, entries: map[[2]uint64]entrySum{},
			committed: map[uint64]committedEntry{}, last: bootIndex, digests: map[uint64]digestAt{}, outcomes: map[[2]uint64]uint64{}, floor: bootIndex}
	}
	return c
}

func hashOf(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b) // never fails
	return h.Sum64()
}

// appended: log matching. Two entries with the same index and term are the same
// and have predecessors of the same term, so by induction the same logs before
// them. And no replica replaces what it has applied.
func (c *checker) appended(id uint64, shard uint32, entries []*pb.Entry, l *simLog) {
	t := c.shards[shard]
	pending := 0
	for _, e := range entries {
		prev, _ := l.Term(e.GetIndex() - 1) // it was there, or the append had failed
		key, sum := [2]uint64{e.GetIndex(), e.GetTerm()}, entrySum{hashOf(e.GetData()) + uint64(e.GetType()), prev}
		if known, ok := t.entries[key]; ok && known != sum {
			c.s.failf("log matching: shard %d entry %d of term %d differs on node %d", shard, e.GetIndex(), e.GetTerm(), id)
		}
		t.entries[key] = sum
		if done, ok := t.committed[e.GetIndex()]; ok && done.term > e.GetTerm() && e.GetIndex() <= l.now.commit {
			c.s.failf("node %d shard %d replaces committed entry %d of term %d by one of term %d", id, shard, e.GetIndex(), done.term, e.GetTerm())
		}
		if e.GetType() != pb.EntryNormal {
			pending++
		}
	}
	if pending > 0 {
		c.pendingChanges(id, shard, l)
	}
}

// pendingChanges: at most one configuration change is undecided in a leader's
// log. A follower may not know yet that earlier ones are committed.
func (c *checker) pendingChanges(id uint64, shard uint32, l *simLog) {
	if r := l.n.replicas[shard]; r == nil || r.Replica == nil || r.Standing().Role != raftstore.RoleLeader {
		return
	}
	n := 0
	for i := max(l.now.commit, l.now.truncated) + 1; i <= l.now.last(); i++ {
		if l.now.at(i).GetType() != pb.EntryNormal {
			n++
		}
	}
	if n > 1 {
		c.s.failf("node %d shard %d has %d pending configuration changes", id, shard, n)
	}
}

// leading: election safety, and leader completeness when it is news.
func (c *checker) leading(r *replica, term uint64) {
	t := c.shards[r.shard]
	who, known := t.leaders[term]
	if known && who != r.n.id {
		c.s.failf("election safety: shard %d term %d is led by node %d and node %d", r.shard, term, who, r.n.id)
	}
	t.leaders[term] = r.n.id
	if known {
		return
	}
	c.s.elections++
	// By log matching the last entry that has to be there stands for all before it.
	for i := t.last; i > r.log.now.truncated; i-- {
		e := t.committed[i]
		if e.term == 0 || e.seen >= term {
			continue
		}
		if have, err := r.log.Term(i); err != nil || have != e.term {
			c.s.failf("leader completeness: node %d leads shard %d in term %d without entry %d of term %d, committed by term %d",
				r.n.id, r.shard, term, i, e.term, e.seen)
		}
		return
	}
}

// leads: a replica tells its machine that it leads.
func (c *checker) leads(n *node, shard uint32, term uint64) { c.leading(n.replicas[shard], term) }

// sent looks at what a replica claims by what it sends.
func (c *checker) sent(r *replica, m *pb.Message) {
	switch m.GetType() {
	case pb.MsgApp, pb.MsgHeartbeat, pb.MsgSnap:
		c.leading(r, m.GetTerm())
	case pb.MsgVoteResp:
		if m.GetReject() {
			return
		}
		t, key := c.shards[r.shard], [2]uint64{r.n.id, m.GetTerm()}
		if who, ok := t.votes[key]; ok && who != m.GetTo() {
			c.s.failf("node %d votes in shard %d term %d for node %d and for node %d", r.n.id, r.shard, m.GetTerm(), who, m.GetTo())
		}
		t.votes[key] = m.GetTo()
		if c.s.rates.crash > 0 && r.n.armed == 0 && !c.s.calm && c.s.chance(6) {
			r.n.armed = 1 + c.s.rng.IntN(4) // a vote just given is what a crash must not lose
		}
	}
}

// applied: every replica applies the same entries in the same order, each
// command once, and comes to the same outcomes.
func (c *checker) applied(w *watched, e raftstore.Entry, outcomes [][]byte) {
	t := c.shards[w.shard]
	h := fnv.New64a()
	for i, cmd := range e.Commands {
		_, _ = h.Write(cmd) // never fails
		if outcomes == nil {
			continue
		}
		key, sum := [2]uint64{e.Index, uint64(i)}, hashOf(outcomes[i])
		if known, ok := t.outcomes[key]; ok && known != sum {
			c.s.failf("node %d shard %d index %d: command %d has another outcome than before", w.n.id, w.shard, e.Index, i)
		}
		t.outcomes[key] = sum
	}
	sum := h.Sum64()
	if known, ok := t.committed[e.Index]; ok {
		if known.term != e.Term || known.data != sum {
			c.s.failf("node %d shard %d applies another entry at %d (term %d) than was applied before (term %d)", w.n.id, w.shard, e.Index, e.Term, known.term)
		}
		return
	}
	seen := e.Term
	if r := w.n.replicas[w.shard]; r != nil && r.Replica != nil {
		seen = max(seen, r.Standing().Term)
	} else {
		seen = max(seen, w.n.disk.durable[w.shard].term)
	}
	t.committed[e.Index] = committedEntry{e.Term, sum, seen}
	t.last = max(t.last, e.Index)
	c.s.entries++
	for _, cmd := range e.Commands {
		op := c.s.ops[string(cmd)]
		switch {
		case op == nil:
			c.s.failf("node %d shard %d index %d: a command nobody proposed", w.n.id, w.shard, e.Index)
		case op.index != 0:
			c.s.failf("shard %d: command %d is in the log at %d and at %d", w.shard, op.n, op.index, e.Index)
		case op.refused:
			c.s.failf("shard %d: command %d was refused as certainly not done, and is in the log at %d", w.shard, op.n, e.Index)
		}
		op.index = e.Index
	}
}

// processed: what a replica is after an event.
func (c *checker) processed(r *replica) {
	t, at := c.shards[r.shard], r.Standing()
	if at.Role == raftstore.RoleLeader {
		c.leading(r, at.Term)
	}
	if at.Conf != r.confs[1] {
		r.confs = [2]*pb.ConfState{r.confs[1], at.Conf}
	}
	b := r.n.disk.books[r.shard]
	d := digestAt{r.machine.Digest(), r.n.id, uint64(len(b.records))}
	if len(b.records) > 0 {
		d.record += hashOf(b.records[len(b.records)-1])
	}
	known, ok := t.digests[at.Applied]
	if !ok {
		t.digests[at.Applied] = d
		return
	}
	if known.node != d.node {
		c.digest++
	}
	if known.digest != d.digest || known.record != d.record {
		c.s.failf("digests differ at applied index %d of shard %d: nodes %d and %d", at.Applied, r.shard, known.node, d.node)
	}
}

// acknowledged: durable on a majority at the moment it is said, after
// everything that was acknowledged before it was asked for.
func (c *checker) acknowledged(r *replica, op *op, index uint64) {
	t := c.shards[r.shard]
	if op.index != index {
		c.s.failf("shard %d: command %d is acknowledged at %d but was applied at %d", r.shard, op.n, index, op.index)
	}
	if index <= op.floor {
		c.s.failf("shard %d: command %d got index %d, but %d was acknowledged before it was proposed", r.shard, op.n, index, op.floor)
	}
	// A change of the configuration may have been applied since the entry was
	// committed: a majority before or after it will do, for the two overlap.
	enough, have, voters := false, 0, r.Standing().Conf.GetVoters()
	for _, conf := range []*pb.ConfState{r.confs[0], r.confs[1], r.Standing().Conf} {
		if conf == nil {
			continue
		}
		have = 0
		for _, id := range conf.GetVoters() {
			if c.durable(c.s.nodes[id-1], r.shard, index, t.committed[index].term) {
				have++
			}
		}
		enough = enough || have > len(conf.GetVoters())/2
	}
	if !enough {
		c.s.failf("shard %d: command %d is acknowledged by node %d but its entry %d is durable on %d of %d voters only",
			r.shard, op.n, r.n.id, index, have, len(voters))
	}
	t.floor = max(t.floor, index)
	c.s.acked++
}

// durable: would a node that loses power now have the entry?
func (c *checker) durable(n *node, shard uint32, index, term uint64) bool {
	l, st := n.disk.durable[shard], n.disk.states[shard]
	if l == nil || index > l.last() {
		return false
	}
	if index <= l.truncated {
		return st.index >= index
	}
	return l.at(index).GetTerm() == term
}

// read: linearizable, so it sees what was acknowledged or seen before it began.
func (c *checker) read(r *replica, floor, index uint64) {
	t := c.shards[r.shard]
	at := r.Standing()
	seen := max(index, r.machine.applied)
	if index < floor {
		c.s.failf("stale read: node %d shard %d term %d answers with index %d, %d was seen before it was asked", r.n.id, r.shard, at.Term, index, floor)
	}
	t.floor = max(t.floor, seen)
	c.s.reads++
}

// replicated is the last index that a majority has in its log, whatever the
// term: what a planted mistake takes for committed.
func (c *checker) replicated(r *replica) uint64 {
	voters := r.Standing().Conf.GetVoters()
	for i := r.log.now.last(); i > r.log.now.truncated; i-- {
		have := 0
		for _, id := range voters {
			if o := c.s.nodes[id-1].replicas[r.shard]; o != nil && o.log.now.last() >= i && o.log.now.truncated < i &&
				o.log.now.at(i).GetTerm() == r.log.now.at(i).GetTerm() {
				have++
			}
		}
		if have > len(voters)/2 {
			return i
		}
	}
	return 0
}

// final: everything acknowledged is in every member's replica.
func (c *checker) final() {
	for _, shard := range sorted(c.shards) {
		t, lead := c.shards[shard], c.s.leader(shard)
		for _, id := range slices.Concat(lead.Conf.GetVoters(), lead.Conf.GetLearners()) {
			if at := c.s.nodes[id-1].replicas[shard].Standing(); at.Applied < t.floor {
				c.s.failf("node %d shard %d has applied %d at the end, acknowledged was %d", id, shard, at.Applied, t.floor)
			}
		}
	}
}
