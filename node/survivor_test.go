package node

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// TestSurvivorWithoutAShard: with more nodes than replicas a survivor lacks
// some shards. They are named, and without a word from the operator nothing is
// made; with it the rest is there, and the lost shard serves again, empty.
func TestSurvivorWithoutAShard(t *testing.T) {
	t.Parallel()
	const lost = 2
	c := startCluster(t, 3, nil)
	kept := map[string]bool{}
	for i := range 20 {
		id := c.submit(c.nodes[0], api.TaskSpec{Action: "x", Target: "y", IdempotencyKey: fmt.Sprint(i)})
		if shardIn(t, id) == 1 {
			kept[id] = true
		}
	}
	if len(kept) == 0 || len(kept) == 20 {
		t.Fatalf("%d of 20 tasks are in shard 1", len(kept))
	}
	c.equalLedgers()
	last := c.nodes[2]
	for _, n := range c.nodes[:2] {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	c.nodes = nil
	if err := last.core.Load().store.Drop(lost, true); err != nil {
		t.Fatal(err)
	}
	if err := last.Close(); err != nil {
		t.Error(err)
	}
	out := filepath.Join(c.dir, "new")
	cfg := RestoreConfig{Survivor: filepath.Join(c.dir, "n3"), DataDir: out, Now: time.Now(), Members: []RestoreMember{{"n1", "127.0.0.1:17701"}}}
	if _, err := Restore(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no replica of shard 2 (of 3)") || !strings.Contains(err.Error(), "--accept-lost-shards") {
		t.Fatalf("restored without a word: %v", err)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Fatalf("a refused restore made %s: %v", out, err)
	}
	cfg.AcceptLost = true
	r, err := Restore(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Shards) != 3 || !r.Shards[lost].Lost || r.Shards[1].Lost || len(r.Survivor.Shards) != 1 || r.Survivor.Shards[0] != lost {
		t.Errorf("%+v of %+v", r.Shards, r.Survivor)
	}
	n, err := Open(Config{DataDir: out, NodeID: "n1", Cluster: testName, APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0", BootstrapExpect: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c.nodes = []*Node{n}
	c.eventually("ready", n.Ready)
	for id := range kept {
		if x := c.task(n, id); x.State != "queued" && x.State != "ready" && x.State != "submitted" {
			t.Errorf("%s is %s", id, x.State)
		}
	}
	fresh := map[uint32]bool{}
	for i := range 20 {
		id := c.submit(n, api.TaskSpec{Action: "x", Target: "y", IdempotencyKey: fmt.Sprint("new", i)})
		fresh[shardIn(t, id)] = true
	}
	if !fresh[1] || !fresh[lost] {
		t.Errorf("new tasks are in %v", fresh)
	}
	records, err := n.Audit(t.Context(), api.AuditFilter{Shard: lost})
	if err != nil || len(records.Records) == 0 || records.Records[0].Verb != "cluster_restored" {
		t.Errorf("the lost shard's ledger begins with %+v, %v", records.Records, err)
	}
	c.equalLedgers()
}

func shardIn(t *testing.T, id string) uint32 {
	t.Helper()
	x, err := ledger.ParseTaskID(id)
	if err != nil {
		t.Fatal(err)
	}
	return x.Shard()
}
