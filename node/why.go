package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/sched"
)

// Why says where a task stands and what it waits for.
func (n *core) Why(ctx context.Context, id string) (api.Why, error) {
	tid, err := n.taskID(id)
	if err != nil {
		return api.Why{}, err
	}
	return onLeader(ctx, n, tid.Shard(), methodWhy, tid, n.whyHere)
}

func (n *core) whyHere(ctx context.Context, id ledger.TaskID) (api.Why, error) {
	t, err := n.taskHere(ctx, id)
	if err != nil {
		return api.Why{}, err
	}
	w := api.Why{TaskID: t.TaskID, State: t.State}
	switch t.State {
	case "submitted":
		if len(t.WaitsFor) > 0 {
			w.Summary, w.Details = "waits for "+countOf(len(t.WaitsFor))+" to complete", t.WaitsFor
			break
		}
		w.Summary = "waits until " + t.NotBefore.Format(time.RFC3339)
		if t.Attempts > 0 {
			w.Summary += fmt.Sprintf(" (backoff after attempt %d: %s)", t.Attempts, t.LastError)
		}
	case "awaiting_approval":
		w.Summary = fmt.Sprintf("waits for approval: %d of %d", len(t.ApprovedBy), t.ApproversNeeded)
		if t.Rule != "" {
			w.Summary += fmt.Sprintf(", as the rule %s (%s) demands", t.Rule, t.RulePack)
		}
		w.Details = append(w.Details, "quorate task approve "+t.TaskID)
		for _, a := range t.ApprovedBy {
			w.Details = append(w.Details, "approved by "+a.By)
		}
	case "unknown":
		w.Summary = fmt.Sprintf("in doubt: %s performed it at epoch %d and disappeared (%s)", t.AgentID, t.Epoch, t.LastError)
		if t.VerifyTaskID != "" {
			w.Details = append(w.Details, "asked: "+t.VerifyTaskID)
		}
		w.Details = append(w.Details, "its agent may still complete or fail it; or: quorate task resolve "+t.TaskID)
	case "rolling_back":
		w.Summary = "is being undone by " + t.RollbackTaskID
		if t.Role == "saga" {
			w.Summary = fmt.Sprintf("undoes its session: %d of %d steps", t.StepsDone, len(t.Steps))
		}
	case "ready":
		if t.SelfLeased {
			w.Summary = "waits for its agent to declare it again"
			break
		}
		w.Summary, w.Details = n.whyWaiting(ctx, t.Action+":"+t.Target, id, t.ApprovedBy)
	case "assigned", "running":
		n.whyGiven(&w, &t, id)
	default:
		w.Summary = "ended: " + t.State
		if t.LastError != "" {
			w.Summary += ": " + t.LastError
		}
	}
	return w, nil
}

// whyGiven explains who holds a task, by the breakdown kept when it was given.
func (n *core) whyGiven(w *api.Why, t *api.Task, id ledger.TaskID) {
	w.Summary = "given to " + t.AgentID
	var c *choice
	if d := n.desk(id.Shard()); d != nil {
		c = d.choiceOf(id)
	}
	var stolen string
	var given, term uint64 // the terms of the lease and of this node's desk
	if d := n.desk(id.Shard()); d != nil {
		l, _, _ := d.overlay(id)
		stolen, given, term = l.say(), l.epoch>>epochTermShift, d.led()
	}
	here := term != 0 && given == term
	if c == nil && !t.SelfLeased && here {
		// It had registered too short a time before to be rated.
		n.rater.refresh()
		if c = n.rater.choose(t.Action+":"+t.Target, t.AgentID); c == nil {
			w.Details = append(w.Details, "it came a moment before, and is not rated yet")
		} else {
			w.Details = append(w.Details, "it came a moment before, and was rated after")
		}
	}
	if c != nil {
		w.Summary = c.say(t.AgentID, n.id.NodeID)
	} else if !t.SelfLeased && stolen == "" && !here {
		w.Details = append(w.Details, "it was given before this node led its shard: what it was chosen by is not known any more")
	}
	if stolen != "" {
		w.Details = append(w.Details, w.Summary)
		w.Summary = stolen
	}
	if t.LeaseExpires != nil {
		w.Details = append(w.Details, fmt.Sprintf("epoch %d, lease until %s", t.Epoch, t.LeaseExpires.Format(time.RFC3339)))
	}
}

