package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// TestRemovalTakenBack removes a node, and the one that is to take its replicas
// dies for good meanwhile: the way out is the operator's, and loses nothing.
func TestRemovalTakenBack(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { quickHealth(cfg); cfg.Logger = memberLogger(t) })
	n, ctx := c.nodes[0], t.Context()
	c.eventually("placement", c.placed)
	dead := c.admit("n4")
	c.eventually("four nodes", c.placed)
	c.drop(dead)
	c.eventually("nobody hears n4", func() error {
		if x, err := c.info("n4"); err != nil || x.Reachable {
			return fmt.Errorf("reachable: %v, %v", x.Reachable, err)
		}
		return nil
	})
	if _, err := n.RemoveNode(ctx, "n2", "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.DrainNode(ctx, "n4", "test"); code(err) != "membership_change_under_way" {
		t.Errorf("a drain beside a removal: %v", err)
	}
	if _, err := n.PromoteNode(ctx, "n2", "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.RemoveNode(ctx, "n4", "test"); err != nil {
		t.Fatal(err)
	}
	c.eventually("n4 is gone", func() error { return c.isState("n4", "removed") })
	c.eventually("three nodes", c.placed)
	k := c.nodes[1].core.Load()
	if _, err := k.dropHere(ctx, 1); code(err) != "placed_here" { // who asks does not lead any more
		t.Errorf("a placed replica was put away: %v", err)
	}
	if err := c.isState("n2", "member"); err != nil {
		t.Error(err)
	}
}

// TestTwoRemovals: the node that was to take what a removed one held is dead, and
// removed as well: neither waits for the other.
func TestTwoRemovals(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { quickHealth(cfg); cfg.Logger = memberLogger(t) })
	n, ctx := c.nodes[0], t.Context()
	c.eventually("placement", c.placed)
	dead := c.admit("n4")
	c.eventually("four nodes", c.placed)
	id := c.submit(n, api.TaskSpec{Action: "x", Target: "y"})
	c.drop(dead)
	for _, node := range []string{"n2", "n4"} {
		if _, err := n.RemoveNode(ctx, node, "test"); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range []string{"n2", "n4"} {
		c.eventually(node+" is gone", func() error { return c.isState(node, "removed") })
	}
	c.eventually("two nodes", c.placed)
	if got := c.task(n, id); got.TaskID != id {
		t.Errorf("task %q is %q", id, got.TaskID)
	}
}

// A learner that follows a log that grows by thousands of entries a pass is
// well, though it never has the last sixty-four; one that falls behind is not.
func TestLearnerKeepsUp(t *testing.T) {
	a := administrator{well: map[replicaKey]time.Time{}, last: map[uint32]uint64{}}
	start := time.Unix(1_790_000_000, 0)
	pass := func(n int, last, match uint64, answers bool) time.Time {
		v := shardView{Learners: []uint64{7}, Last: last}
		if answers {
			v.Matches = map[uint64]uint64{7: match}
		}
		a.look(3, &v, start.Add(time.Duration(n)*adminInterval))
		return a.well[replicaKey{3, 7}]
	}
	if !pass(0, 10_000, 0, true).IsZero() {
		t.Error("well with nothing")
	}
	since := pass(1, 20_000, 10_000, true)
	for n := 2; n < 40; n++ {
		if got := pass(n, uint64(n+1)*10_000, uint64(n)*10_000, true); got.IsZero() || got != since {
			t.Fatalf("pass %d: well since %v, and since %v before", n, got, since)
		}
	}
	if !pass(40, 410_000, 399_999, true).IsZero() {
		t.Error("well, and behind what there was a pass ago")
	}
	if pass(41, 420_000, 410_000, true).IsZero() {
		t.Error("not well again")
	}
	if !pass(42, 420_000, 0, false).IsZero() {
		t.Error("well, and does not answer")
	}
}
