package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/files"
	"github.com/quorate/quorate/node/internal/trail"
)

// fill makes records, and waits until every node has them.
func (c *testCluster) fill(n *Node, count int) {
	c.t.Helper()
	for i := range count {
		id := c.submit(n, api.TaskSpec{Action: "vet", Target: "go", FleetID: []string{"eu", "us"}[i%2]})
		if _, err := n.Cancel(c.t.Context(), id, "alice", "x"); err != nil {
			c.t.Fatal(err)
		}
	}
	c.equalLedgers()
}

// opened makes a checkpoint that all nodes signed, and reads it.
func (c *testCluster) opened(n *Node) (cp proof.Signed) {
	c.t.Helper()
	c.eventually("a checkpoint signed by all", func() error {
		text, err := n.AuditKeys(c.t.Context())
		if err != nil {
			return err
		}
		signed, err := n.Checkpoint(c.t.Context())
		if err == nil {
			keys, _ := proof.ReadKeys(text)
			cp, err = proof.Open(signed, keys, len(c.nodes))
		}
		return err
	})
	return cp
}

// archived runs a node's archiving until its journals begin behind what a
// checkpoint has.
func (c *testCluster) archived(n *Node, cp *proof.Checkpoint) api.ArchivePage {
	c.t.Helper()
	var p api.ArchivePage
	c.eventually("archived", func() (err error) {
		if p, err = n.Archive(c.t.Context()); err != nil {
			return err
		}
		gone := map[uint32]uint64{}
		for _, a := range p.Archived {
			gone[a.Shard] = a.Records
		}
		for _, h := range cp.Shards {
			if gone[h.Shard] < h.Size {
				return fmt.Errorf("shard %d: %d of %d", h.Shard, gone[h.Shard], h.Size)
			}
		}
		return nil
	})
	return p
}

