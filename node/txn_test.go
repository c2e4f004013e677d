package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

func withAuto(cfg *Config) { cfg.AutoApprove = []string{"deploy:*"} }

func action(agent, key string) api.ActionRequest {
	return api.ActionRequest{AgentID: agent, TaskSpec: api.TaskSpec{Action: "deploy", Target: "web", Guarantee: "atp-3", IdempotencyKey: key,
		Verify: json.RawMessage(`{"action":"check"}`), LeaseSeconds: 30}}
}

func (c *testCluster) declare(n *Node, a api.ActionRequest) api.ActionVerdict {
	c.t.Helper()
	vs, err := n.Declare(c.t.Context(), []api.ActionRequest{a}, "test")
	if err != nil {
		c.t.Fatal(err)
	}
	return vs[0]
}

func (c *testCluster) want(v api.ActionVerdict, decision string) api.ActionVerdict {
	c.t.Helper()
	if v.Decision != decision {
		c.t.Fatalf("decision %s (%v), want %s", v.Decision, v.Error, decision)
	}
	return v
}

// inState waits for a task to be in a state.
func (c *testCluster) inState(id, state string) (t api.Task) {
	c.t.Helper()
	c.eventually(id+" "+state, func() (err error) {
		if t, err = c.nodes[0].Task(c.t.Context(), id, 0); err == nil && t.State != state {
			err = errors.New("is " + t.State)
		}
		return err
	})
	return t
}

func TestActionProtocol(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, withAuto)
	a := action("a1", "k1")
	go1 := c.want(c.declare(c.nodes[0], a), api.DecisionGo)
	if again := c.want(c.declare(c.nodes[1], a), api.DecisionGo); again.Epoch != go1.Epoch || !again.Replayed {
		t.Errorf("again %+v, first %+v", again, go1)
	}
	other := a
	other.InstanceID = "another process"
	c.want(c.declare(c.nodes[2], other), api.DecisionInProgress)
	c.want(c.declare(c.nodes[2], action("a2", "k1")), api.DecisionInProgress)
	changed := a
	changed.Input = json.RawMessage(`1`)
	if v := c.want(c.declare(c.nodes[2], changed), api.DecisionRefused); v.Error.Code != "idempotency_key_reused" || v.Error.Status != 422 {
		t.Errorf("%v", v.Error)
	}
	l := api.Lease{TaskID: go1.TaskID, Epoch: go1.Epoch}
	if v := c.settle(c.nodes[1], "a1", api.Lease{TaskID: l.TaskID, Epoch: l.Epoch + 1}, "complete"); v.Error == nil || v.Error.Code != "stale_lease" {
		t.Errorf("made-up epoch: %+v", v)
	}
	if v := c.settle(c.nodes[1], "a1", l, "complete"); v.Error != nil || v.State != "completed" {
		t.Fatalf("%+v", v)
	}
	if v := c.settle(c.nodes[2], "a1", l, "complete"); v.Error != nil || !v.Replayed {
		t.Errorf("confirmed again: %+v", v)
	}
	vs, err := c.nodes[0].Settle(t.Context(), "a1", []api.Settlement{{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: "complete", Result: []byte(`"other"`)}})
	if err != nil || vs[0].Error == nil || vs[0].Error.Code != "result_differs" || vs[0].Error.Layer != 7 {
		t.Errorf("confirmed with another result: %v %+v", err, vs)
	}
	if v := c.want(c.declare(c.nodes[2], action("a2", "k1")), api.DecisionDone); string(v.Result) != `"r"` || !v.Replayed {
		t.Errorf("%+v", v)
	}
}

