package node

import (
	"encoding/json"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// A pooled at_least_once step that an agent performs while its session is
// rolled back is undone when it ends, and not cancelled under the agent's hands.
func TestRunningStepIsUndone(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[0], "w", "deploy:web")
	c.register(c.nodes[1], "u", "undo:web")
	id := c.submit(c.nodes[0], api.TaskSpec{Action: "deploy", Target: "web", SessionID: "sess", Guarantee: "at_least_once", LeaseSeconds: 60,
		Rollback: json.RawMessage(`{"action":"undo"}`)})
	step := c.lease(c.nodes[2], "w", 20)
	if step.TaskID != id {
		t.Fatalf("%+v", step)
	}
	c.inState(id, "running")
	saga, err := c.nodes[1].RollbackSession(t.Context(), "sess", api.SessionRollback{By: "ann", Reason: "wrong"})
	if err != nil || len(saga.Steps) != 1 {
		t.Fatalf("%v %+v", err, saga)
	}
	if x := c.task(c.nodes[0], id); x.State != "running" {
		t.Fatalf("the step is %s under the hands of its agent", x.State)
	}
	if v := c.settle(c.nodes[2], "w", step, "complete"); v.Error != nil {
		t.Fatal(v.Error)
	}
	undo := c.lease(c.nodes[1], "u", 20)
	if undo.ParentTaskID != id {
		t.Fatalf("%+v", undo)
	}
	c.settle(c.nodes[1], "u", undo, "complete")
	c.inState(id, "rolled_back")
	c.inState(saga.TaskID, "rolled_back")
}

// A step that was begun and failed may have done something: it is undone with
// its session. Under exactly_once the failure says that it did not happen.
func TestFailedStepIsUndone(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, nil)
	n := c.nodes[0]
	c.register(n, "w", "deploy:web")
	c.register(n, "u", "undo:web")
	failed := func(level, key string) string {
		id := c.submit(n, api.TaskSpec{Action: "deploy", Target: "web", SessionID: "sess", Guarantee: level, IdempotencyKey: key,
			Rollback: json.RawMessage(`{"action":"undo"}`), RetryPolicy: &api.RetryPolicy{MaxRetries: new(int)}})
		if api.ExactlyOnce(level) {
			if _, err := n.Approve(t.Context(), id, api.Judgement{By: "ann"}); err != nil {
				t.Fatal(err)
			}
		}
		step := c.lease(n, "w", 20)
		if v := c.settle(n, "w", step, "fail"); v.Error != nil || step.TaskID != id {
			t.Fatal(step, v.Error)
		}
		c.inState(id, "failed")
		return id
	}
	once := failed("exactly_once", "k1")
	if _, err := n.RollbackSession(t.Context(), "sess", api.SessionRollback{By: "ann"}); code(err) != "nothing_to_roll_back" {
		t.Fatal(err)
	}
	id := failed("at_least_once", "k2")
	saga, err := n.RollbackSession(t.Context(), "sess", api.SessionRollback{By: "ann"})
	if err != nil || len(saga.Steps) != 1 || saga.Steps[0] != id {
		t.Fatalf("%v %+v", err, saga)
	}
	undo := c.lease(n, "u", 20)
	if undo.ParentTaskID != id {
		t.Fatalf("%+v", undo)
	}
	c.settle(n, "u", undo, "complete")
	c.inState(id, "rolled_back")
	c.inState(saga.TaskID, "rolled_back")
	c.inState(once, "failed")
}
