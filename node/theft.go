package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/sched"
)

// A theft moves tasks from an agent that has not begun with them to an idle
// one. Only what the holder returns is moved: a task it has begun with it
// keeps, and one that does not answer too. Tasks leased by HTTP are never
// taken: start is optional, so nobody knows what their holder has begun with.
//
//	thief's node    asks the victim's node (rob, methodRob)
//	victim's node   picks victim and tasks, recalls them, takes what is returned
//	                to the leaders of their shards (serveRob, methodTransfer)
//	leader          moves the lease at its desk, so that the old epoch is over,
//	                and has the theft recorded (transferHere)
//	thief's node    enters the leases, hands them to the agent
//
// If an answer is lost on the way, the lease is the thief's and unconfirmed:
// its node is asked, and it goes back to the queue (handback.go).
const recallWait = 500 * time.Millisecond // for the holder's answer

// robRequest asks for tasks that agents of a node hold and have not begun with.
type robRequest struct {
	Agent string   `json:"agent"`
	Node  uint64   `json:"node"`
	Caps  []string `json:"caps"`
	Max   int      `json:"max"`
	Load  float64  `json:"load"`
}

// transferRequest has a shard's leader move leases.
type transferRequest struct {
	From     string   `json:"from"`
	FromNode uint64   `json:"from_node"`
	FromLoad float64  `json:"from_load"`
	To       string   `json:"to"`
	Node     uint64   `json:"node"`
	ToLoad   float64  `json:"to_load"`
	Caps     []string `json:"caps"`
	Tasks    []stolen `json:"tasks"`
}

// theft says how an agent came by a lease.
type theft struct {
	From     string  `json:"from"`
	FromLoad float64 `json:"from_load"`
	ToLoad   float64 `json:"to_load"`
}

// spares are the agents here that tasks can be recalled from, without except.
func (n *core) spares(except string) []spare {
	list := slices.DeleteFunc(n.holds.waiting(), func(v spare) bool { return v.agent == except || n.sessions.workOf(v.agent) == nil })
	for i := range list {
		list[i].load = n.loadOf(list[i].agent, list[i].held)
	}
	return list
}

// serveRob recalls tasks from the most loaded agent here that has some for the
// thief, and has what it returns moved.
func (n *core) serveRob(ctx context.Context, q robRequest) ([]stolen, error) {
	if q.Max < 1 || q.Max > MaxLeases || q.Agent == "" || !(q.Load >= 0 && q.Load <= 1) {
		return nil, errShort
	}
	for list := n.spares(q.Agent); len(list) > 0; {
		i := pickVictim(list)
		v := list[i]
		list = slices.Delete(list, i, i+1)
		tasks := n.holds.recall(v.agent, q.Caps, v.share(q.Max), n.nowMillis())
		if len(tasks) == 0 {
			continue
		}
		o := n.recalls.place(tasks)
		if !n.sessions.recall(v.agent, heldOf(tasks)) {
			n.recalls.end(o)
			continue
		}
		t := time.NewTimer(recallWait)
		defer t.Stop()
		select {
		case <-o.done:
		case <-t.C:
		case <-ctx.Done():
		case <-n.ctx.Done():
		}
		got := n.recalls.end(o)
		if len(got) == 0 || ctx.Err() != nil {
			n.handBack(got)
			return nil, nil
		}
		return n.transfer(&q, &v, got), nil
	}
	return nil, nil
}

// transfer has returned tasks moved to the thief by their shards' leaders.
func (n *core) transfer(q *robRequest, v *spare, returned []grant) (out []stolen) {
	byShard := map[uint32][]stolen{}
	for _, g := range returned {
		byShard[g.id.Shard()] = append(byShard[g.id.Shard()], stolen{ID: g.id, Epoch: g.epoch})
	}
	ctx, cancel := context.WithTimeout(n.ctx, attemptLimit)
	defer cancel()
	for shard, tasks := range byShard {
		got, err := onLeader(ctx, n, shard, methodTransfer, transferRequest{From: v.agent, FromNode: n.id.RaftID, FromLoad: v.load,
			To: q.Agent, Node: q.Node, ToLoad: q.Load, Caps: q.Caps, Tasks: tasks}, n.transferHere)
		if err != nil {
			n.cfg.Logger.Debug("returned tasks not moved", "layer", 5, "shard", shard, "count", len(tasks), "error", err)
			got = nil
		}
		out = append(out, got...)
		for _, g := range tasks { // what was moved has another epoch by now: nothing happens to it
			if !slices.ContainsFunc(got, func(x stolen) bool { return x.ID == g.ID }) {
				n.handBack([]grant{{id: g.ID, epoch: g.Epoch}})
			}
		}
	}
	return out
}

