package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
)

// TestAuditOfShardsElsewhere: with five nodes and three replicas a shard, each
// node signs, exports, finds and proves what is in every shard.
func TestAuditOfShardsElsewhere(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { quickHealth(cfg); cfg.Shards = 4; cfg.Logger = memberLogger(t) })
	c.eventually("placement", c.placed)
	c.admit("n4")
	c.admit("n5")
	c.eventually("five nodes, three replicas each", c.placed)
	var lacking *Node
	missing := uint32(0)
	c.eventually("a node that lacks a shard", func() error {
		for _, n := range c.nodes {
			k := n.core.Load()
			for shard := range k.shards {
				if shard != controlShard && k.store.Journal(shard) == nil {
					lacking, missing = n, shard
					return nil
				}
			}
		}
		return errors.New("every node has every shard")
	})
	shards := lacking.core.Load().shards
	var keys []string
	c.eventually("five keys", func() error {
		text, err := lacking.AuditKeys(t.Context())
		if keys = strings.Fields(text); len(keys) != 5 {
			return fmt.Errorf("%q, %w", text, errors.Join(err))
		}
		return err
	})
	for round := range 3 { // each time there is something to be proved since the last one
		for i := range 40 {
			c.submit(lacking, api.TaskSpec{Action: "vet", Target: "go", SessionID: fmt.Sprint("s", round, i%4)})
		}
		for _, n := range c.nodes {
			c.eventually(n.NodeID()+": five signatures", func() error {
				signed, err := n.Checkpoint(t.Context())
				if err != nil {
					return err
				}
				cp, err := proof.Open(signed, keys, 5)
				if err == nil && len(cp.Shards) != int(shards) {
					err = fmt.Errorf("%d shards of %d", len(cp.Shards), shards)
				}
				return err
			})
		}
	}
	exportsAll(t, c, lacking, keys)
	findsAll(t, c, lacking, missing, keys)
}

// exportsAll: a node that lacks a shard exports all of them.
func exportsAll(t *testing.T, c *testCluster, n *Node, keys []string) {
	t.Helper()
	var b bytes.Buffer
	signed, err := n.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cp, err := proof.Open(signed, keys, 3)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[uint32]uint64{}
	for _, h := range cp.Shards {
		sizes[h.Shard] = h.Size
	}
	c.eventually("export", func() error { b.Reset(); return n.Export(t.Context(), sizes, &b) })
	if rep, err := proof.Verify(&b, &cp.Checkpoint); err != nil || rep.Records < 120 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if err := n.Export(t.Context(), nil, new(bytes.Buffer)); err != nil {
		t.Error(err)
	}
}

// findsAll: pages have the records of every shard, in small steps too, and one
// of a shard that has no replica here is proved.
func findsAll(t *testing.T, c *testCluster, n *Node, missing uint32, keys []string) {
	t.Helper()
	for _, limit := range []int{1, 7, 1000} {
		count, elsewhere := 0, uint64(0)
		for f := (api.AuditFilter{Shard: -1, Verb: "submit", Limit: limit}); ; {
			p, err := n.Audit(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range p.Records {
				if count++; r.Shard == missing {
					elsewhere = r.Seq
				}
			}
			if f.Cursor = p.NextCursor; f.Cursor == "" {
				break
			}
		}
		if count != 120 || elsewhere == 0 {
			t.Fatalf("limit %d: %d records found, %d of shard %d", limit, count, elsewhere, missing)
		}
		p, err := n.Prove(t.Context(), missing, elsewhere, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(p)
		if _, _, err := proof.VerifyRecord(b, nil, keys, 3); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.Prove(t.Context(), missing, 1<<40, 0); asAPIError(err).Code != "no_record" {
		t.Errorf("a record that is not: %v", err)
	}
	if _, err := n.Prove(t.Context(), missing, 0, 1); err != nil {
		t.Error(err)
	}
	if _, err := n.Prove(t.Context(), 1<<20, 1, 0); asAPIError(err).Code != "no_shard" {
		t.Errorf("a shard that is not: %v", err)
	}
}