// TestUnknown: an agent that disappears leaves its action in doubt, never
// ready; verify asks, and its answer settles it.
func TestUnknown(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, withAuto)
	c.register(c.nodes[0], "checker", "check:web")
	a := action("a1", "k1")
	a.LeaseSeconds = 0.3
	go1 := c.want(c.declare(c.nodes[0], a), api.DecisionGo)
	l := c.lease(c.nodes[1], "checker", 20)
	if l.ParentTaskID != go1.TaskID {
		t.Fatalf("the checker got %+v", l)
	}
	c.inState(go1.TaskID, "unknown")
	if v := c.want(c.declare(c.nodes[1], action("a2", "k1")), api.DecisionRefused); v.Error.Code != "idempotency_key_reused" { // its lease_seconds differ
		t.Errorf("%v", v.Error)
	}
	if v := c.want(c.declare(c.nodes[1], a), api.DecisionUnknown); v.Error.Status != 409 || v.Epoch != go1.Epoch {
		t.Errorf("%+v", v)
	}
	if _, err := c.nodes[0].Renew(t.Context(), go1.TaskID, api.Claim{AgentID: "a1", Epoch: go1.Epoch}); asAPIError(err).Code != "task_in_doubt" {
		t.Errorf("renewed in doubt: %v", err)
	}
	if _, err := c.nodes[0].Retry(t.Context(), go1.TaskID, "ann"); asAPIError(err).Code != "bad_state" {
		t.Errorf("retried in doubt: %v", err)
	}
	vs, err := c.nodes[1].Settle(t.Context(), "checker", []api.Settlement{{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: "complete", Result: []byte(`{"happened":true,"result":{"v":2}}`)}})
	if err != nil || vs[0].Error != nil {
		t.Fatal(err, vs)
	}
	if x := c.inState(go1.TaskID, "completed"); string(x.Result) != `{"v":2}` {
		t.Errorf("result %s", x.Result)
	}
	if v := c.settle(c.nodes[0], "a1", api.Lease{TaskID: go1.TaskID, Epoch: go1.Epoch}, "complete"); v.Error == nil {
		t.Errorf("confirmed after it was settled: %+v", v)
	}
}

// TestPooledExactlyOnce: the lease is in the log before the agent hears of
// it, and outlives its leader.
func TestPooledExactlyOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, withAuto)
	c.register(c.nodes[0], "a1", "deploy:web")
	spec := action("", "k1").TaskSpec
	id := c.submit(c.nodes[0], spec)
	l := c.lease(c.nodes[1], "a1", 20)
	if l.TaskID != id {
		t.Fatalf("leased %+v", l)
	}
	if x := c.inState(id, "running"); x.Epoch != l.Epoch || x.AgentID != "a1" {
		t.Fatalf("%+v", x)
	}
	c.moveLeaders()
	if _, err := c.nodes[2].Renew(t.Context(), id, api.Claim{AgentID: "a1", Epoch: l.Epoch}); err != nil {
		t.Fatal(err)
	}
	if v := c.settle(c.nodes[2], "a1", l, "complete"); v.Error != nil {
		t.Fatalf("%+v", v)
	}
}

// TestApproverIsNotAsked: an agent that approved a task is not given it, and the
// audit log is not filled with refusals while nobody else can do it.
func TestApproverIsNotAsked(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[0], "a1", "deploy:web")
	id := c.submit(c.nodes[0], action("", "k1").TaskSpec)
	c.inState(id, "awaiting_approval")
	if _, err := c.nodes[0].Approve(t.Context(), id, api.Judgement{By: "a1"}); err != nil {
		t.Fatal(err)
	}
	if ls, err := c.nodes[1].Lease(t.Context(), api.LeaseRequest{AgentID: "a1", WaitSeconds: 2}); err != nil || len(ls.Tasks) > 0 {
		t.Fatalf("%v %+v", err, ls)
	}
	if p, err := c.nodes[0].Audit(t.Context(), api.AuditFilter{Shard: -1, Verb: "refused", Limit: 10}); err != nil || len(p.Records) > 0 {
		t.Errorf("%v, %d refusals", err, len(p.Records))
	}
	c.eventually("why", func() error {
		w, err := c.nodes[0].Why(t.Context(), id)
		if err == nil && !strings.Contains(strings.Join(w.Details, "\n"), "a1 could, but approved it") {
			err = fmt.Errorf("%+v", w)
		}
		return err
	})
	c.register(c.nodes[2], "a2", "deploy:web")
	if l := c.lease(c.nodes[2], "a2", 20); l.TaskID != id {
		t.Fatalf("%+v", l)
	}
}

