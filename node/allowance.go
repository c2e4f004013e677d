package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// What an agent may hold at once, by its manifest: max_concurrent_tasks in all,
// and max_concurrent of each capability, of which a task counts against every
// one that covers it.
//
// The node that an agent leases through keeps to it: a lease call sets room
// aside before it takes anything (reserve), and a lease that would be one too
// many goes back before the agent hears of it (admit). Of an agent that leases
// through several nodes, each sets room aside first and then asks the others
// what they hold or have set aside: of two that ask at once, at least one sees
// the other. A node that has nothing of the agent promises not to lease to it
// without asking, so that an agent of one node costs a question in trustFor and
// not one a call.
//
// What was leased through a node that died, or was started anew, nobody there
// can tell; the desks can (allowance_desks.go). So every answer has what the
// desks there know of the agent, and a shard of which no desk answers, as
// between two leaders, means that there is no room. A lease counts until it is
// ended, given back, given to another or expired, so a dead node keeps its
// agents from work for as long as they might hold any, and no longer.
//
// A node that cannot be reached is asked through the others. If they can't
// reach it either, it may still rely on a promise made to it, and there is no
// room until that is over. After that it can't lease without this node's
// hearing of it: it has to ask the leader of every shard, and they, whom this
// node asks as well, ask on its behalf.
type allowance struct {
	all  int // 0: no limit
	caps []capLimit
}

type capLimit struct {
	pattern string
	most    int
}

func allowanceOf(a *ledger.Agent) (x allowance) {
	x.all = int(a.MaxTasks)
	for _, c := range a.Capabilities {
		if c.MaxConcurrent > 0 {
			x.caps = append(x.caps, capLimit{pattern: c.Action + ":" + c.Target, most: int(c.MaxConcurrent)})
		}
	}
	return x
}

func (a *allowance) limited() bool { return a.all > 0 || len(a.caps) > 0 }

// covers says that a task of capability counts against the limit; one whose
// capability is not known counts against all.
func (c *capLimit) covers(capability string) bool {
	return capability == "" || sched.Matches([]string{c.pattern}, capability)
}

const (
	// trustFor is how long a peer's promise lasts.
	trustFor = 5 * time.Second
	// trustSlack is added by who gave it, for a question on its way.
	trustSlack = time.Second
	// elsewhereAgain is the scale of the times between asking an agent's other
	// nodes again.
	elsewhereAgain = 50 * time.Millisecond
	elsewhereTurns = 6           // after so many it is every 400 ms
	elsewhereWait  = time.Second // for an answer
)

// use is what an agent with limits has of them. Guarded by the holds' lock.
type use struct {
	allowance
	asking sync.Mutex // before the holds' lock
	wake   func()     // rouses its parked lease calls: a capability has room again
	asked  uint64     // by peers, so often
	trust  map[uint64]time.Time
	// others are tasks held, or room set aside, at the peers, when they were
	// asked last.
	others     int
	othersCaps []int
}

// limit sets what an agent may hold; wake is called with the lock held.
func (h *holds) limit(agent string, a allowance, wake func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !a.limited() {
		delete(h.mu.uses, agent)
		delete(h.mu.byCap, agent)
		return
	}
	u := &use{allowance: a, wake: wake, trust: map[uint64]time.Time{}, othersCaps: make([]int, len(a.caps))}
	if old := h.mu.uses[agent]; old != nil {
		u.asked = old.asked + 1 // answers under way are about the old one
	}
	h.mu.uses[agent] = u
	delete(h.mu.byCap, agent)
	if len(a.caps) == 0 {
		return
	}
	of := map[string]int{}
	for _, x := range h.mu.byTask {
		if x.agent == agent {
			of[x.capability]++
		}
	}
	h.mu.byCap[agent] = of
}

// letGoOf is letGo for an agent with limits; it is got before room is looked
// for.
func (h *holds) letGoOf(s *seat) <-chan struct{} {
	if !s.limits.limited() {
		return nil
	}
	return h.letGo(s.agent)
}

