package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// MaxSubmit bounds the tasks of one submit call.
const MaxSubmit = 1024

// Submit declares tasks. Each gets its own verdict, in order: accepted (and
// fsynced on a quorum, except best_effort), already known by its key, or
// refused.
func (n *core) Submit(ctx context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error) {
	if len(specs) > MaxSubmit {
		return nil, api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d tasks in one call, at most %d", len(specs), MaxSubmit)
	}
	if e := checkNames("by", by); e != nil {
		return nil, e
	}
	verdicts := make([]api.SubmitVerdict, len(specs))
	byShard := map[uint32][]int{}
	cmds := make([]ledger.Command, len(specs))
	now := n.nowMillis()
	keyless := n.anyShard()
	var rulings rulings
	for i := range specs {
		c, ruled, err := n.submitCommand(&specs[i], by, now, keyless)
		if err == nil {
			err = n.dependable(ctx, declaredSpec(c).After)
		}
		rulings.add(i, c, ruled, err)
		if verdicts[i].Error = err; err == nil {
			cmds[i] = c
		}
	}
	n.recall(ctx, &rulings, func(i int, c ledger.Command, a answer) { verdicts[i], cmds[i] = submitVerdict(c, a), nil })
	n.recordRulings(ctx, rulings, func(i int, err *api.Error) { verdicts[i].Error, cmds[i] = err, nil })
	for i, c := range cmds {
		if c != nil {
			shard := declaredID(c).Shard()
			byShard[shard] = append(byShard[shard], i)
		}
	}
	var wait sync.WaitGroup
	for shard, idx := range byShard {
		work := func() {
			batch := make([]ledger.Command, len(idx))
			for k, i := range idx {
				batch[k] = cmds[i]
			}
			for k, a := range n.do(ctx, shard, batch) {
				verdicts[idx[k]] = submitVerdict(batch[k], a)
			}
		}
		if len(byShard) == 1 {
			work()
		} else {
			wait.Go(work)
		}
	}
	wait.Wait()
	n.metrics.submitted.Add(float64(len(specs)))
	return verdicts, nil
}

// anyShard picks the task shard for work without a key: one a call, so that a
// batch stays one log entry.
func (n *core) anyShard() uint32 {
	return 1 + uint32(n.nextShard.Add(1)%uint64(n.shards-1))
}

// keyShard is the task shard that decides about a key: that of the task whose
// ID it is, if it is one.
func (n *core) keyShard(fleet, key string) uint32 {
	if shard, ok := ledger.KeyShard(key); ok && shard != controlShard && shard < n.shards {
		return shard
	}
	h := fnv.New64a()
	h.Write([]byte(fleet))
	h.Write([]byte{0})
	h.Write([]byte(key))
	return 1 + uint32(h.Sum64()%uint64(n.shards-1))
}

func submitVerdict(c ledger.Command, a answer) api.SubmitVerdict {
	id := declaredID(c).String()
	if a.err != nil {
		e := asAPIError(a.err)
		e.Task = id
		return api.SubmitVerdict{Error: e}
	}
	o := a.outcome
	switch o.Code {
	case ledger.OK:
		if o.ID.IsZero() { // best_effort: proposed, not awaited
			return api.SubmitVerdict{TaskID: id, State: ledger.StateSubmitted.String()}
		}
		return api.SubmitVerdict{TaskID: o.ID.String(), State: o.State.String(), Replayed: o.Replayed}
	case ledger.KeyReused:
		e := errKeyReused(declaredSpec(c).Key, o.ID)
		return api.SubmitVerdict{TaskID: o.ID.String(), Error: e}
	}
	return api.SubmitVerdict{Error: outcomeError(o, declaredID(c))}
}

func errKeyReused(key string, id ledger.TaskID) *api.Error {
	e := api.Errorf(422, 7, "idempotency_key_reused", api.RetryNo, "key %q belongs to task %s, submitted with another request", key, id).
		WithHint("use a new key for a new request")
	e.Task = id.String()
	return e
}

// declaredID is the ID in a command that makes a task.
func declaredID(c ledger.Command) ledger.TaskID {
	if d, ok := c.(*ledger.Declare); ok {
		return d.ID
	}
	return c.(*ledger.Submit).ID
}