// moveLeaders hands every task shard to another node.
func (c *testCluster) moveLeaders() {
	c.t.Helper()
	for shard := uint32(1); shard <= 2; shard++ {
		var from uint64
		for _, n := range c.nodes {
			k := n.core.Load()
			if id, _ := k.leaders.of(shard); id == k.id.RaftID {
				from = id
				for _, v := range k.id.Voters {
					if v.RaftID != from {
						_ = k.store.TransferLeader(c.t.Context(), shard, v.RaftID) // tried again below
						break
					}
				}
			}
		}
	}
	c.eventually("leaders", func() error {
		for _, n := range c.nodes {
			if err := n.Ready(); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestApprovalSurvivesRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	a := action("a1", "k1")
	a.Approval = json.RawMessage(`{"approvers":2}`)
	v := c.want(c.declare(c.nodes[0], a), api.DecisionWait)
	judge := func(n *Node, by, digest, code string) {
		t.Helper()
		_, err := n.Approve(t.Context(), v.TaskID, api.Judgement{By: by, Digest: digest})
		if e := asAPIErrorOrNil(err); code == "" && e != nil || code != "" && (e == nil || e.Code != code || e.Layer != 7) {
			t.Fatalf("approved by %s: %v, want %q", by, err, code)
		}
	}
	judge(c.nodes[0], "test", v.RequestDigest, "self_approval")
	judge(c.nodes[0], "a1", v.RequestDigest, "self_approval")
	judge(c.nodes[0], "ann", fmt.Sprintf("%064x", 0), "digest_mismatch")
	judge(c.nodes[0], "ann", fmt.Sprintf("%064x", 1), "digest_mismatch")
	judge(c.nodes[0], "ann", "x", "bad_digest")
	judge(c.nodes[1], "ann", v.RequestDigest, "")
	judge(c.nodes[2], "ann", v.RequestDigest, "already_approved")
	page, err := c.nodes[1].Tasks(t.Context(), api.TaskFilter{States: []string{"awaiting_approval"}})
	if err != nil || len(page.Tasks) != 1 || len(page.Tasks[0].ApprovedBy) != 1 {
		t.Fatalf("inbox: %v %+v", err, page)
	}
	c.moveLeaders()
	c.close()
	c.open(3, nil)
	judge(c.nodes[2], "ann", v.RequestDigest, "already_approved")
	waiting := a
	waiting.WaitSeconds = 20
	got := make(chan api.ActionVerdict, 1)
	go func() {
		vs, err := c.nodes[0].Declare(t.Context(), []api.ActionRequest{waiting}, "test")
		if err != nil {
			vs = []api.ActionVerdict{{Decision: err.Error()}}
		}
		got <- vs[0]
	}()
	judge(c.nodes[1], "ben", v.RequestDigest, "")
	c.want(<-got, api.DecisionGo)
	judge(c.nodes[1], "cid", v.RequestDigest, "bad_state")
}

// TestDependenciesAcrossShards: a chain whose links fall where they may.
func TestDependenciesAcrossShards(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[0], "w", "step:x")
	var ids []string
	for i := range 6 {
		spec := api.TaskSpec{Action: "step", Target: "x", IdempotencyKey: fmt.Sprint("s", i)}
		if i > 0 {
			spec.After = ids[i-1:]
		}
		ids = append(ids, c.submit(c.nodes[i%3], spec))
	}
	for i := range ids {
		l := c.lease(c.nodes[i%3], "w", 20)
		if l.TaskID != ids[i] {
			t.Fatalf("step %d: got %s, want %s", i, l.TaskID, ids[i])
		}
		c.settle(c.nodes[0], "w", l, "complete")
	}
	// A failure goes down the chain.
	retries := 0
	first := c.submit(c.nodes[0], api.TaskSpec{Action: "step", Target: "x", IdempotencyKey: "f0", RetryPolicy: &api.RetryPolicy{MaxRetries: &retries}})
	second := c.submit(c.nodes[1], api.TaskSpec{Action: "none", Target: "x", IdempotencyKey: "f1", After: []string{first}})
	third := c.submit(c.nodes[2], api.TaskSpec{Action: "none", Target: "x", IdempotencyKey: "f2", After: []string{second}, OnDependencyFailure: "skip"})
	c.settle(c.nodes[0], "w", c.lease(c.nodes[0], "w", 20), "fail")
	c.inState(second, "failed")
	c.inState(third, "cancelled")
}

// TestSessionRollback undoes a session over its shards in reverse order.
func TestSessionRollback(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, withAuto)
	c.register(c.nodes[0], "u", "undo:web")
	var ids []string
	for i := range 4 {
		a := action("a1", fmt.Sprint("s", i))
		a.SessionID, a.Verify, a.Rollback = "sess", nil, json.RawMessage(`{"action":"undo"}`)
		a.After = ids[max(0, i-1):i] // of steps of two shards that end in one millisecond this alone is an order
		var v api.ActionVerdict
		c.eventually("its turn", func() error { // the step before has ended, and its shard says so
			if v = c.declare(c.nodes[i%3], a); v.Decision != api.DecisionGo {
				return fmt.Errorf("decision %s (%v)", v.Decision, v.Error)
			}
			return nil
		})
		c.settle(c.nodes[0], "a1", api.Lease{TaskID: v.TaskID, Epoch: v.Epoch}, "complete")
		ids = append(ids, v.TaskID)
	}
	saga, err := c.nodes[1].RollbackSession(t.Context(), "sess", api.SessionRollback{By: "ann", Reason: "wrong"})
	if err != nil || saga.Role != "saga" || len(saga.Steps) != 4 {
		t.Fatalf("%v %+v", err, saga)
	}
	for i := range ids {
		l := c.lease(c.nodes[i%3], "u", 20)
		if want := ids[len(ids)-1-i]; l.ParentTaskID != want {
			t.Fatalf("undoes %s, want %s", l.ParentTaskID, want)
		}
		c.settle(c.nodes[0], "u", l, "complete")
	}
	c.inState(saga.TaskID, "rolled_back")
	for _, id := range ids {
		c.inState(id, "rolled_back")
	}
	if _, err := c.nodes[0].Rollback(t.Context(), c.submit(c.nodes[0], api.TaskSpec{Action: "x", Target: "y"}), "ann", ""); asAPIError(err).Code != "irreversible" {
		t.Errorf("%v", err)
	}
}

// TestUndoOrder: what waited for another step is undone before it, though a
// clock that is behind says that it ended before; others by time, then ID.
func TestUndoOrder(t *testing.T) {
	at := func(ms int64) *time.Time { x := time.UnixMilli(ms); return &x }
	for _, x := range []struct {
		steps []api.Task
		want  string
	}{
		{[]api.Task{{TaskID: "a", CompletedAt: at(9)}, {TaskID: "b", CompletedAt: at(5), TaskSpec: api.TaskSpec{After: []string{"a"}}}, {TaskID: "c", CompletedAt: at(7), TaskSpec: api.TaskSpec{After: []string{"b"}}}}, "c b a"},
		{[]api.Task{{TaskID: "a", CompletedAt: at(5)}, {TaskID: "b", CompletedAt: at(5)}, {TaskID: "d", CompletedAt: at(6), TaskSpec: api.TaskSpec{After: []string{"gone"}}}, {TaskID: "c"}}, "c d b a"},
		{[]api.Task{{TaskID: "a", CompletedAt: at(9)}, {TaskID: "b", CompletedAt: at(1), TaskSpec: api.TaskSpec{After: []string{"a", "x"}}}, {TaskID: "x", CompletedAt: at(8)}, {TaskID: "y", CompletedAt: at(7)}}, "y b a x"},
		{nil, ""},
	} {
		var got []string
		for _, s := range undoOrder(x.steps) {
			got = append(got, s.TaskID)
		}
		if s := strings.Join(got, " "); s != x.want {
			t.Errorf("undone %s, want %s", s, x.want)
		}
	}
}

// TestNewestSteps: a session that is longer than a saga is undone from its end,
// and the saga says that this is not all.
func TestNewestSteps(t *testing.T) {
	steps := make([]ledger.TaskID, ledger.MaxSteps+1)
	for i := range steps {
		steps[i] = ledger.NewTaskID(1, 1, uint64(i))
	}
	if got, part := newestSteps(steps[1:]); len(got) != ledger.MaxSteps || part != "" {
		t.Errorf("at the limit: %d steps, %q", len(got), part)
	}
	got, part := newestSteps(steps)
	if len(got) != ledger.MaxSteps || got[0] != steps[0] || !strings.Contains(part, "10000 of 10001") {
		t.Errorf("one over: %d steps, %q", len(got), part)
	}
}

// TestFailedRollbackIsListed: until somebody settles it.
func TestFailedRollbackIsListed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, withAuto)
	c.register(c.nodes[0], "u", "undo:web")
	a := action("a1", "k1")
	a.Verify, a.Rollback = nil, json.RawMessage(`{"action":"undo","max_retries":0}`)
	v := c.want(c.declare(c.nodes[0], a), api.DecisionGo)
	vs, err := c.nodes[0].Settle(t.Context(), "a1", []api.Settlement{{TaskID: v.TaskID, Epoch: v.Epoch, Verdict: "unknown", Error: "killed"}})
	if err != nil || vs[0].Error != nil || vs[0].State != "rolling_back" { // on_unknown is the default without verify
		t.Fatalf("%v %+v", err, vs)
	}
	c.settle(c.nodes[0], "u", c.lease(c.nodes[1], "u", 20), "fail")
	x := c.inState(v.TaskID, "failed")
	list := func() int {
		p, err := c.nodes[2].Tasks(t.Context(), api.TaskFilter{RollbackFailed: true})
		if err != nil {
			t.Fatal(err)
		}
		return len(p.Tasks)
	}
	if !x.RollbackFailed || list() != 1 {
		t.Fatalf("%+v, %d listed", x, list())
	}
	if _, err := c.nodes[1].Resolve(t.Context(), v.TaskID, api.Resolution{By: "ann", As: "rolled-back", Evidence: "by hand"}); err != nil || list() != 0 {
		t.Fatalf("%v, %d listed", err, list())
	}
}