// whyWaiting explains a ready task that nobody has taken.
func (n *core) whyWaiting(ctx context.Context, capability string, id ledger.TaskID, approvers []api.Consent) (string, []string) {
	approved := func(a *ledger.Agent) bool {
		return slices.ContainsFunc(approvers, func(c api.Consent) bool { return c.By == a.ID })
	}
	var could []ledger.Agent
	well := 0
	n.control.view(func(c *ledger.Control) {
		for _, a := range c.Agents() {
			if able(a.Capabilities, capability) {
				if could = append(could, a); a.State == ledger.AgentHealthy && !approved(&a) {
					well++
				}
			}
		}
	})
	var details []string
	full := 0
	for i := range could {
		switch a := &could[i]; {
		case len(details) == maxWhyDetails:
		case approved(a):
			details = append(details, fmt.Sprintf("%s could, but approved it: who approves a task does not perform it", a.ID))
		case a.State != ledger.AgentHealthy:
			details = append(details, fmt.Sprintf("%s could, but is %s: %s", a.ID, a.State, a.Reason))
		default:
			if limit := n.atLimit(ctx, a, capability); limit != "" {
				full++
				details = append(details, fmt.Sprintf("%s could, but %s", a.ID, limit))
			}
		}
	}
	if well == 0 {
		return fmt.Sprintf("waits: no worker can do %s%s", capability, states(could)), details
	}
	workers := fmt.Sprintf("%d healthy workers", well)
	if well == 1 {
		workers = "1 healthy worker"
	}
	if full == well {
		workers += " at the limit of what may be held at once"
	}
	var q queueAhead
	if d := n.desk(id.Shard()); d != nil {
		q = d.ahead(id, n.nowMillis())
	}
	if q.otherFleets > 0 {
		details = append(details, fmt.Sprintf("other fleets have %d tasks of it ready in this shard: workers divide themselves among the fleets by weight, whatever the priorities", q.otherFleets))
	}
	switch {
	case q.leasing:
		return "waits: its lease is on its way through the log", details
	case q.shelvedTill > 0:
		return fmt.Sprintf("waits until %s: it was refused to who asked for it, or there was no queue for its class; then it is offered again",
			timeOf(q.shelvedTill).Format(time.RFC3339)), details
	case q.count > 0:
		return fmt.Sprintf("waits: behind %d of its class, for %s", q.count, workers), details
	}
	return fmt.Sprintf("waits: the next of its class, for %s", workers), details
}

// atLimit says which limit of its manifest keeps an agent from one more task of
// a capability, by what all nodes say that it holds; empty: none.
func (n *core) atLimit(ctx context.Context, a *ledger.Agent, capability string) string {
	limits := allowanceOf(a)
	if !limits.limited() {
		return ""
	}
	held, unlisted := n.heldAnywhere(ctx, a.ID)
	if k := len(held) + unlisted; limits.all > 0 && k >= limits.all {
		return fmt.Sprintf("holds %s, its max_concurrent_tasks", countOf(k))
	}
	for i := range limits.caps {
		c := &limits.caps[i]
		if !sched.Matches([]string{c.pattern}, capability) {
			continue
		}
		k := unlisted
		for _, of := range held {
			if c.covers(of) {
				k++
			}
		}
		if k >= c.most {
			return fmt.Sprintf("holds %s of %s, its max_concurrent", countOf(k), c.pattern)
		}
	}
	return ""
}

func countOf(tasks int) string {
	if tasks == 1 {
		return "1 task"
	}
	return fmt.Sprintf("%d tasks", tasks)
}

// heldAnywhere is what an agent holds in the cluster, with the capabilities as
// far as they are known; of nodes that do not answer, nothing.
func (n *core) heldAnywhere(ctx context.Context, agent string) (held map[ledger.TaskID]string, unlisted int) {
	held = map[ledger.TaskID]string{}
	q := elsewhereRequest{Agent: agent, Node: n.id.RaftID, Look: true}
	ctx, cancel := context.WithTimeout(ctx, elsewhereWait)
	defer cancel()
	enter := func(x elsewhere, err error) {
		if err != nil {
			return
		}
		unlisted += x.More
		for _, t := range x.Held {
			held[t.ID] = t.Capability
		}
	}
	enter(n.elsewhereHere(ctx, q))
	for _, v := range n.others() {
		if n.peers.Up(v.RaftID) {
			enter(callPeer[elsewhereRequest, elsewhere](ctx, n, v.RaftID, methodElsewhere, q))
		}
	}
	return held, unlisted
}

// maxWhyDetails bounds the agents named one by one.
const maxWhyDetails = 16