func declaredSpec(c ledger.Command) *ledger.Spec {
	if d, ok := c.(*ledger.Declare); ok {
		return &d.Spec
	}
	return &c.(*ledger.Submit).Spec
}

// outcomeError says a ledger refusal as a caller sees it.
func outcomeError(o ledger.Outcome, id ledger.TaskID) *api.Error {
	var e *api.Error
	switch o.Code {
	case ledger.NotFound:
		e = errNoTask(id.String())
	case ledger.StaleLease:
		e = errStale(id, o.Epoch)
	case ledger.BadState:
		e = api.Errorf(409, 5, "bad_state", api.RetryNo, "task %s is %s: that is not possible now", id, o.State).WithHint("%s", hintOf(o.State, id))
	case ledger.Invalid:
		e = api.Errorf(422, 5, "invalid_task", api.RetryNo, "%s", o.Detail)
	default:
		if e = txnError(o, id); e == nil {
			e = api.Errorf(422, 5, o.Code.String(), api.RetryNo, "%s", o.Detail)
		}
	}
	e.Task = id.String()
	if o.State != 0 {
		e.State = o.State.String()
	}
	return e
}

// hintOf is what to do with a task in a state that forbids what was asked.
func hintOf(s ledger.State, id ledger.TaskID) string {
	switch {
	case s == ledger.StateUnknown:
		return fmt.Sprintf("it is in doubt: quorate task why %s says who is asked; quorate task resolve settles it", id)
	case s == ledger.StateRollingBack:
		return fmt.Sprintf("it is being undone: quorate task watch %s", id)
	case s.Terminal():
		return fmt.Sprintf("it has ended: quorate task get %s says how", id)
	}
	return fmt.Sprintf("quorate task why %s says where it stands", id)
}

func errNoTask(id string) *api.Error {
	e := api.Errorf(404, 5, "task_not_found", api.RetryNo, "there is no task %s", id).
		WithHint("another cluster's, or evicted after its retention: quorate ledger log --task finds its records")
	e.Task = id
	return e
}

// taskID reads a task ID and checks that its shard is one of the cluster's.
func (n *core) taskID(s string) (ledger.TaskID, error) {
	id, err := ledger.ParseTaskID(s)
	if err != nil {
		return id, api.Errorf(400, 5, "bad_task_id", api.RetryNo, "%q is not a task ID", s).WithHint("task IDs are what submit answered: t and 26 characters")
	}
	if id.Shard() == controlShard || id.Shard() >= n.shards {
		return id, api.Errorf(404, 5, "task_not_found", api.RetryNo, "task %s names shard %d, which this cluster does not have", s, id.Shard())
	}
	return id, nil
}

// Task reads one task, linearizably unless ctx is api.WithStale, after waiting
// up to wait for it to end.
func (n *core) Task(ctx context.Context, id string, wait time.Duration) (api.Task, error) {
	tid, err := n.taskID(id)
	if err != nil {
		return api.Task{}, err
	}
	if wait <= 0 {
		return n.readTask(ctx, tid)
	}
	ended, stop := n.waiters.on(tid)
	defer stop()
	t, err := n.readTask(ctx, tid)
	if err != nil || isTerminal(t.State) {
		return t, err
	}
	timer := time.NewTimer(min(wait, maxLeaseWait))
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	elsewhere := n.endsElsewhere(waiting, tid, t.State)
	defer timer.Stop()
	select {
	case <-ended:
	case <-elsewhere:
	case <-timer.C:
	case <-n.ctx.Done():
	case <-ctx.Done():
		return t, nil
	}
	return n.readTask(ctx, tid)
}

func isTerminal(state string) bool {
	s, err := ledger.ParseState(state)
	return err == nil && s.Terminal()
}

func (n *core) readTask(ctx context.Context, id ledger.TaskID) (api.Task, error) {
	return read(ctx, n, id.Shard(), methodTask, id, n.taskHere)
}

// taskHere reads a task on the leader: the replicated state behind a read
// barrier, with the desk's lease laid over it.
func (n *core) taskHere(ctx context.Context, id ledger.TaskID) (api.Task, error) {
	m := n.taskShard(id.Shard())
	if m == nil {
		return api.Task{}, errNotLeader
	}
	if err := n.barrier(ctx, id.Shard()); err != nil {
		return api.Task{}, err
	}
	t, ok, err := m.task(id)
	if err != nil {
		return api.Task{}, errInternal(err)
	}
	if !ok {
		return api.Task{}, errNoTask(id.String())
	}
	return n.renderTask(&t), nil
}