// TestCheckpointGoesToTheNextHolder after a lease is lost.
func TestCheckpointGoesToTheNextHolder(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[0], "w1", "step:x")
	c.submit(c.nodes[0], api.TaskSpec{Action: "step", Target: "x", LeaseSeconds: 0.5, RetryPolicy: &api.RetryPolicy{InitialDelaySeconds: 0.01}})
	l := c.lease(c.nodes[0], "w1", 20)
	if _, err := c.nodes[1].Save(t.Context(), l.TaskID, api.SaveRequest{AgentID: "w1", Epoch: l.Epoch, State: []byte(`{"at":7}`)}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nodes[1].Save(t.Context(), l.TaskID, api.SaveRequest{AgentID: "w2", Epoch: l.Epoch, State: []byte(`{}`)}, false); err == nil {
		t.Error("somebody else's checkpoint was taken")
	}
	next := c.lease(c.nodes[2], "w1", 20)
	if next.Checkpoint == nil || string(next.Checkpoint.State) != `{"at":7}` || next.Checkpoint.Version != 1 || next.Epoch <= l.Epoch {
		t.Fatalf("%+v", next)
	}
	if _, err := c.nodes[1].Save(t.Context(), l.TaskID, api.SaveRequest{AgentID: "w1", Epoch: l.Epoch, State: []byte(`{}`)}, false); asAPIErrorOrNil(err) == nil || asAPIError(err).Code != "stale_lease" {
		t.Errorf("with a stale epoch: %v", err)
	}
}