// transferHere is the leader's side of transfer: nobody hears of a theft that
// is not in the log.
func (n *core) transferHere(ctx context.Context, q transferRequest) ([]stolen, error) {
	if len(q.Tasks) == 0 || len(q.Tasks) > MaxLeases || q.From == "" || q.To == "" || q.From == q.To {
		return nil, errShort
	}
	shard := q.Tasks[0].ID.Shard()
	d := n.desk(shard)
	if d == nil {
		return nil, errNotLeader
	}
	now := n.nowMillis()
	moved, cmds, ok := d.transfer(&q, n.nodeName(q.Node), now)
	if !ok {
		return nil, errNotLeader
	}
	if len(cmds) == 0 {
		return []stolen{}, nil
	}
	out := make([]stolen, 0, len(moved))
	for i, a := range n.doHere(ctx, shard, cmds) {
		g := &moved[i]
		switch {
		case a.err == nil && a.outcome.Code == ledger.OK:
			if g.Logged {
				g.Epoch = a.outcome.Epoch
				d.marked(g.ID, g.Epoch, &q, now)
			}
			g.Theft = &theft{q.From, q.FromLoad, q.ToLoad}
			out = append(out, *g)
			n.counts.stole(&q, n.nodeName)
		case !g.Logged:
			n.handBack([]grant{{id: g.ID, epoch: g.Epoch}})
		}
	}
	return out, nil
}

// transfer moves leases from one agent to another, and returns the commands
// that record it. A lease in the log is moved by its command.
func (d *desk) transfer(q *transferRequest, node string, nowMillis int64) (moved []stolen, cmds []ledger.Command, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.term == 0 || !d.mu.opened {
		return nil, nil, false
	}
	for _, x := range q.Tasks {
		i, known := d.mu.byID[x.ID]
		if !known {
			continue
		}
		s := d.mu.slots[i]
		b := &s.brief
		if s.lease.agent != q.From || s.lease.epoch != x.Epoch || s.ending || s.leasing || b.Self || !b.Logged && s.lease.started != 0 ||
			!sched.Matches(q.Caps, b.Capability) {
			continue
		}
		c := &ledger.Steal{ID: x.ID, From: q.From, FromEpoch: x.Epoch, Agent: q.To, Node: node, FromLoad: thousandths(q.FromLoad), ToLoad: thousandths(q.ToLoad)}
		g := stolen{ID: x.ID, LeaseMillis: b.LeaseMillis, Attempt: b.Attempts + 1, Logged: b.Logged}
		if !b.Logged {
			s.epoch, s.last = max(s.epoch+1, d.mu.term<<epochTermShift|1), q.To
			s.lease = lease{agent: q.To, node: q.Node, epoch: s.epoch, assigned: nowMillis, expires: nowMillis + b.LeaseMillis,
				confirmBy: nowMillis + confirmMillis}
			s.lease.theft = &theft{q.From, q.FromLoad, q.ToLoad}
			d.hand(i, q.To)
			s.why = d.why(b.Capability, q.To)
			d.rearm(i)
			c.Epoch, g.Epoch = s.epoch, s.epoch
		}
		moved, cmds = append(moved, g), append(cmds, c)
	}
	return moved, cmds, true
}

// marked notes of a lease that was moved in the log where it came from, and
// that it is on its way to a node.
func (d *desk) marked(id ledger.TaskID, epoch uint64, q *transferRequest, nowMillis int64) {
	d.unconfirm(id, epoch, q.Node, nowMillis)
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.mu.byID[id]; ok && d.mu.slots[i].lease.epoch == epoch {
		d.mu.slots[i].lease.theft = &theft{q.From, q.FromLoad, q.ToLoad}
		d.mu.slots[i].why = d.why(d.mu.slots[i].brief.Capability, q.To)
	}
}