// change runs one command about one task and answers the task after it.
func (n *core) change(ctx context.Context, id ledger.TaskID, c ledger.Command) (api.Task, error) {
	a := n.do(ctx, id.Shard(), []ledger.Command{c})[0]
	if a.err != nil {
		return api.Task{}, asAPIError(a.err)
	}
	if a.outcome.Code != ledger.OK {
		return api.Task{}, outcomeError(a.outcome, id)
	}
	return n.readTask(ctx, id)
}

// Cancel ends a task that has not ended; its holder is told to stop.
func (n *core) Cancel(ctx context.Context, id, by, reason string) (api.Task, error) {
	tid, err := n.taskID(id)
	if err != nil {
		return api.Task{}, err
	}
	if e := checkNames("by", by); e != nil {
		return api.Task{}, e
	}
	return n.change(ctx, tid, &ledger.Cancel{ID: tid, By: by, Reason: reason})
}

// Erase takes the payload out of an ended task; its digests stay.
func (n *core) Erase(ctx context.Context, id, by, reason string) (api.Task, error) {
	tid, err := n.taskID(id)
	if err != nil {
		return api.Task{}, err
	}
	if e := checkNames("by", by); e != nil {
		return api.Task{}, e
	}
	return n.change(ctx, tid, &ledger.Erase{ID: tid, By: by, Reason: reason})
}

// Retry makes an ended, not completed task ready again with fresh attempts.
func (n *core) Retry(ctx context.Context, id, by string) (api.Task, error) {
	tid, err := n.taskID(id)
	if err != nil {
		return api.Task{}, err
	}
	if e := checkNames("by", by); e != nil {
		return api.Task{}, e
	}
	return n.change(ctx, tid, &ledger.Retry{ID: tid, By: by})
}

// listRequest asks a shard's leader for a page.
type listRequest struct {
	Shard  uint32         `json:"shard"`
	After  []byte         `json:"after,omitempty"`
	Filter api.TaskFilter `json:"filter"`
}

type listAnswer struct {
	Tasks []api.Task `json:"tasks"`
	Last  []byte     `json:"last,omitempty"` // last ID looked at, when there may be more
}

// Tasks lists tasks in shard and ID order, a page a call.
func (n *core) Tasks(ctx context.Context, f api.TaskFilter) (api.TaskPage, error) {
	page := api.TaskPage{Tasks: []api.Task{}}
	limit, err := pageLimit(f.Limit)
	if err != nil {
		return page, err
	}
	for _, s := range f.States {
		if _, err := ledger.ParseState(s); err != nil {
			return page, api.Errorf(400, 5, "unknown_state", api.RetryNo, "there is no task state %q", s).WithHint("states: %s", stateNames())
		}
	}
	cur, err := openCursor(n.cursorKey, "tasks", f.Cursor)
	if err != nil {
		return page, err
	}
	if cur.Shard == 0 {
		cur.Shard = 1
	}
	for cur.Shard < n.shards {
		f.Limit = limit - len(page.Tasks)
		a, err := read(ctx, n, cur.Shard, methodTasks, listRequest{Shard: cur.Shard, After: cur.After, Filter: f}, n.tasksHere)
		if err != nil {
			return page, err
		}
		page.Tasks = append(page.Tasks, a.Tasks...)
		if cur.After = a.Last; a.Last == nil {
			cur.Shard++
		}
		if len(page.Tasks) >= limit && cur.Shard < n.shards {
			page.NextCursor = cur.seal(n.cursorKey)
			break
		}
	}
	return page, nil
}