// perCapability says that an agent has limits that a task's capability matters
// for.
func (h *holds) perCapability(agent string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.mu.uses[agent]
	return u != nil && len(u.caps) > 0
}

// taken counts what an agent holds here against its i-th limit. Call with the
// lock held.
func (h *holds) taken(agent string, c *capLimit) (n int) {
	for capability, k := range h.mu.byCap[agent] {
		if c.covers(capability) {
			n += k
		}
	}
	return n
}

// fits says that one more task stays within the limits of its capability. Call
// with the lock held.
func (h *holds) fits(agent, capability string) bool {
	u := h.mu.uses[agent]
	if u == nil {
		return true
	}
	for i := range u.caps {
		if c := &u.caps[i]; c.covers(capability) && h.taken(agent, c)+u.othersCaps[i] >= c.most {
			return false
		}
	}
	return true
}

// open is which of caps an agent has room for, and how many tasks it may take
// at once so that none is too many.
func (h *holds) open(agent string, caps []string, room int) ([]string, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.mu.uses[agent]
	if u == nil || len(u.caps) == 0 {
		return caps, room
	}
	out := make([]string, 0, len(caps))
	for _, pattern := range caps {
		left := room
		for i := range u.caps {
			if c := &u.caps[i]; c.pattern == pattern {
				left = min(left, c.most-h.taken(agent, c)-u.othersCaps[i])
			}
		}
		if left > 0 {
			out = append(out, pattern)
			room = min(room, left)
		}
	}
	return out, room
}

// promise notes that a peer may lease to an agent for a while without asking.
// Call with the lock held.
func (h *holds) promise(agent string, peer uint64) {
	now := h.clock()
	if len(h.mu.promised) >= maxSeats {
		for k, t := range h.mu.promised {
			if now.After(t) {
				delete(h.mu.promised, k)
			}
		}
	}
	h.mu.promised[promiseTo{agent, peer}] = now.Add(trustFor + trustSlack)
}

type promiseTo struct {
	agent string
	peer  uint64
}

