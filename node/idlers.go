package node

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/quorate/quorate/sched"
)

// A ready task that finds agents waiting at its shard's leader goes to the best
// of them. One that waits at another node may rank higher by far, so nodes tell
// one another who has waited for idleMillis (notifyWaits): of each node and
// capability the best. If one of them leads the best of here by handoverLead,
// the task is leased to it and sent to its node (notifyGift), which is the way
// of a stolen task (theft.go) without the holder: the agent's node enters the
// lease and confirms it, or hands it back at once, for its agent has found
// something else to do; then an agent here gets it. If a message is lost, the
// node is asked about the lease like about any other (handback.go). When none
// waits here the best of those that wait elsewhere gets it in the same way, and
// only what is left is told to the peers as queued.
//
// An agent gets one task so until its node says again that it waits, and where
// work is queued none waits for long: then it costs one load of an atomic for
// each lease that was waited for.
const handoverLead = 0.1 // of the sum of the weights

// idlers are the agents that peers said wait, and whom this node told of.
type idlers struct {
	some atomic.Bool // there are any
	mu   struct {
		sync.Mutex
		at map[string]uint64 // by agent: the peer it waits at
	}
	told  []string    // stealLoop's own
	again atomic.Bool // one that was told of may be struck off at a peer
}

func newIdlers() *idlers {
	x := &idlers{}
	x.mu.at = map[string]uint64{}
	return x
}

// heard takes a peer's list in place of its former one.
func (x *idlers) heard(from uint64, body []byte) {
	var agents []string
	if json.Unmarshal(body, &agents) != nil || len(agents) > maxIdleCaps {
		return
	}
	x.set(from, agents)
}

func (x *idlers) set(from uint64, agents []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.mu.at, func(_ string, at uint64) bool { return at == from })
	for _, a := range agents {
		x.mu.at[a] = from
	}
	x.some.Store(len(x.mu.at) > 0)
}

// take strikes an agent off and returns where it waits; 0: nowhere known.
func (x *idlers) take(agent string) uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	at := x.mu.at[agent]
	delete(x.mu.at, agent)
	x.some.Store(len(x.mu.at) > 0)
	return at
}

// put enters an agent again that take struck off.
func (x *idlers) put(agent string, at uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.at[agent] = at
	x.some.Store(true)
}

// list is who waits at the peers, in any order.
func (x *idlers) list() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Collect(maps.Keys(x.mu.at))
}

// tellIdlers tells the peers which agents wait here, if that is not what they
// were told.
func (n *core) tellIdlers(idle []idleSeat) {
	x := n.idlers
	if x.again.Swap(false) {
		x.told = nil
	}
	type first struct {
		agent string
		score float64
	}
	best := map[string]first{} // by capability
	for _, s := range idle {
		score := n.rater.weights.score(n.standing(s.seat))
		for _, c := range s.call.caps {
			if b, ok := best[c]; !ok || score > b.score || score == b.score && s.agent < b.agent {
				best[c] = first{s.agent, score}
			}
		}
	}
	var agents []string
	for _, b := range best {
		agents = append(agents, b.agent)
	}
	slices.Sort(agents)
	agents = slices.Compact(agents)
	agents = agents[:min(len(agents), maxIdleCaps)]
	if len(agents) == 0 || slices.Equal(agents, x.told) { // who has gone since is struck off when it is tried
		return
	}
	n.tellPeers(notifyWaits, agents) // one that is away is told when it comes up
	x.told = agents
}

// betterElsewhere finds an agent that waits at a peer and leads agent by
// handoverLead for a task; node is 0 if there is none.
func (n *core) betterElsewhere(h sched.Handle, agent string) (better string, node uint64) {
	if !n.idlers.some.Load() {
		return "", 0
	}
	d := n.desk(handleShard(h))
	if d == nil {
		return "", 0
	}
	capability, last := d.waitingBehind(h)
	if capability == "" {
		return "", 0
	}
	w := &n.rater.weights
	return n.bestIdler(capability, []string{agent, last}, func(score func(agent string) (float64, bool)) float64 {
		mine, _ := score(agent)
		return mine + handoverLead*(w.success+w.load+w.trust)
	})
}

