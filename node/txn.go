package node

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// txnError says a refusal of a transaction; nil when it is another's.
func txnError(o ledger.Outcome, id ledger.TaskID) *api.Error {
	problem := func(status int, retry api.Retry, format string, args ...any) *api.Error {
		return api.Errorf(status, 7, o.Code.String(), retry, format, args...)
	}
	switch o.Code {
	case ledger.InProgress:
		e := problem(409, api.RetryLater, "task %s is performed by another agent, or another instance of this one", id).
			WithHint("declare it again later: it is done, or free, or in doubt by then")
		e.After = 1000
		return e
	case ledger.DigestMismatch:
		return problem(409, api.RetryNo, "the digest is not that of task %s's request", id).WithHint("look at the task again: what was read is not what would run")
	case ledger.SelfApproval:
		return problem(403, api.RetryNo, "who submits or performs task %s may not approve it", id).WithHint("ask somebody else")
	case ledger.AlreadyApproved:
		return problem(409, api.RetryNo, "this person has approved task %s already", id).WithHint("each approval needs another person")
	case ledger.NotApprover:
		return problem(403, api.RetryNo, "not one of those who may approve task %s", id).WithHint("the task's approval field lists them")
	case ledger.DeadlinePassed:
		return problem(409, api.RetryNo, "the deadline of task %s has passed", id).WithHint("declare it anew, with another deadline and key")
	case ledger.Irreversible:
		return problem(409, api.RetryNo, "task %s declared no rollback", id).WithHint("undo it by hand, and say so where it belongs")
	case ledger.ResultDiffers:
		return problem(409, api.RetryNo, "task %s was confirmed before, with another result", id).WithHint("the first result stands; `quorate task get` shows it")
	case ledger.CheckpointStale:
		return problem(409, api.RetryNo, "a newer checkpoint of task %s is there", id).WithHint("read it from the task, and go on from there")
	case ledger.TooManyDependents:
		return api.Errorf(422, 5, o.Code.String(), api.RetryNo, "%s", o.Detail).WithHint("let them wait for one task that waits for it")
	case ledger.DependencyMissing:
		return api.Errorf(422, 5, o.Code.String(), api.RetryNo, "%s", o.Detail).WithHint("tasks can wait only for tasks that exist; submit those first")
	}
	return nil
}

// govern runs a command of a person about one task and answers the task after
// it; what is refused is a matter of governance.
func (n *core) govern(ctx context.Context, id ledger.TaskID, c ledger.Command) (api.Task, error) {
	t, err := n.change(ctx, id, c)
	if e := asAPIErrorOrNil(err); e != nil && (e.Code == "bad_state" || e.Code == "invalid_task") {
		e.Layer = 7
		return t, e
	}
	return t, err
}

func asAPIErrorOrNil(err error) *api.Error {
	if err == nil {
		return nil
	}
	return asAPIError(err)
}

// Approve takes one person's consent to a task that waits for it.
func (n *core) Approve(ctx context.Context, id string, j api.Judgement) (api.Task, error) {
	return n.judge(ctx, id, j, false)
}

// Reject ends a task that waits for approval.
func (n *core) Reject(ctx context.Context, id string, j api.Judgement) (api.Task, error) {
	return n.judge(ctx, id, j, true)
}

func (n *core) judge(ctx context.Context, id string, j api.Judgement, reject bool) (api.Task, error) {
	tid, err := n.taskID(id)
	if err != nil {
		return api.Task{}, err
	}
	if e := checkWords(j.By, j.Reason); e != nil {
		return api.Task{}, e
	}
	c := &ledger.Decide{ID: tid, By: j.By, Reject: reject, Reason: j.Reason}
	if j.Digest != "" {
		b, err := hex.DecodeString(strings.TrimPrefix(j.Digest, "sha256:"))
		if err != nil || len(b) != len(c.Digest) {
			return api.Task{}, api.Errorf(422, 7, "bad_digest", api.RetryNo, "request_digest %.80q is not 64 hexadecimal digits", j.Digest).WithHint("the task shows its request_digest")
		}
		if copy(c.Digest[:], b); c.Digest == ([32]byte{}) { // in a command: none is given
			return api.Task{}, outcomeError(ledger.Outcome{Code: ledger.DigestMismatch}, tid)
		}
	}
	return n.govern(ctx, tid, c)
}

