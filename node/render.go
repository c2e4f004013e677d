package node

import (
	"errors"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/raftstore"
)

// asAPIError gives every error the shape callers see.
func asAPIError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, raftstore.ErrStopped) {
		return api.Errorf(503, 5, "node_stopping", api.RetryLater, "this node is stopping").WithHint("ask another one")
	}
	return errInternal(err)
}

func timeOf(millis int64) time.Time { return time.UnixMilli(millis).UTC() }

// timePtr is nil for 0.
func timePtr(millis int64) *time.Time {
	if millis == 0 {
		return nil
	}
	t := timeOf(millis)
	return &t
}

func stateNames() string {
	s := ""
	for st := ledger.StateSubmitted; st.String() != ""; st++ {
		if s != "" {
			s += ", "
		}
		s += st.String()
	}
	return s
}

func renderSpec(s *ledger.Spec) api.TaskSpec {
	retries := int(s.Retry.MaxRetries)
	t := api.TaskSpec{FleetID: s.Fleet, Action: s.Action, Target: s.Target, Description: s.Description,
		Input: s.Input, Context: s.Context, Priority: s.Priority.String(), Guarantee: s.Guarantee.String(),
		IdempotencyKey: s.Key, Deadline: timePtr(s.DeadlineMillis), NotBefore: timePtr(s.NotBeforeMillis),
		LeaseSeconds: float64(s.LeaseMillis) / 1000, Reversible: s.Reversible, Rollback: s.Rollback, Verify: s.Verify,
		Approval: s.Approval, Compliance: s.Compliance, SessionID: s.Session,
		RetryPolicy: &api.RetryPolicy{MaxRetries: &retries, Backoff: s.Retry.Backoff.String(),
			InitialDelaySeconds: float64(s.Retry.InitialDelayMillis) / 1000, MaxDelaySeconds: float64(s.Retry.MaxDelayMillis) / 1000}}
	for _, id := range s.After {
		t.After = append(t.After, id.String())
	}
	if !s.Parent.IsZero() {
		t.ParentTaskID = s.Parent.String()
	}
	return t
}

// l5Stolen is an assigned task's state in the Coordination Protocol's words, if
// its agent stole it.
const l5Stolen = "STOLEN"

// renderTask lays the desk's lease over a task's replicated state.
func (n *core) renderTask(t *ledger.Task) api.Task {
	out := api.Task{TaskID: t.ID.String(), TaskSpec: renderSpec(&t.Spec), Epoch: t.Epoch, Attempts: int(t.Attempts),
		AgentID: t.Agent, Result: t.Result, LastError: t.Error, ReadyAt: timePtr(t.ReadyMillis), CreatedAt: timeOf(t.CreatedMillis),
		UpdatedAt: timeOf(t.UpdatedMillis), CompletedAt: timePtr(t.CompletedMillis)}
	if t.State == ledger.StateSubmitted { // a delay, whether asked for or from a backoff
		out.NotBefore = timePtr(t.NotBeforeMillis)
	}
	state := t.State
	renderTxn(&out, t)
	if d := n.desk(t.ID.Shard()); d != nil && state == ledger.StateRunning {
		if l, _, ok := d.overlay(t.ID); ok {
			out.StolenFrom = l.from()
			out.LeaseExpires, out.Progress, out.Attempts = timePtr(l.expires), l.progress, int(t.Attempts)+1
		}
	} else if d != nil && !state.Terminal() {
		if l, epoch, ok := d.overlay(t.ID); ok {
			state = ledger.StateAssigned
			if l.started != 0 {
				state = ledger.StateRunning
			}
			out.StolenFrom = l.from()
			out.AgentID, out.Epoch, out.Attempts = l.agent, epoch, int(t.Attempts)+1
			out.LeaseExpires, out.Progress = timePtr(l.expires), l.progress
		}
	}
	out.State, out.L5, out.L7 = state.String(), state.L5(), state.L7()
	if out.StolenFrom != "" && state == ledger.StateAssigned {
		out.L5 = l5Stolen
	}
	return out
}

func renderLease(t *ledger.Task, g grant) api.Lease {
	l := api.Lease{TaskID: t.ID.String(), Epoch: g.epoch, FleetID: t.Spec.Fleet, Action: t.Spec.Action, Target: t.Spec.Target,
		Description: t.Spec.Description, Input: t.Spec.Input, Context: t.Spec.Context, Priority: t.Spec.Priority.String(),
		Guarantee: t.Spec.Guarantee.String(), Attempt: int(g.attempt), LeaseSeconds: float64(g.leaseMillis) / 1000,
		IdempotencyKey: t.Spec.Key, Deadline: timePtr(t.Spec.DeadlineMillis), SessionID: t.Spec.Session}
	if t.Txn != nil {
		l.Checkpoint = renderCheckpoint(&t.Txn.Saved)
	}
	if l.IdempotencyKey == "" {
		l.IdempotencyKey = l.TaskID // the key a target may honour, made from the ID
	}
	if !t.Spec.Parent.IsZero() {
		l.ParentTaskID = t.Spec.Parent.String()
	}
	return l
}