// able says that an agent with caps can do a capability, as the scheduler
// matches it.
func able(caps []ledger.CapabilitySpec, capability string) bool {
	for _, c := range caps {
		if sched.Matches([]string{c.Action + ":" + c.Target}, capability) {
			return true
		}
	}
	return false
}

// states says how many could, and what they are instead of healthy: "(2 could,
// both offline)".
func states(could []ledger.Agent) string {
	if len(could) == 0 {
		return ""
	}
	var names []string
	count := map[string]int{}
	for i := range could {
		s := could[i].State.String()
		if count[s]++; count[s] == 1 {
			names = append(names, s)
		}
	}
	out := fmt.Sprintf(" (%d could, ", len(could))
	if len(names) > 1 {
		for i, s := range names {
			names[i] = fmt.Sprintf("%d %s", count[s], s)
		}
		return out + strings.Join(names, ", ") + ")"
	}
	switch len(could) {
	case 1:
		return out + names[0] + ")"
	case 2:
		return out + "both " + names[0] + ")"
	}
	return out + "all " + names[0] + ")"
}

// aheadRun is how many slots are looked at under one hold of the desk's lock.
const aheadRun = 16_384

// queueAhead is what stands between a ready task and a worker, in its shard.
type queueAhead struct {
	count       int   // of its class and fleet, before it
	otherFleets int   // of its class, in any order
	leasing     bool  // its lease is on its way through the log
	shelvedTill int64 // it is offered again then; 0: it is queued
}

// key is what the scheduler compares the heads of its queues by: a band is worth
// so much waiting, and a deadline that is near raises a task by bands.
func (s *slot) key(nowMillis int64) int64 {
	return min(s.brief.ReadyMillis, nowMillis) - int64(s.band())*sched.DefaultAgingMillis
}

// ahead counts the ready tasks of the shard that nobody holds: of id's class and
// fleet those that the scheduler takes before it at nowMillis, and those of its
// class and other fleets.
//
// There is a queue for each band, in the order in which tasks came into it, and
// the queue whose head has the smallest key is taken from. So id is reached when
// the heads of all others have a larger key than anything from the head of its
// own queue to itself: what stands before the first such one in its queue comes
// before id. (The void handles of raised tasks are not known here. While they
// stand in a queue they hold it up like tasks, so the count is a little off.)
func (d *desk) ahead(id ledger.TaskID, nowMillis int64) (q queueAhead) {
	d.mu.Lock()
	i, ok := d.mu.byID[id]
	if !ok {
		d.mu.Unlock()
		return q
	}
	mine := *d.mu.slots[i]
	d.mu.Unlock()
	q.leasing = mine.leasing
	if mine.shelved {
		q.shelvedTill = mine.nextTry
	}
	largest := mine.key(nowMillis)
	d.rivals(&mine, func(s *slot) {
		if s.brief.Fleet != mine.brief.Fleet {
			q.otherFleets++
		} else if s.band() == mine.band() && s.queued < mine.queued {
			largest = max(largest, s.key(nowMillis))
		}
	})
	var stops [4]uint64 // by band: the place of the first that does not come before id; 0: none
	stops[mine.band()] = mine.queued
	d.rivals(&mine, func(s *slot) {
		b, key := s.band(), s.key(nowMillis)
		if s.brief.Fleet == mine.brief.Fleet && b != mine.band() && (key > largest || key == largest && b < mine.band()) && (stops[b] == 0 || s.queued < stops[b]) {
			stops[b] = s.queued
		}
	})
	d.rivals(&mine, func(s *slot) {
		if stop := stops[s.band()]; s.brief.Fleet == mine.brief.Fleet && (stop == 0 || s.queued < stop) {
			q.count++
		}
	})
	return q
}

// rivals calls fn, with the lock held, for the other queued tasks of the class.
func (d *desk) rivals(of *slot, fn func(*slot)) {
	for from := 0; ; from += aheadRun {
		d.mu.Lock()
		to := min(from+aheadRun, len(d.mu.slots))
		for _, s := range d.mu.slots[min(from, to):to] {
			if s.waits() && !s.shelved && s.brief.Capability == of.brief.Capability && s.brief.ID != of.brief.ID && !s.brief.ID.IsZero() {
				fn(s)
			}
		}
		done := to == len(d.mu.slots)
		d.mu.Unlock()
		if done {
			return
		}
	}
}

// led is the term that this node leads the shard in; 0: it does not.
func (d *desk) led() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.term
}

// choiceOf is why the holder of a task was chosen; nil when it is not known.
func (d *desk) choiceOf(id ledger.TaskID) *choice {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.mu.byID[id]; ok {
		return d.mu.slots[i].why
	}
	return nil
}