// Limits of what people say.
const (
	MaxReasonBytes   = 4 << 10
	MaxEvidenceBytes = 16 << 10
)

func checkWords(by, reason string) *api.Error {
	switch {
	case by == "" || len(by) > MaxNameBytes:
		return api.Errorf(422, 7, "by_missing", api.RetryNo, "say who decides, in at most %d bytes", MaxNameBytes).WithHint("the field by, or the header X-Quorate-Actor")
	case len(reason) > MaxReasonBytes:
		return api.Errorf(413, 2, "payload_too_large", api.RetryNo, "the reason has %d bytes, at most %d", len(reason), MaxReasonBytes)
	}
	return checkNames("by", by)
}

// Resolve settles a task in doubt, or one whose rollback failed.
func (n *core) Resolve(ctx context.Context, id string, r api.Resolution) (api.Task, error) {
	tid, err := n.taskID(id)
	if err != nil {
		return api.Task{}, err
	}
	if e := checkWords(r.By, ""); e != nil {
		return api.Task{}, e
	}
	as, err := ledger.ParseResolution(strings.ReplaceAll(r.As, "_", "-"))
	switch {
	case err != nil:
		return api.Task{}, api.Errorf(422, 7, "bad_resolution", api.RetryNo, "as %.40q: want completed, not-done or rolled-back", r.As)
	case r.Evidence == "":
		return api.Task{}, api.Errorf(422, 7, "evidence_missing", api.RetryNo, "a resolution says on what evidence").WithHint("where you looked, and what you found")
	case len(r.Evidence) > MaxEvidenceBytes:
		return api.Task{}, api.Errorf(413, 2, "payload_too_large", api.RetryNo, "the evidence has %d bytes, at most %d", len(r.Evidence), MaxEvidenceBytes)
	}
	if e := n.checkJSON("result", r.Result); e != nil {
		return api.Task{}, e
	}
	return n.govern(ctx, tid, &ledger.Resolve{ID: tid, By: r.By, As: as, Evidence: r.Evidence, Result: r.Result})
}

// Rollback has a task's effect undone.
func (n *core) Rollback(ctx context.Context, id, by, reason string) (api.Task, error) {
	tid, err := n.taskID(id)
	if err != nil {
		return api.Task{}, err
	}
	if e := checkWords(by, reason); e != nil {
		return api.Task{}, e
	}
	return n.govern(ctx, tid, &ledger.Rollback{ID: tid, By: by, Reason: reason})
}

// Save keeps a checkpoint, or a snapshot, of a held task.
func (n *core) Save(ctx context.Context, id string, s api.SaveRequest, snapshot bool) (api.Task, error) {
	tid, err := n.claimed(id, s.AgentID, s.Epoch)
	if err != nil {
		return api.Task{}, err
	}
	limit, what := ledger.MaxCheckpointBytes, "checkpoint"
	if snapshot {
		limit, what = ledger.MaxSnapshotBytes, "snapshot"
	}
	switch {
	case len(s.State) == 0:
		return api.Task{}, api.Errorf(422, 4, "state_missing", api.RetryNo, "a %s has a state", what)
	case len(s.State) > limit:
		return api.Task{}, api.Errorf(413, 4, "payload_too_large", api.RetryNo, "the %s has %d bytes, at most %d", what, len(s.State), limit).
			WithHint("store it elsewhere and save a reference")
	}
	n.roster.seen(s.AgentID)
	return n.change(ctx, tid, &ledger.Attach{ID: tid, Agent: s.AgentID, Epoch: s.Epoch, Snapshot: snapshot, Version: s.Version, State: s.State, Node: n.id.NodeID})
}

