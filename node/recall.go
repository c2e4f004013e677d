package node

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/sched"
)

// Thresholds of stealing from agents, so that work does not bounce.
const (
	stealResidence = 100   // ms that a task stays with an agent at least
	recallAgain    = 5_000 // ms before a task that was not returned is recalled again
	stealBatch     = 32    // tasks in one theft
	heavyLoad      = 0.8   // agents with more are stolen from first
	exactVictims   = 16    // among more victims, the better of two
)

// spare is an agent of this node and how much it holds that it has not begun
// with, as far as is known here.
type spare struct {
	agent   string
	held    int
	waiting int
	load    float64
}

// waiting lists the agents with tasks that they have not begun with.
func (h *holds) waiting() (out []spare) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for agent, held := range h.mu.byAgent {
		if waiting := held - h.mu.begun[agent]; waiting > 0 {
			out = append(out, spare{agent: agent, held: held, waiting: waiting})
		}
	}
	return out
}

// ripe are capabilities of waiting tasks that may be recalled from the agents
// in connected, and next is when the first of the others may be; 0: none.
func (h *holds) ripe(connected map[string]struct{}, nowMillis int64) (capabilities []string, next int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[[2]string]bool{}
	for _, x := range h.mu.byTask {
		if _, ok := connected[x.agent]; !ok || x.begun || x.action == "" {
			continue
		}
		if at := x.recallable(); at > nowMillis {
			if next == 0 || at < next {
				next = at
			}
		} else if c := [2]string{x.action, x.target}; !seen[c] {
			seen[c] = true
			capabilities = append(capabilities, x.action+":"+x.target)
		}
	}
	return capabilities, next
}

// recallable is from when on a waiting task may be recalled.
func (x *hold) recallable() int64 {
	if x.asked > 0 {
		return x.asked + recallAgain
	}
	return x.since + stealResidence
}

// recall picks the oldest tasks of agent that caps can do and that it did not
// begin with, up to limit of them.
func (h *holds) recall(agent string, caps []string, limit int, nowMillis int64) []grant {
	h.mu.Lock()
	defer h.mu.Unlock()
	type old struct {
		grant
		since int64
	}
	var list []old
	for id, x := range h.mu.byTask {
		if x.agent == agent && !x.begun && x.recallable() <= nowMillis && x.action != "" && sched.Matches(caps, x.action+":"+x.target) {
			list = append(list, old{grant{id: id, epoch: x.epoch}, x.since})
		}
	}
	slices.SortFunc(list, func(a, b old) int {
		return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.id.Millis(), b.id.Millis()), strings.Compare(string(a.id[:]), string(b.id[:])))
	})
	out := make([]grant, min(limit, len(list)))
	for i := range out {
		out[i] = list[i].grant
		x := h.mu.byTask[out[i].id]
		x.asked = nowMillis
		h.mu.byTask[out[i].id] = x
	}
	return out
}

// begin notes that an agent has begun with a task.
func (h *holds) begin(id ledger.TaskID, epoch uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if x, ok := h.mu.byTask[id]; ok && x.epoch == epoch && !x.begun {
		x.begun = true
		h.mu.byTask[id] = x
		h.mu.begun[x.agent]++
		h.rest(x.agent)
	}
}

// rest tells that an agent has begun with all it holds. Call with the lock held.
func (h *holds) rest(agent string) {
	if h.mu.byAgent[agent] == h.mu.begun[agent] && h.rested != nil {
		h.rested()
	}
}

// busy says that an agent holds tasks it has not begun with.
func (h *holds) busy(agent string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.byAgent[agent] > h.mu.begun[agent]
}

// pickVictim chooses whom to steal from: the most loaded, those over heavyLoad
// first. Beyond exactVictims candidates it is the better of two.
func pickVictim(list []spare) int {
	var heavy []int
	for i := range list {
		if list[i].load > heavyLoad {
			heavy = append(heavy, i)
		}
	}
	if len(heavy) == 0 {
		for i := range list {
			heavy = append(heavy, i)
		}
	}
	if len(heavy) > exactVictims {
		a, b := rand.IntN(len(heavy)), rand.IntN(len(heavy)-1)
		if b >= a {
			b++
		}
		heavy = []int{heavy[a], heavy[b]}
	}
	best := -1
	for _, i := range heavy {
		if best < 0 || moreLoaded(&list[i], &list[best]) {
			best = i
		}
	}
	return best
}

func moreLoaded(a, b *spare) bool {
	return cmp.Or(cmp.Compare(a.load, b.load), cmp.Compare(a.waiting, b.waiting), strings.Compare(b.agent, a.agent)) > 0
}

// share is how many of a victim's waiting tasks a thief takes, who has none:
// half of them.
func (v *spare) share(limit int) int { return min((v.waiting+1)/2, limit, stealBatch) }

// recalls are the tasks that agents were asked to return.
type recalls struct {
	open atomic.Int32 // entries of of, so that most answers take no lock
	mu   struct {
		sync.Mutex
		of map[ledger.TaskID]*recallOrder
	}
}

// recallOrder is one request of an agent.
type recallOrder struct {
	tasks    []grant
	left     int
	returned []grant
	done     chan struct{} // closed when every task was answered for
}

// place enters an order, before the agent hears of it.
func (r *recalls) place(tasks []grant) *recallOrder {
	o := &recallOrder{tasks: tasks, left: len(tasks), done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.of == nil {
		r.mu.of = map[ledger.TaskID]*recallOrder{}
	}
	for _, g := range tasks {
		r.mu.of[g.id] = o
	}
	r.open.Store(int32(len(r.mu.of)))
	return o
}

// answered takes the agent's word on a task: it returns it, or has begun with
// it. It says whether a thief waits for it.
func (r *recalls) answered(id ledger.TaskID, epoch uint64, returned bool) bool {
	if r.open.Load() == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.mu.of[id]
	if o == nil {
		return false
	}
	for _, g := range o.tasks {
		if g.id == id && g.epoch == epoch {
			delete(r.mu.of, id)
			r.open.Store(int32(len(r.mu.of)))
			if returned {
				o.returned = append(o.returned, g)
			}
			if o.left--; o.left == 0 {
				close(o.done)
			}
			return true
		}
	}
	return false
}

// end closes an order: what is returned from now on goes back to the queue.
func (r *recalls) end(o *recallOrder) []grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range o.tasks {
		if r.mu.of[g.id] == o {
			delete(r.mu.of, g.id)
		}
	}
	r.open.Store(int32(len(r.mu.of)))
	return o.returned
}

// ended notes that an agent ends a task: it does not return it.
func (n *core) ended(agent string, s *api.Settlement) {
	if n.recalls.open.Load() == 0 {
		return
	}
	if id, err := n.claimed(s.TaskID, agent, s.Epoch); err == nil {
		n.recalls.answered(id, s.Epoch, false)
	}
}

// workOf is the working session of an agent here, if it has one.
func (s *sessions) workOf(agent string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.mu.of[agent]; x != nil && x.work {
		return x
	}
	return nil
}

// loadOf is an agent's load: what it says, or what it holds of its limit, or
// of what it holds and asks for.
func (n *core) loadOf(agent string, held int) float64 {
	_, load := n.roster.of(agent)
	limit := 0
	n.seats.Lock()
	if s := n.seats.of[agent]; s != nil {
		limit = s.max
	}
	n.seats.Unlock()
	if x := n.sessions.workOf(agent); limit == 0 && x != nil {
		limit = held + int(x.room.Load())
	}
	if limit > 0 {
		load = max(load, float64(held)/float64(limit))
	}
	return min(load, 1)
}