// say tells of the theft by which an agent got a task; empty if there was none.
func (l *lease) say() string {
	if l.theft == nil {
		return ""
	}
	return fmt.Sprintf("stolen by %s (load %s) from %s (load %s) at %s", l.agent, share(l.theft.ToLoad), l.theft.From, share(l.theft.FromLoad),
		timeOf(l.assigned).Format(time.RFC3339))
}

// from is whom a lease was stolen from; empty: nobody.
func (l *lease) from() string {
	if l.theft == nil {
		return ""
	}
	return l.theft.From
}

func thousandths(load float64) uint32 { return uint32(min(max(load, 0), 1)*ledger.MaxLoad + 0.5) }

// rob has an idle agent steal from a node's agents, for which the lease call
// that it waits in has room. What it gets waits for that call, or the next; if
// they went on with other work, it goes back.
func (n *core) rob(s *seat, victims uint64, call *parking) (some bool) {
	held := n.holds.count(s.agent)
	q := robRequest{Agent: s.agent, Node: n.id.RaftID, Caps: call.caps, Max: min(call.room, stealBatch), Load: n.loadOf(s.agent, held)}
	var got []stolen
	var err error
	if victims == n.id.RaftID {
		got, err = n.serveRob(n.ctx, q)
	} else {
		got, err = callPeer[robRequest, []stolen](n.ctx, n, victims, methodRob, q)
	}
	if err != nil || len(got) == 0 {
		return false
	}
	n.pass(s, grantsOf(got))
	return true
}

// pass enters leases of a waiting agent and hands them to it. What nobody takes
// goes back.
func (n *core) pass(s *seat, got []grant) {
	leases := n.bodies(n.ctx, s.agent, got)
	if len(leases) == 0 {
		return
	}
	taken := s.deliver(leases)
	t := time.NewTimer(deliverWait)
	defer t.Stop()
	select {
	case <-taken:
	case <-t.C:
	case <-n.ctx.Done():
	}
	n.returnLeases(s.agent, s.withdraw(taken))
}

// deliverWait is how long stolen tasks wait for an agent that was idle.
const deliverWait = time.Second

// returnLeases gives back what never reached the agent it was meant for.
func (n *core) returnLeases(agent string, list []api.Lease) {
	var back []grant
	for i := range list {
		if id, err := n.claimed(list[i].TaskID, agent, list[i].Epoch); err == nil && n.holds.yield(id, agent, list[i].Epoch) {
			back = append(back, grant{id: id, epoch: list[i].Epoch})
		}
	}
	n.handBack(back)
}

func heldOf(list []grant) []api.Held {
	out := make([]api.Held, len(list))
	for i, g := range list {
		out[i] = api.Held{TaskID: g.id.String(), Epoch: g.epoch}
	}
	return out
}

func grantsOf(list []stolen) []grant {
	out := make([]grant, len(list))
	for i, g := range list {
		out[i] = grant{id: g.ID, epoch: g.Epoch, leaseMillis: g.LeaseMillis, attempt: g.Attempt, logged: g.Logged, theft: g.Theft}
	}
	return out
}

// parcel is stolen tasks on their way to an agent.
type parcel struct {
	leases []api.Lease
	taken  chan struct{}
}

// deliver leaves tasks for the next lease call of the seat's agent, and rouses
// one that waits. The channel is closed when they are taken.
func (s *seat) deliver(list []api.Lease) <-chan struct{} {
	p := parcel{leases: list, taken: make(chan struct{})}
	s.mu.Lock()
	s.mu.parcels = append(s.mu.parcels, p)
	s.mu.Unlock()
	s.wake(1)
	return p.taken
}

// unpack takes what was left for the agent, if there is room for all of it.
func (s *seat) unpack(room int) []api.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.parcels) == 0 || len(s.mu.parcels[0].leases) > room {
		return nil
	}
	p := s.mu.parcels[0]
	s.mu.parcels = s.mu.parcels[1:]
	close(p.taken)
	return p.leases
}

// withdraw takes a parcel back that nobody took.
func (s *seat) withdraw(taken <-chan struct{}) []api.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range s.mu.parcels {
		if p.taken == taken {
			s.mu.parcels = slices.Delete(s.mu.parcels, i, i+1)
			return p.leases
		}
	}
	return nil
}
