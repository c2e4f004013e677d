package node

import (
	"context"
	"fmt"
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
			w.Summary, w.Details = fmt.Sprintf("waits for %d tasks to complete", len(t.WaitsFor)), t.WaitsFor
			break
		}
		w.Summary = "waits until " + t.NotBefore.Format(time.RFC3339)
		if t.Attempts > 0 {
			w.Summary += fmt.Sprintf(" (backoff after attempt %d: %s)", t.Attempts, t.LastError)
		}
	case "awaiting_approval":
		w.Summary = fmt.Sprintf("waits for approval: %d of %d", len(t.ApprovedBy), t.ApproversNeeded)
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
		w.Summary, w.Details = n.whyWaiting(t.Action+":"+t.Target, id)
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
	if d := n.desk(id.Shard()); d != nil {
		l, _, _ := d.overlay(id)
		stolen = l.say()
	}
	if c != nil {
		w.Summary = c.say(t.AgentID)
	} else if !t.SelfLeased && stolen == "" {
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
func (n *core) whyWaiting(capability string, id ledger.TaskID) (string, []string) {
	var could []ledger.Agent
	well := 0
	n.control.view(func(c *ledger.Control) {
		for _, a := range c.Agents() {
			if able(a.Capabilities, capability) {
				if could = append(could, a); a.State == ledger.AgentHealthy {
					well++
				}
			}
		}
	})
	var details []string
	for i := range could {
		switch a := &could[i]; {
		case len(details) == maxWhyDetails:
		case a.State != ledger.AgentHealthy:
			details = append(details, fmt.Sprintf("%s could, but is %s: %s", a.ID, a.State, a.Reason))
		case a.MaxTasks > 0 && n.holds.count(a.ID) >= int(a.MaxTasks):
			details = append(details, fmt.Sprintf("%s could, but holds %d tasks, its max_concurrent_tasks", a.ID, a.MaxTasks))
		}
	}
	if well == 0 {
		return fmt.Sprintf("waits: no worker can do %s%s", capability, states(could)), details
	}
	workers := fmt.Sprintf("%d healthy workers", well)
	if well == 1 {
		workers = "1 healthy worker"
	}
	if d := n.desk(id.Shard()); d != nil {
		if ahead := d.ahead(id); ahead > 0 {
			return fmt.Sprintf("waits: behind %d of its class, for %s", ahead, workers), details
		}
	}
	return fmt.Sprintf("waits: the next of its class, for %s", workers), details
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

// ahead counts the ready tasks of the shard that nobody holds and that come
// before id in its class, those of its fleet: of a higher band, or as high and ready before.
func (d *desk) ahead(id ledger.TaskID) (count int) {
	var of ledger.Brief
	for from := 0; ; from += aheadRun {
		d.mu.Lock()
		if i, ok := d.mu.byID[id]; ok {
			of = d.mu.slots[i].brief
		}
		to := min(from+aheadRun, len(d.mu.slots))
		for _, s := range d.mu.slots[min(from, to):to] {
			b := &s.brief
			if b.State != ledger.StateReady || s.lease.agent != "" || b.Capability != of.Capability || b.Fleet != of.Fleet || b.Self || b.ID == id || b.ID.IsZero() {
				continue
			}
			if b.Priority > of.Priority || b.Priority == of.Priority && b.ReadyMillis <= of.ReadyMillis && string(b.ID[:]) < string(of.ID[:]) {
				count++
			}
		}
		done := to == len(d.mu.slots)
		d.mu.Unlock()
		if done {
			return count
		}
	}
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
