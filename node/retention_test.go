package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// TestRetention: ended tasks go with their keys when their time is over, open
// ones and all records stay.
func TestRetention(t *testing.T) {
	c := startCluster(t, 1, func(cfg *Config) { cfg.BootstrapExpect, cfg.Shards = 1, 1 })
	n := c.nodes[0]
	ended := c.submit(n, api.TaskSpec{Action: "vet", Target: "go", IdempotencyKey: "k"})
	open := c.submit(n, api.TaskSpec{Action: "vet", Target: "go"})
	if _, err := n.Cancel(t.Context(), ended, "alice", "x"); err != nil {
		t.Fatal(err)
	}
	core := n.core.Load()
	if _, err := n.SetRetention(t.Context(), api.Retention{FleetID: "*", TasksMillis: 3600_000, KeysMillis: 60_000, By: "alice"}); err != nil {
		t.Fatal(err)
	}
	evict := func(after time.Duration) {
		p := core.retentionPolicy()
		core.evictEnded(1, &p, core.nowMillis()+after.Milliseconds(), ledger.TaskID{})
	}
	evict(59 * time.Minute) // the key's time is over, the task's is not
	if _, err := n.Task(t.Context(), ended, 0); err != nil {
		t.Fatalf("evicted before its time: %v", err)
	}
	evict(time.Hour + time.Second)
	if _, err := n.Task(t.Context(), ended, 0); asAPIError(err).Code != "task_not_found" {
		t.Errorf("not evicted: %v", err)
	}
	if _, err := n.Task(t.Context(), open, 0); err != nil {
		t.Errorf("an open task: %v", err)
	}
	if again := c.submit(n, api.TaskSpec{Action: "vet", Target: "go", IdempotencyKey: "k"}); again == ended {
		t.Error("its key still answers")
	}
	p, err := n.Audit(t.Context(), api.AuditFilter{Shard: -1, TaskID: ended})
	if err != nil || len(p.Records) != 2 {
		t.Errorf("%d records, %v", len(p.Records), err)
	}
	if _, err := Open(Config{DataDir: t.TempDir(), TaskRetention: time.Second}); err == nil {
		t.Error(fmt.Sprint("a retention below ", MinTaskRetention, " is taken"))
	}
}

// TestRetentionOfFleets: each fleet's own retention counts, is the same on
// every node, and spares what is not settled.
func TestRetentionOfFleets(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { withAuto(cfg); cfg.Shards = 1 })
	ctx, n := t.Context(), c.nodes[0]
	for i, r := range []api.Retention{{FleetID: "short", TasksMillis: 60_000, KeysMillis: 60_000}, {FleetID: "keyed", TasksMillis: 60_000, KeysMillis: 7200_000}, {FleetID: "gone", TasksMillis: 60_000}} {
		if _, err := c.nodes[i].SetRetention(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.RemoveRetention(ctx, "gone", "alice"); err != nil {
		t.Fatal(err)
	}
	for _, r := range []api.Retention{{}, {FleetID: "x", TasksMillis: 59_999}, {FleetID: "x", KeysMillis: -1}} {
		if _, err := n.SetRetention(ctx, r); asAPIError(err).Status != 422 {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, m := range c.nodes {
		if p, err := m.Retentions(ctx); err != nil || len(p.Retentions) != 2 || p.Retentions[0].FleetID != "keyed" || p.Retentions[0].KeysMillis != 7200_000 || p.Retentions[0].SetAt == nil {
			t.Errorf("%+v, %v", p, err)
		}
	}
	act := func(fleet, key, session string, end bool) string {
		t.Helper()
		a := action("a1", key)
		a.FleetID, a.SessionID, a.Verify, a.Rollback = fleet, session, nil, []byte(`{"action":"undo"}`)
		v := c.want(c.declare(n, a), api.DecisionGo)
		if end {
			if v := c.settle(n, "a1", api.Lease{TaskID: v.TaskID, Epoch: v.Epoch}, "complete"); v.State != "completed" {
				t.Fatalf("%+v", v)
			}
		}
		return v.TaskID
	}
	gone := []string{act("short", "k1", "", true), act("short", "k2", "over", true)}
	stay := []string{act("short", "k3", "open", true), act("short", "k4", "open", false), act("keyed", "k5", "", true), act("other", "k6", "", true)}
	core := c.leaderOf(1)
	c.eventually("the leader knows the retentions", func() error {
		if p := core.retentionPolicy(); len(p.fleets) != 2 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	p := core.retentionPolicy()
	core.evictEnded(1, &p, core.nowMillis()+2*60_000, ledger.TaskID{})
	for _, id := range gone {
		if _, err := n.Task(ctx, id, 0); asAPIError(err).Code != "task_not_found" {
			t.Errorf("%s is not evicted: %v", id, err)
		}
	}
	for i, id := range stay {
		if _, err := n.Task(ctx, id, 0); err != nil {
			t.Errorf("%d is evicted: %v", i, err)
		}
	}
	if v := c.declare(n, func() api.ActionRequest { a := action("a1", "k1"); a.FleetID = "short"; return a }()); v.Decision != api.DecisionGo || v.Replayed {
		t.Errorf("its key still answers: %+v", v)
	}
}

// leaderOf is the node that leads a shard.
func (c *testCluster) leaderOf(shard uint32) (core *core) {
	c.t.Helper()
	c.eventually("a leader", func() error {
		for _, n := range c.nodes {
			core = n.core.Load()
			if id, _ := core.leaders.of(shard); id == core.id.RaftID {
				return nil
			}
		}
		return fmt.Errorf("nobody leads shard %d", shard)
	})
	return core
}