// RollbackSession undoes the steps of a session, the last one first. The task
// it answers is the saga: it ends rolled_back, or fails at a step.
func (n *core) RollbackSession(ctx context.Context, session string, r api.SessionRollback) (api.Task, error) {
	if r.FleetID == "" {
		r.FleetID = "default"
	}
	if e := checkWords(r.By, r.Reason); e != nil {
		return api.Task{}, e
	}
	if e := checkNames("session_id or fleet_id", session, r.FleetID); e != nil {
		return api.Task{}, e
	}
	steps, fixed, err := n.steps(ctx, r.FleetID, session)
	switch {
	case err != nil:
		return api.Task{}, err
	case len(fixed) > 0 && !r.SkipIrreversible:
		return api.Task{}, api.Errorf(409, 7, "irreversible", api.RetryNo, "session %s has %d completed steps without a rollback: %s", session, len(fixed), strings.Join(fixed[:min(len(fixed), 5)], ", ")).
			WithHint("skip_irreversible leaves them as they are")
	case len(steps) == 0:
		return api.Task{}, api.Errorf(404, 7, "nothing_to_roll_back", api.RetryNo, "session %s of fleet %s has nothing to roll back", session, r.FleetID)
	}
	shard := n.keyShard(r.FleetID, "session\x00"+session)
	steps, part := newestSteps(steps)
	c := &ledger.Saga{ID: ledger.NewTaskID(shard, n.nowMillis(), n.random()), Fleet: r.FleetID, Session: session, Steps: steps, By: r.By, Reason: part + r.Reason}
	return n.govern(ctx, c.ID, c)
}

// steps are the tasks of a session that a rollback has to look at, in the
// order they are undone: what has not ended, then what has, newest first; of
// what did not complete only attempts that may have done something. fixed names
// completed ones that can't be undone.
func (n *core) steps(ctx context.Context, fleet, session string) (steps []ledger.TaskID, fixed []string, err error) {
	var found []api.Task
	f := api.TaskFilter{FleetID: fleet, SessionID: session, Limit: api.MaxPage,
		States: []string{"submitted", "awaiting_approval", "ready", "assigned", "running", "unknown", "rolling_back", "completed", "failed", "timed_out", "cancelled"}}
	for {
		p, err := n.Tasks(ctx, f)
		if err != nil {
			return nil, nil, err
		}
		for _, t := range p.Tasks {
			switch {
			case t.Role != "":
				continue
			case t.State != "failed" && t.State != "timed_out" && t.State != "cancelled" || t.RollbackFailed:
			case t.Epoch == 0 || !undoable(&t) || api.ExactlyOnce(t.Guarantee): // as the ledger judges
				continue
			}
			found = append(found, t)
		}
		if f.Cursor = p.NextCursor; f.Cursor == "" {
			break
		}
	}
	for _, t := range undoOrder(found) {
		if t.State == "completed" && !undoable(t) {
			fixed = append(fixed, t.TaskID)
			continue
		}
		id, err := ledger.ParseTaskID(t.TaskID)
		if err != nil {
			return nil, nil, errInternal(fmt.Errorf("listed task: %w", err))
		}
		steps = append(steps, id)
	}
	return steps, fixed, nil
}

// undoable says that a task declares how it is rolled back.
func undoable(t *api.Task) bool { return len(t.Rollback) > 0 && string(t.Rollback) != "null" }

// newestSteps are as many steps as one saga undoes, and what its description
// begins with when that is not all. Asked for again, the rest is undone.
func newestSteps(steps []ledger.TaskID) (_ []ledger.TaskID, part string) {
	if len(steps) <= ledger.MaxSteps {
		return steps, ""
	}
	return steps[:ledger.MaxSteps], fmt.Sprintf("too_many_steps: only the newest %d of %d are undone; ask again when they are. ", ledger.MaxSteps, len(steps))
}