// TestOneKeyTenThousandTimes: ten thousand concurrent declarations of one key,
// from three nodes, by as many agents: one go.
func TestOneKeyTenThousandTimes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, withAuto)
	const count, batch = 10_000, 50
	var effects, done atomic.Int64
	var wg sync.WaitGroup
	for b := range count / batch {
		wg.Go(func() {
			list := make([]api.ActionRequest, batch)
			for i := range list {
				list[i] = action(fmt.Sprintf("a%d-%d", b, i), "the one key")
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			n := c.nodes[b%3]
			vs, err := n.Declare(ctx, list, "test")
			if err != nil {
				t.Error(err)
				return
			}
			for i, v := range vs {
				switch v.Decision {
				case api.DecisionGo:
					effects.Add(1)
					s, err := n.Settle(ctx, list[i].AgentID, []api.Settlement{{TaskID: v.TaskID, Epoch: v.Epoch, Verdict: "complete", Result: []byte(`1`)}})
					if err != nil || s[0].Error != nil {
						t.Error(err, s)
					}
				case api.DecisionDone:
					done.Add(1)
				case api.DecisionInProgress:
				default:
					t.Errorf("%+v", v)
				}
			}
		})
	}
	wg.Wait()
	if effects.Load() != 1 {
		t.Errorf("%d effects, want 1 (%d told that it was done)", effects.Load(), done.Load())
	}
	c.want(c.declare(c.nodes[0], action("late", "the one key")), api.DecisionDone)
}