// tasksHere lists one shard on its leader. Whether a ready task is assigned or
// running only the desk knows, so those states filter after the overlay.
func (n *core) tasksHere(ctx context.Context, q listRequest) (listAnswer, error) {
	m := n.taskShard(q.Shard)
	if m == nil {
		return listAnswer{}, errNotLeader
	}
	if err := n.barrier(ctx, q.Shard); err != nil {
		return listAnswer{}, err
	}
	if q.Filter.RollbackFailed {
		list, err := n.stuckHere(m, &q.Filter)
		return listAnswer{Tasks: list}, err
	}
	lq := ledger.Query{Fleet: q.Filter.FleetID, Action: q.Filter.Action, Target: q.Filter.Target, Session: q.Filter.SessionID}
	want := map[string]bool{}
	for _, s := range q.Filter.States {
		want[s] = true
		st, _ := ledger.ParseState(s)
		if st == ledger.StateAssigned || st == ledger.StateRunning {
			lq.States = append(lq.States, ledger.StateReady)
		}
		lq.States = append(lq.States, st)
	}
	copy(lq.After[:], q.After)
	out := listAnswer{}
	for {
		var page ledger.Page
		var err error
		m.view(func(t *ledger.Tasks) { page, err = t.Scan(lq) })
		if err != nil {
			return out, errInternal(err)
		}
		for i := range page.Tasks {
			t := n.renderTask(&page.Tasks[i])
			if len(want) > 0 && !want[t.State] || q.Filter.AgentID != "" && t.AgentID != q.Filter.AgentID {
				continue
			}
			if out.Tasks = append(out.Tasks, t); len(out.Tasks) == q.Filter.Limit {
				out.Last = bytes.Clone(page.Tasks[i].ID[:])
				return out, nil
			}
		}
		if !page.More {
			return out, nil
		}
		if lq.After = page.Next; ctx.Err() != nil {
			return out, ctx.Err()
		}
	}
}

// waiters are calls waiting for a task to end on this node's replica.
type waiters struct {
	mu struct {
		sync.Mutex
		on map[ledger.TaskID]*waiter
	}
}

type waiter struct {
	ended chan struct{}
	count int
}

func newWaiters() *waiters {
	w := &waiters{}
	w.mu.on = map[ledger.TaskID]*waiter{}
	return w
}

// on returns a channel closed when the task ends, and a function to stop
// waiting.
func (w *waiters) on(id ledger.TaskID) (<-chan struct{}, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.mu.on[id]
	if x == nil {
		x = &waiter{ended: make(chan struct{})}
		w.mu.on[id] = x
	}
	x.count++
	return x.ended, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if x.count--; x.count == 0 && w.mu.on[id] == x {
			delete(w.mu.on, id)
		}
	}
}

func (w *waiters) applied(events []ledger.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.mu.on) == 0 {
		return
	}
	for i := range events {
		if x := w.mu.on[events[i].ID]; x != nil && events[i].State.Terminal() {
			close(x.ended)
			delete(w.mu.on, events[i].ID)
		}
	}
}

// submitCommand checks a submitted task and makes it a command, also when it is
// the rules that refuse it.
func (n *core) submitCommand(s *api.TaskSpec, by string, now int64, keyless uint32) (ledger.Command, *ledger.Ruled, *api.Error) {
	c := new(ledger.Submit) // most are; the spec is made where it stays
	spec := &c.Spec
	if err := n.parseSpecInto(spec, s, now); err != nil {
		return nil, nil, err
	}
	shard := keyless
	if spec.Key != "" {
		shard = n.keyShard(spec.Fleet, spec.Key)
	}
	spec.SubmittedBy = by
	terms, has, err := n.parseTerms(s, spec)
	if err != nil {
		return nil, nil, err
	}
	hash := ledger.DeclareHash(spec, &terms) // of what was asked, not of what the rules make of it
	id := ledger.NewTaskID(shard, now, n.random())
	ruled, err := n.rule(id, hash, spec, &terms, "")
	if has || terms.Approvers > 0 || spec.Guarantee == ledger.ExactlyOnce {
		return &ledger.Declare{ID: id, RequestHash: hash, Spec: *spec, Terms: terms}, ruled, err
	}
	c.ID, c.RequestHash = id, hash
	return c, ruled, err
}

func (n *core) checkJSON(field string, b json.RawMessage) *api.Error {
	if len(b) > n.cfg.MaxPayloadBytes {
		return api.Errorf(413, 2, "payload_too_large", api.RetryNo, "%s has %d bytes, at most %d", field, len(b), n.cfg.MaxPayloadBytes).
			WithHint("store it elsewhere and submit a reference")
	}
	if len(b) > 0 && !json.Valid(b) {
		return errInvalid(fmt.Sprintf("%s is not JSON", field))
	}
	return nil
}

func errInvalid(detail string) *api.Error {
	return api.Errorf(422, 5, "invalid_task", api.RetryNo, "%s", detail)
}
