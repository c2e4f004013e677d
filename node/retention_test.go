package node

import (
	"fmt"
	"testing"
	"time"

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
	core.evictEnded(1, core.nowMillis()-time.Hour.Milliseconds())
	if _, err := n.Task(t.Context(), ended, 0); err != nil {
		t.Fatalf("evicted before its time: %v", err)
	}
	core.evictEnded(1, core.nowMillis()+1000)
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
