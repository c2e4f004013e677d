package node

import (
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
)

// holds remembers which tasks the agents connected to this node hold. A new
// shard leader asks for it before it dispatches anything; an agent whose task
// ended without it is told.
type holds struct {
	clock  func() time.Time
	began  time.Time // promises made before are forgotten
	rested func()    // called with the lock held when an agent has begun with all it holds
	mu     struct {
		sync.Mutex
		byTask  map[ledger.TaskID]hold
		byAgent map[string]int
		begun   map[string]int // of them, those the agent said it began with
		// reserved is room that lease calls under way may fill.
		reserved map[string]int
		freed    map[string]chan struct{}  // by agent: closed when a task was let go
		uses     map[string]*use           // of agents that have limits
		byCap    map[string]map[string]int // of those with limits by capability, what is held; "": not known
		promised map[promiseTo]time.Time   // when what was promised to peers is over
		word     word
	}
}

type hold struct {
	agent       string
	epoch       uint64
	leaseMillis int64  // 0: not known here
	renewAt     int64  // ms; for agents whose session renews
	capability  string // "": not known, or of no matter

	action, target string // empty: not known here
	since          int64  // held since, ms
	asked          int64  // to return it, ms; 0: never
	theft          *theft // nil: it was not stolen
	begun          bool   // its agent said that it began with it
}

func newHolds(clock func() time.Time) *holds {
	h := &holds{clock: clock, began: clock()}
	h.mu.byTask = map[ledger.TaskID]hold{}
	h.mu.byAgent, h.mu.begun = map[string]int{}, map[string]int{}
	h.mu.reserved = map[string]int{}
	h.mu.freed, h.mu.uses, h.mu.byCap = map[string]chan struct{}{}, map[string]*use{}, map[string]map[string]int{}
	h.mu.promised = map[promiseTo]time.Time{}
	h.mu.word = word{terms: map[uint32]uint64{}, denied: map[ledger.TaskID]denial{}}
	return h
}

// add notes that agent holds a task for leaseMillis from now on (0: as long as
// was known before); an older epoch never replaces a newer. capability may be
// "", see hold.
func (h *holds) add(id ledger.TaskID, agent, capability string, epoch uint64, leaseMillis, nowMillis int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enter(id, agent, capability, epoch, leaseMillis, nowMillis)
}

// enter is add with the lock held; it returns the lease as entered, nil when a
// newer one stands.
func (h *holds) enter(id ledger.TaskID, agent, capability string, epoch uint64, leaseMillis, nowMillis int64) *hold {
	x, ok := h.mu.byTask[id]
	if ok && x.epoch > epoch {
		return nil
	}
	if ok {
		h.less(&x)
	}
	if !ok || x.epoch != epoch || x.agent != agent {
		x = hold{agent: agent, epoch: epoch, leaseMillis: x.leaseMillis, capability: x.capability, since: nowMillis}
	}
	if capability != "" {
		x.capability = capability
	}
	if leaseMillis != 0 {
		x.leaseMillis = leaseMillis
	}
	x.renewAt = nowMillis + x.leaseMillis/renewParts
	h.mu.byTask[id] = x
	h.mu.byAgent[agent]++
	if of := h.mu.byCap[agent]; of != nil {
		of[x.capability]++
	}
	if x.begun {
		h.mu.begun[agent]++
	}
	return &x
}

// renewParts is how often a lease is renewed before it would end.
const renewParts = 3

// toRenew lists, by shard, the leases of agents in connected that want to be
// renewed by now; each is listed again only after another part of its lease.
// next is when the earliest of the others wants it, 0 for none.
func (h *holds) toRenew(connected map[string]struct{}, nowMillis int64) (due map[uint32][]renewRequest, next int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, x := range h.mu.byTask {
		if _, ok := connected[x.agent]; !ok {
			continue
		}
		if x.renewAt <= nowMillis {
			if due == nil {
				due = map[uint32][]renewRequest{}
			}
			due[id.Shard()] = append(due[id.Shard()], renewRequest{ID: id, Agent: x.agent, Epoch: x.epoch, Verb: "renew"})
			x.renewAt = nowMillis + max(x.leaseMillis/renewParts, minRenewMillis)
			h.mu.byTask[id] = x
		}
		if next == 0 || x.renewAt < next {
			next = x.renewAt
		}
	}
	return due, next
}