// askElsewhere learns what the peers and the desks have of an agent that has
// limits, unless that was done and all promised; it is called with room set aside. alone
// says that none has anything.
func (n *core) askElsewhere(ctx context.Context, agent string, u *use) (alone bool) {
	h, peers := n.holds, n.others()
	all := append(slices.Clone(peers), nodeRef{RaftID: n.id.RaftID}) // with the desks here
	trusted, asked, now := h.trusts(u, all)
	var answers []elsewhere
	var silent []uint64
	if !trusted {
		answers, silent = n.askPeers(ctx, elsewhereRequest{Agent: agent, Node: n.id.RaftID}, peers)
		var own elsewhere
		n.addDesks(&own, agent)
		answers = append(answers, own)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.uses[agent] != u {
		return false // it registered anew: the next call asks for that
	}
	alone, u.others = true, 0
	clear(u.othersCaps)
	if trusted {
		return true
	}
	led, seen := map[uint32]bool{}, map[ledger.TaskID]bool{}
	for i := range answers {
		if h.countOthers(u, agent, &answers[i], seen) {
			alone = false
		}
		for _, shard := range answers[i].Led {
			led[shard] = true
		}
	}
	if !n.allLed(led) || h.mayRely(agent, silent, now) {
		u.others = noRoom
		return false
	}
	for _, v := range all {
		if alone = alone && u.asked == asked; alone {
			u.trust[v.RaftID] = now.Add(trustFor)
		}
	}
	return alone
}

// mayRely says that one of silent may have a promise of this node: one that is
// remembered, or was made before the node was started anew. Call with the lock
// held.
func (h *holds) mayRely(agent string, silent []uint64, now time.Time) bool {
	for _, id := range silent {
		if now.Before(h.mu.promised[promiseTo{agent, id}]) || now.Before(h.began.Add(trustFor+trustSlack)) {
			return true
		}
	}
	return false
}

var errNotReached = errors.New("node: not connected")

func (h *holds) useOf(agent string) *use {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.uses[agent]
}

// trusts says that every peer promised; else all are asked.
func (h *holds) trusts(u *use, peers []nodeRef) (all bool, asked uint64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, now = true, h.clock()
	for _, v := range peers {
		all = all && !now.After(u.trust[v.RaftID])
	}
	return all, u.asked, now
}

// noRoom is more than any limit.
const noRoom = 1 << 30

// countOthers adds what an answer has that is neither known here nor in seen,
// and says whether it has any. Call with the lock held.
func (h *holds) countOthers(u *use, agent string, x *elsewhere, seen map[ledger.TaskID]bool) (any bool) {
	more, known := x.More, 0
	for _, t := range x.Held {
		if h.mu.byTask[t.ID].agent == agent {
			known++
			continue
		}
		if seen[t.ID] {
			continue
		}
		any, seen[t.ID] = true, true
		u.others++
		for i := range u.caps {
			if u.caps[i].covers(t.Capability) {
				u.othersCaps[i]++
			}
		}
	}
	if more > 0 { // of those that were not listed, these are known here
		more = max(0, more-h.heldIn(agent, x.Led)+known)
	}
	more += x.Reserved
	u.others += more
	for i := range u.caps {
		u.othersCaps[i] += more
	}
	return any || more > 0
}

// heldIn counts what an agent holds here of some shards. Call with the lock held.
func (h *holds) heldIn(agent string, shards []uint32) (n int) {
	for id, t := range h.mu.byTask {
		if t.agent == agent && slices.Contains(shards, id.Shard()) {
			n++
		}
	}
	return n
}

// reserveFor sets room aside for up to want tasks of an agent, and says which
// capabilities they may be of; room 0: none now. Unless the agent is alone
// here, the caller must not wait with the room.
func (n *core) reserveFor(ctx context.Context, s *seat, want int) (room int, caps []string, alone bool) {
	if !s.limits.limited() {
		return want, s.caps, true
	}
	limit := s.limits.all
	if limit == 0 {
		limit = noRoom
	}
	u := n.holds.useOf(s.agent)
	if u == nil {
		return 0, nil, true // it is being registered anew
	}
	u.asking.Lock() // one at a time: a later answer replaces an earlier one
	defer u.asking.Unlock()
	if room = n.holds.reserve(s.agent, want, limit); room == 0 {
		return 0, nil, u.others == 0
	}
	alone = n.askElsewhere(ctx, s.agent, u)
	left := n.holds.within(s.agent, room, limit)
	caps, left = n.holds.open(s.agent, s.caps, left)
	if len(caps) == 0 {
		left = 0
	}
	if room > left {
		n.holds.release(s.agent, room-left)
	}
	return left, caps, alone
}

// within is what of reserved room the peers leave.
func (h *holds) within(agent string, room, limit int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if u := h.mu.uses[agent]; u != nil {
		room = max(0, min(room, limit-h.mu.byAgent[agent]-h.mu.reserved[agent]+room-u.others))
	}
	return room
}

// roomFor waits until an agent at its limits may have room; false when ctx
// ended first. One that is alone here has room when a task of its own is let
// go; else the peers are asked again, ever more rarely, and at random: those
// that wanted room at the same time have let go of it too.
func (n *core) roomFor(ctx context.Context, alone bool, freed <-chan struct{}, turn int) bool {
	again := make(<-chan time.Time)
	if !alone {
		freed = nil
		t := time.NewTimer(elsewhereAgain/16 + rand.N(elsewhereAgain<<min(turn, elsewhereTurns)/8))
		defer t.Stop()
		again = t.C
	}
	select {
	case <-freed:
	case <-again:
	case <-ctx.Done():
		return false
	case <-n.ctx.Done():
		return false
	}
	return true
}

// capabilityFor is the capability of a task that an agent holds, if that
// matters and this node knows it.
func (n *core) capabilityFor(agent string, id ledger.TaskID) string {
	m := n.taskShard(id.Shard())
	if m == nil || !n.holds.perCapability(agent) {
		return ""
	}
	if t, ok, err := m.task(id); err == nil && ok {
		return t.Spec.Action + ":" + t.Spec.Target
	}
	return ""
}