// TestArchive: records whose time is over leave the journals, for files that verify; what was signed before is still
// the beginning of what is signed after; who asks for what is gone hears where it is.
func TestArchive(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	ctx, n := t.Context(), c.nodes[0]
	c.fill(n, 12)
	if p, err := n.Archive(ctx); err != nil || len(p.Runs)+len(p.Archived) > 0 {
		t.Fatalf("without a retention: %+v, %v", p, err)
	}
	first, err := n.Audit(ctx, api.AuditFilter{Shard: 1, Limit: 2})
	if err != nil || first.NextCursor == "" {
		t.Fatalf("%+v, %v", first, err)
	}
	old := c.opened(n)
	for _, bad := range []api.RecordRetention{{FleetID: "*", RecordsMillis: 999}, {FleetID: "*", NoArchive: true}, {RecordsMillis: 1000}} {
		if _, err := n.SetRecordRetention(ctx, bad); asAPIError(err).Status != 422 {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := n.SetRecordRetention(ctx, api.RecordRetention{FleetID: "eu", RecordsMillis: 1000}); err != nil {
		t.Fatal(err)
	}
	if p, err := n.Archive(ctx); err != nil || len(p.Runs) > 0 { // the first record is of no fleet
		t.Fatalf("for a fleet between others: %+v, %v", p, err)
	}
	if _, err := n.SetRecordRetention(ctx, api.RecordRetention{FleetID: "*", RecordsMillis: 1000}); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.nodes {
		c.archived(m, &old.Checkpoint)
	}
	// New records, a new checkpoint: it extends the old one.
	c.fill(c.nodes[1], 3)
	now := c.opened(n)
	for _, m := range c.nodes {
		for _, h := range old.Shards {
			p, err := m.core.Load().ProveConsistency(ctx, h.Shard, h.Size)
			if err != nil {
				t.Fatal(err)
			}
			c.eventually("a proof to what was signed", func() error {
				text := now.Text()
				p, err = m.core.Load().consistency(ctx, h.Shard, h.Size, text)
				return err
			})
			head, _ := now.Head(h.Shard)
			if err := p.Check(h, head); err != nil {
				t.Fatalf("%s shard %d: %v", m.NodeID(), h.Shard, err)
			}
		}
	}
	c.archiveReads(first.NextCursor, &now)
	c.archiveFiles(&old.Checkpoint)
	c.close()
	c.open(3, nil)
	c.equalLedgers()
	c.archiveReads(first.NextCursor, &now)
}

// archiveReads asks for what is there and for what is not.
func (c *testCluster) archiveReads(cursor string, now *proof.Signed) {
	t, ctx := c.t, c.t.Context()
	t.Helper()
	for _, n := range c.nodes {
		for _, f := range []api.AuditFilter{{Shard: 1, Limit: 5}, {Shard: 1, Limit: 5, Verb: "submit"}} {
			p, err := n.Audit(ctx, f)
			if err != nil || len(p.Records) == 0 || len(p.Archived) != 1 || p.Archived[0].Shard != 1 || p.Archived[0].File == "" || p.Records[0].Seq <= p.Archived[0].Records {
				t.Fatalf("%s: %+v: %v", n.NodeID(), p, err)
			}
		}
		for what, err := range map[string]error{
			"a cursor": func() error { _, err := n.Audit(ctx, api.AuditFilter{Shard: 1, Cursor: cursor}); return err }(),
			"a proof":  func() error { _, err := n.Prove(ctx, 1, 1, 0); return err }(),
			"a size":   n.Export(ctx, map[uint32]uint64{0: 1, 1: 1, 2: 1}, new(bytes.Buffer)),
		} {
			if e := asAPIError(err); e.Code != "records_archived" || e.Status != 410 || e.Layer != 7 || !strings.Contains(e.Hint, ".jsonl.zst") {
				t.Errorf("%s: %v, %+v", what, err, e)
			}
		}
		head, _ := now.Head(1)
		if _, err := n.Prove(ctx, 1, head.Size, 0); err != nil {
			t.Errorf("the last record: %v", err)
		}
		var b bytes.Buffer
		sizes := map[uint32]uint64{}
		for _, h := range now.Shards {
			sizes[h.Shard] = h.Size
		}
		c.eventually("export", func() error { b.Reset(); return n.Export(ctx, sizes, &b) })
		rep, err := proof.Verify(bytes.NewReader(b.Bytes()), &now.Checkpoint)
		if err != nil || rep.Shards[1].First == 1 {
			t.Errorf("%s: %+v: %v", n.NodeID(), rep, err)
		}
		if v, err := n.VerifyLedger(ctx); err != nil || !v.OK {
			t.Errorf("%s: %+v: %v", n.NodeID(), v, err)
		}
	}
}

// archiveFiles verifies every archive, one behind the other, and finds what was altered.
func (c *testCluster) archiveFiles(old *proof.Checkpoint) {
	t := c.t
	t.Helper()
	for _, n := range c.nodes {
		dir := filepath.Join(c.dir, n.NodeID(), "archive")
		paths, err := filepath.Glob(filepath.Join(dir, "*.zst"))
		if err != nil || len(paths) < len(old.Shards) {
			t.Fatal(paths, err)
		}
		next := map[uint32]uint64{}
		for _, path := range paths {
			rep, err := trail.VerifyArchive(files.FS{}, path)
			if err != nil {
				t.Fatal(err)
			}
			s := rep.Shards[0]
			if s.First != next[s.Shard]+1 {
				t.Errorf("%s: begins at %d after %d", path, s.First, next[s.Shard])
			}
			next[s.Shard] = s.Size
		}
		b, err := os.ReadFile(paths[0])
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(paths[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := trail.VerifyArchive(files.FS{}, paths[0]); !errors.Is(err, trail.ErrArchive) {
			t.Errorf("an altered one: %v", err)
		}
	}
}

// TestArchiveInterrupted: whatever archiving stops at, nothing is gone that is not archived, and it goes on later.
func TestArchiveInterrupted(t *testing.T) {
	t.Parallel()
	change := func(cfg *Config) { cfg.BootstrapExpect, cfg.Shards = 1, 1 }
	c := startCluster(t, 1, change)
	c.fill(c.nodes[0], 5)
	old := c.opened(c.nodes[0])
	head, _ := old.Head(1)
	if _, err := c.nodes[0].SetRecordRetention(t.Context(), api.RecordRetention{FleetID: "*", RecordsMillis: 1000}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(c.dir, "n1", "archive")
	stop := errors.New("stop here")
	for _, step := range []string{"signed", "archived"} {
		archiveStep = func(s string) error {
			if s == step {
				return stop
			}
			return nil
		}
		c.eventually("stopped at "+step, func() error {
			if _, err := c.nodes[0].Archive(t.Context()); err == nil || !strings.Contains(err.Error(), "stop here") {
				return fmt.Errorf("archived: %w", errors.Join(err))
			}
			return nil
		})
		archiveStep = nil
		if p, err := c.nodes[0].Archived(t.Context()); err != nil || len(p.Archived) > 0 {
			t.Fatalf("%s: %+v, %v", step, p, err)
		}
		c.close() // what a crash leaves is the same: everything before the step is durable
		c.open(1, change)
	}
	kept, err := filepath.Glob(filepath.Join(dir, "0001-*.zst"))
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	before, err := os.Stat(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	c.damagedArchive(kept[0])
	c.fill(c.nodes[0], 2) // what was archived goes by itself, the rest behind it
	p := c.archived(c.nodes[0], &old.Checkpoint)
	if list, err := filepath.Glob(filepath.Join(dir, "0001-000000000001-*.zst")); err != nil || len(list) != 1 {
		t.Error(list, err)
	}
	if after, err := os.Stat(kept[0]); err != nil || after.Size() != before.Size() {
		t.Errorf("%+v, %v", p, err)
	}
	l, err := c.nodes[0].core.Load().trail(1)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := l.HeadAt(head.Size); err != nil || h != head {
		t.Errorf("the tree of then: %+v, %v", h, err)
	}
	if _, err := tlog.ProveRecord(int64(l.Head().Size), 0, l); err != nil {
		t.Errorf("the first leaf's path: %v", err)
	}
}

// TestArchiveDropped: records that nobody wants archived go without.
func TestArchiveDropped(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, func(cfg *Config) { cfg.BootstrapExpect, cfg.Shards = 1, 1 })
	n := c.nodes[0]
	c.fill(n, 3)
	old := c.opened(n)
	if _, err := n.SetRecordRetention(t.Context(), api.RecordRetention{FleetID: "*", RecordsMillis: 1000, NoArchive: true}); err != nil {
		t.Fatal(err)
	}
	p := c.archived(n, &old.Checkpoint)
	if len(p.Archived) != 2 || p.Archived[0].File != "" {
		t.Errorf("%+v", p)
	}
	if _, err := n.Prove(t.Context(), 1, 1, 0); code(err) != "records_archived" || !strings.Contains(asAPIError(err).Hint, "dropped") {
		t.Error(err)
	}
	if list, err := filepath.Glob(filepath.Join(c.dir, "n1", "archive", "*")); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
}

// damagedArchive: an archive that is damaged is not taken for one.
func (c *testCluster) damagedArchive(path string) {
	t := c.t
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)-9], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nodes[0].Archive(t.Context()); code(err) != "not_archived" && err != nil {
		t.Fatalf("over a damaged archive: %v", err)
	} else if err == nil {
		if p, _ := c.nodes[0].Archived(t.Context()); len(p.Archived) > 1 {
			t.Fatalf("the journal was cut: %+v", p)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
}
