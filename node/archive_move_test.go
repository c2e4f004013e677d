package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/files"
	"github.com/quorate/quorate/node/internal/trail"
)

// TestArchiveMoves: a node that gets its replicas after records were archived signs, proves and archives like the
// others, and has proofs of what it never had from them.
func TestArchiveMoves(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { quickHealth(cfg); cfg.Shards, cfg.logRetain = 4, 4; cfg.Logger = memberLogger(t) })
	c.eventually("placement", c.placed)
	ctx := t.Context()
	c.fill(c.nodes[0], 60)
	old := c.opened(c.nodes[0])
	if _, err := c.nodes[0].SetRecordRetention(ctx, api.RecordRetention{FleetID: "*", RecordsMillis: 1000}); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		c.archived(n, &old.Checkpoint)
	}
	n4 := c.admit("n4")
	c.eventually("four nodes, three replicas each", c.placed)
	k := n4.core.Load()
	shard := uint32(0)
	c.eventually("a shard of its own that begins where the others' records were archived", func() error {
		err := errors.New("none")
		for s := uint32(1); s < k.shards; s++ {
			if k.store.Journal(s) == nil {
				continue
			}
			f, ferr := k.floorHere(s)
			if head, _ := old.Head(s); ferr == nil && f.Records >= head.Size && f.Archive != "" && f.Node != "n4" {
				shard = s
				return nil
			}
			err = fmt.Errorf("shard %d begins at %+v: %w", s, f.Floor, errors.Join(ferr)) // or its snapshot is on the way
		}
		return err
	})
	for i := range 20 {
		c.submit(n4, api.TaskSpec{Action: "vet", Target: "go", SessionID: fmt.Sprint("s", i%4)})
	}
	var now proof.Signed
	for range 2 { // the second time each has something that it signed before
		c.eventually("a new key", func() error {
			if text, err := n4.AuditKeys(ctx); err != nil || len(strings.Fields(text)) != 4 {
				return fmt.Errorf("%q: %w", text, errors.Join(err))
			}
			return nil
		})
		for _, n := range c.nodes {
			now = c.opened(n)
		}
	}
	for _, h := range old.Shards {
		p, err := k.consistency(ctx, h.Shard, h.Size, now.Text())
		if err != nil {
			t.Fatalf("shard %d from %d: %v", h.Shard, h.Size, err)
		}
		if head, _ := now.Head(h.Shard); p.Check(h, head) != nil {
			t.Errorf("shard %d: no proof", h.Shard)
		}
	}
	c.movedReads(n4, shard, &now)
}

// movedReads: what the node has is whole, and it archives it.
func (c *testCluster) movedReads(n4 *Node, shard uint32, now *proof.Signed) {
	t, ctx, k := c.t, c.t.Context(), n4.core.Load()
	t.Helper()
	var b bytes.Buffer
	if err := n4.Export(ctx, map[uint32]uint64{}, &b); code(err) != "not_there_yet" {
		t.Error(err)
	}
	if v, err := n4.VerifyLedger(ctx); err != nil || !v.OK {
		t.Errorf("%+v: %v", v, err)
	}
	for _, filter := range []api.AuditFilter{{Shard: int(shard)}, {Shard: int(shard), Verb: "submit"}, {Shard: -1, SessionID: "s1"}} {
		p, err := n4.Audit(ctx, filter)
		if err != nil || len(p.Records) == 0 || len(p.Archived) == 0 {
			t.Errorf("%+v: %d records, %+v: %v", filter, len(p.Records), p.Archived, err)
		}
	}
	c.archived(n4, &proof.Checkpoint{Shards: k.heldOf(now.Shards)})
	path := filepath.Join(k.archives.dir, "*.zst")
	list, err := filepath.Glob(path)
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	for _, path := range list {
		if rep, err := trail.VerifyArchive(files.FS{}, path); err != nil || rep.Shards[0].First == 1 && rep.Shards[0].Shard == shard {
			t.Errorf("%s: %+v: %v", path, rep, err)
		}
	}
}

// heldOf are the heads of shards that have a replica here.
func (n *core) heldOf(list []proof.Head) (out []proof.Head) {
	for _, h := range list {
		if n.store.Journal(h.Shard) != nil {
			out = append(out, h)
		}
	}
	return out
}

// TestArchiveRestored: a cluster made of a node whose journals do not begin at the first record goes on from there.
func TestArchiveRestored(t *testing.T) {
	t.Parallel()
	change := func(cfg *Config) { cfg.BootstrapExpect, cfg.Shards = 1, 1 }
	c := startCluster(t, 1, change)
	c.fill(c.nodes[0], 4)
	old := c.opened(c.nodes[0])
	if _, err := c.nodes[0].SetRecordRetention(t.Context(), api.RecordRetention{FleetID: "*", RecordsMillis: 1000}); err != nil {
		t.Fatal(err)
	}
	c.archived(c.nodes[0], &old.Checkpoint)
	c.fill(c.nodes[0], 2)
	then := c.opened(c.nodes[0])
	head, _ := then.Head(1)
	c.close()
	out := filepath.Join(c.dir, "new")
	r, err := Restore(t.Context(), RestoreConfig{Survivor: filepath.Join(c.dir, "n1"), DataDir: out, Now: time.Now(), Members: []RestoreMember{{"n1", "127.0.0.1:17701"}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Shards) != 2 || r.Shards[1].Records < head.Size {
		t.Errorf("%+v", r.Shards)
	}
	n, err := Open(Config{DataDir: out, NodeID: "n1", Cluster: testName, APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0", BootstrapExpect: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c.nodes = []*Node{n}
	c.eventually("ready", n.Ready)
	c.fill(n, 2)
	now := c.opened(n)
	if p, err := n.Archived(t.Context()); err != nil || len(p.Archived) != 2 {
		t.Errorf("%+v: %v", p, err)
	}
	l, err := n.core.Load().trail(1)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := l.HeadAt(head.Size); err != nil || h != head {
		t.Errorf("the tree of then: %+v: %v", h, err)
	}
	if v, err := n.VerifyLedger(t.Context()); err != nil || !v.OK {
		t.Errorf("%+v: %v", v, err)
	}
	c.archived(n, &now.Checkpoint)
}