// undoOrder puts steps in the order they are undone: what waited for another
// one before that, whatever their leaders' clocks say; then what has not ended,
// then the newest end, then the newest ID. Dependencies form no cycle.
func undoOrder(steps []api.Task) []*api.Task {
	byID, waiting := make(map[string]*api.Task, len(steps)), map[string]int{} // by how many that are not undone yet
	for i := range steps {
		byID[steps[i].TaskID] = &steps[i]
	}
	for i := range steps {
		for _, on := range steps[i].After {
			waiting[on]++
		}
	}
	ended := func(t *api.Task) int64 {
		if t.CompletedAt == nil {
			return 1 << 62
		}
		return t.CompletedAt.UnixMilli()
	}
	q := &undoQueue{less: func(a, b *api.Task) bool {
		return cmp.Or(cmp.Compare(ended(b), ended(a)), b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.TaskID, a.TaskID)) < 0
	}}
	for i := range steps {
		if waiting[steps[i].TaskID] == 0 {
			heap.Push(q, &steps[i])
		}
	}
	out := make([]*api.Task, 0, len(steps))
	for q.Len() > 0 {
		t := heap.Pop(q).(*api.Task)
		out = append(out, t)
		for _, on := range t.After {
			if waiting[on]--; waiting[on] == 0 && byID[on] != nil {
				heap.Push(q, byID[on])
			}
		}
	}
	return out
}

// undoQueue has the steps that nothing waited for which is not undone yet.
type undoQueue struct {
	steps []*api.Task
	less  func(a, b *api.Task) bool
}

func (q *undoQueue) Len() int           { return len(q.steps) }
func (q *undoQueue) Less(i, j int) bool { return q.less(q.steps[i], q.steps[j]) }
func (q *undoQueue) Swap(i, j int)      { q.steps[i], q.steps[j] = q.steps[j], q.steps[i] }
func (q *undoQueue) Push(x any)         { q.steps = append(q.steps, x.(*api.Task)) }
func (q *undoQueue) Pop() any {
	t := q.steps[len(q.steps)-1]
	q.steps = q.steps[:len(q.steps)-1]
	return t
}

func renderCheckpoint(s *ledger.Saved) *api.Checkpoint {
	if s.Version == 0 {
		return nil
	}
	return &api.Checkpoint{Version: s.Version, State: s.State, AgentID: s.Agent, Epoch: s.Epoch, SavedAt: timePtr(s.Millis)}
}

// renderTxn adds what a task has that is more than a plain one.
func renderTxn(out *api.Task, t *ledger.Task) {
	out.RequestDigest = hex.EncodeToString(t.RequestHash[:])
	x := t.Txn
	if x == nil {
		return
	}
	name := func(id ledger.TaskID) string {
		if id.IsZero() {
			return ""
		}
		return id.String()
	}
	out.ApproversNeeded, out.Rule, out.RulePack = int(x.Terms.Approvers), x.Terms.Rule, x.Terms.Pack
	for _, a := range x.Approvals {
		out.ApprovedBy = append(out.ApprovedBy, api.Consent{By: a.By, At: timeOf(a.Millis)})
	}
	for _, id := range x.Waits {
		out.WaitsFor = append(out.WaitsFor, id.String())
	}
	for _, id := range x.Steps {
		out.Steps = append(out.Steps, id.String())
	}
	if x.Terms.SkipDependents {
		out.OnDependencyFailure = "skip"
	}
	out.Role, out.AboutTaskID, out.VerifyTaskID, out.RollbackTaskID = x.Role.String(), name(x.Of), name(x.Verify), name(x.Rollback)
	out.SagaTaskID, out.StepsDone, out.RollbackFailed = name(x.Saga), int(x.Next), x.Stuck
	out.SelfLeased, out.InstanceID, out.Checkpoint = x.Terms.Self, x.Instance, renderCheckpoint(&x.Saved)
	if out.Snapshot = x.Snapshot; out.Snapshot == nil {
		out.Snapshot = x.Terms.Snapshot
	}
}