// handOverQueued begins with what is queued here, for nobody here waits: those
// known to wait at peers are given a task each, the best first.
func (n *core) handOverQueued(list []depth) (some bool) {
	if !n.idlers.some.Load() {
		return false
	}
	unbound := func(func(string) (float64, bool)) float64 { return math.Inf(-1) }
	for _, d := range list {
		for range d.Queued {
			agent, node := n.bestIdler(d.Capability, nil, unbound)
			if node == 0 {
				break
			}
			var h [1]sched.Handle
			if n.sched.TakeFor([]string{d.Capability}, h[:]) == 0 {
				n.idlers.put(agent, node)
				break
			}
			some = true
			n.background(func() { n.handOverTask(h[0], agent, node) })
		}
	}
	return some
}

// bestIdler strikes off the best of the agents that wait at peers, without some,
// whose score for a capability is above a bound; node is 0 if there is none.
func (n *core) bestIdler(capability string, without []string, bound func(score func(agent string) (float64, bool)) float64) (best string, node uint64) {
	n.rater.refresh()
	c := n.rater.current.Load()
	if c == nil {
		return "", 0
	}
	w := n.rater.weights
	of := c.ranking(capability, w)
	score := func(agent string) (float64, bool) {
		a := c.card(agent)
		if a == nil || !a.well {
			return 0, false
		}
		s, able := c.standing(a, of.action, of.target)
		return w.score(s), able
	}
	most := bound(score)
	for _, a := range n.idlers.list() {
		if x, able := score(a); able && !slices.Contains(without, a) && (x > most || x == most && best != "" && a < best) {
			best, most = a, x
		}
	}
	if best == "" {
		return "", 0
	}
	if node = n.idlers.take(best); !n.peers.Up(node) {
		return "", 0
	}
	return best, node
}

// waitingBehind is what a handle's task needs and who was given it last; empty:
// it stands for none that waits.
func (d *desk) waitingBehind(h sched.Handle) (capability, last string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, ok := d.slotOf(h)
	if !ok || !d.mu.slots[i].waits() {
		return "", ""
	}
	return d.mu.slots[i].brief.Capability, d.mu.slots[i].last
}

// gift is tasks leased to an agent that waits at the node it is sent to.
type gift struct {
	Agent      string   `json:"agent"`
	Capability string   `json:"c"`
	Tasks      []stolen `json:"tasks"`
}

// handOverTask leases a task to an agent that waits at a peer.
func (n *core) handOverTask(h sched.Handle, agent string, node uint64) {
	capability := ""
	if d := n.desk(handleShard(h)); d != nil {
		capability, _ = d.waitingBehind(h)
	}
	got := n.leaseAway([]sched.Handle{h}, agent, node)
	if len(got) == 0 {
		return
	}
	n.announceShards(got)
	b, err := json.Marshal(gift{Agent: agent, Capability: capability, Tasks: got})
	if err != nil {
		panic("node: gift: " + err.Error()) // plain fields always marshal
	}
	if n.peers.Notify(node, notifyGift, b) != nil { // it was not sent
		n.handBack(grantsOf(got))
	}
}

// giftHeard passes tasks on to the agent here that they are for, if it still
// waits.
func (n *core) giftHeard(body []byte) {
	var g gift
	if json.Unmarshal(body, &g) != nil || len(g.Tasks) == 0 || len(g.Tasks) > MaxLeases {
		return
	}
	n.idlers.again.Store(true)
	n.background(func() {
		n.seats.Lock()
		s := n.seats.of[g.Agent]
		n.seats.Unlock()
		got := grantsOf(g.Tasks)
		if s != nil {
			if call, ok := s.parked(); ok && call.room >= len(got) && sched.Matches(call.caps, g.Capability) {
				n.pass(s, got)
				return
			}
		}
		n.handBack(got)
	})
}

// leaseAway leases what handles stand for to an agent of a peer.
func (n *core) leaseAway(hs []sched.Handle, agent string, node uint64) (out []stolen) {
	for _, g := range n.leaseHandles(hs, agent, node) {
		if d := n.desk(g.id.Shard()); d != nil && g.logged {
			d.unconfirm(g.id, g.epoch, node, n.nowMillis())
		}
		out = append(out, stolen{ID: g.id, Epoch: g.epoch, LeaseMillis: g.leaseMillis, Attempt: g.attempt, Logged: g.logged})
	}
	return out
}

// announceShards has the replicas told what is committed in the shards of leases that
// go to a peer: the taker reads the tasks from its own, which may not know yet.
func (n *core) announceShards(list []stolen) {
	told := map[uint32]bool{}
	for _, g := range list {
		if shard := g.ID.Shard(); !told[shard] {
			told[shard] = true
			n.store.Announce(shard)
		}
	}
}