// reserve sets aside room for up to want tasks of an agent that may hold limit
// at once, and returns for how many: lease calls that run at the same time do
// not fill the same place twice. release gives it back, when what was leased
// has been added.
func (h *holds) reserve(agent string, want, limit int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := max(0, min(want, limit-h.mu.byAgent[agent]-h.mu.reserved[agent]))
	if room > 0 {
		h.mu.reserved[agent] += room
	}
	return room
}

func (h *holds) release(agent string, room int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if room == 0 {
		return
	}
	if h.mu.reserved[agent] -= room; h.mu.reserved[agent] == 0 {
		delete(h.mu.reserved, agent)
	}
	h.signal(agent)
}

// signal rouses who waits for room of an agent's. Call with the lock held.
func (h *holds) signal(agent string) {
	if ch := h.mu.freed[agent]; ch != nil {
		close(ch)
		delete(h.mu.freed, agent)
	}
}

// letGo is closed when the agent's next held task, or reserved room, is let go.
func (h *holds) letGo(agent string) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch := h.mu.freed[agent]
	if ch == nil {
		ch = make(chan struct{})
		h.mu.freed[agent] = ch
	}
	return ch
}

// less counts one task less for its agent. Call with the lock held.
func (h *holds) less(x *hold) {
	h.signal(x.agent)
	if h.mu.byAgent[x.agent]--; h.mu.byAgent[x.agent] <= 0 {
		delete(h.mu.byAgent, x.agent)
	}
	if of := h.mu.byCap[x.agent]; of != nil {
		if of[x.capability]--; of[x.capability] <= 0 {
			delete(of, x.capability)
		}
		h.mu.uses[x.agent].wake()
	}
	if x.begun {
		if h.mu.begun[x.agent]--; h.mu.begun[x.agent] <= 0 {
			delete(h.mu.begun, x.agent)
		}
	}
	h.rest(x.agent)
}

// drop forgets a task held at epoch or before.
func (h *holds) drop(id ledger.TaskID, epoch uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if x, ok := h.mu.byTask[id]; ok && x.epoch <= epoch {
		h.less(&x)
		delete(h.mu.byTask, id)
	}
}

// dropAgent forgets everything an agent held.
func (h *holds) dropAgent(agent string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, x := range h.mu.byTask {
		if x.agent == agent {
			h.less(&x)
			delete(h.mu.byTask, id)
		}
	}
}

// count is how many tasks an agent holds through this node.
func (h *holds) count(agent string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.byAgent[agent]
}

// revoked is a held task that ended, or went on, without its holder.
type revoked struct {
	id     ledger.TaskID
	agent  string
	epoch  uint64
	reason string
}

// applied drops what events say is over and returns what was taken from its
// holder.
func (h *holds) applied(events []ledger.Event) (gone []revoked) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.mu.byTask) == 0 {
		return nil
	}
	for i := range events {
		e := &events[i]
		x, ok := h.mu.byTask[e.ID]
		if !ok || !e.State.Terminal() && (e.Epoch < x.epoch || e.State == ledger.StateRunning && e.Epoch == x.epoch) {
			continue
		}
		h.less(&x)
		delete(h.mu.byTask, e.ID)
		if e.Epoch == x.epoch && e.Agent == x.agent && e.Settled || e.State == ledger.StateUnknown {
			continue // its own doing; or in doubt: whoever still performs it shall finish, and say so
		}
		reason := e.State.String()
		if !e.State.Terminal() {
			reason = "stale_lease"
		}
		gone = append(gone, revoked{id: e.ID, agent: x.agent, epoch: x.epoch, reason: reason})
	}
	return gone
}
