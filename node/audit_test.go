package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
)

// TestAuditIsProved: three nodes sign one checkpoint, an export and single
// records verify against it, and the log extends what it was.
func TestAuditIsProved(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	n := c.nodes[0]
	id := c.submit(n, api.TaskSpec{Action: "vet", Target: "go", Input: json.RawMessage(`"INPUT"`), SessionID: "s1"})
	var keys []string
	c.eventually("three keys", func() error {
		text, err := n.AuditKeys(t.Context())
		if keys = strings.Fields(text); len(keys) != 3 {
			return fmt.Errorf("%q, %w", text, errors.Join(err))
		}
		return err
	})
	var signed []byte
	var cp proof.Signed
	c.eventually("three signatures", func() (err error) {
		if signed, err = n.Checkpoint(t.Context()); err == nil {
			cp, err = proof.Open(signed, keys, 3)
		}
		return err
	})
	sizes := map[uint32]uint64{}
	for _, h := range cp.Shards {
		sizes[h.Shard] = h.Size
	}
	if _, err := c.nodes[1].Cancel(t.Context(), id, "alice", "token=HUNTER2"); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.nodes { // any node gives the same bytes
		var b bytes.Buffer
		c.eventually("export", func() error { b.Reset(); return m.Export(t.Context(), sizes, &b) })
		if rep, err := proof.Verify(bytes.NewReader(b.Bytes()), &cp.Checkpoint); err != nil || rep.Records == 0 {
			t.Fatalf("%s: %+v, %v", m.NodeID(), rep, err)
		}
	}
	var records []api.Record
	c.eventually("cancelled", func() error {
		p, err := n.Audit(t.Context(), api.AuditFilter{Shard: -1, TaskID: id})
		if records = p.Records; len(records) != 2 {
			return fmt.Errorf("%d records, %w", len(records), errors.Join(err))
		}
		return err
	})
	for _, r := range records {
		if r.SessionID != "s1" || strings.Contains(r.Detail, "HUNTER2") {
			t.Errorf("%+v", r)
		}
		p, err := n.Prove(t.Context(), r.Shard, r.Seq, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(p)
		if _, _, err := proof.VerifyRecord(b, nil, keys, 2); err != nil {
			t.Error(err)
		}
	}
	extends(t, n, cp, records[0].Shard, sizes)
}

// extends: the log of a shard begins with what it was, and what is not there
// is not proved.
func extends(t *testing.T, n *Node, cp proof.Signed, shard uint32, sizes map[uint32]uint64) {
	t.Helper()
	p, err := n.Prove(t.Context(), shard, 0, sizes[shard])
	if err != nil {
		t.Fatal(err)
	}
	cons := p.(proof.ConsistencyProof)
	old, _ := cp.Head(shard)
	if cons.FromRoot != fmt.Sprintf("%x", old.Root[:]) || cons.Size <= cons.From {
		t.Errorf("%+v", cons)
	}
	if _, err := n.Prove(t.Context(), shard, 1<<40, 0); asAPIError(err).Code != "no_record" {
		t.Errorf("a record that is not: %v", err)
	}
	if err := n.Export(t.Context(), map[uint32]uint64{0: 1 << 40, 1: 1, 2: 1}, new(bytes.Buffer)); asAPIError(err).Code != "not_there_yet" {
		t.Errorf("an export beyond the log: %v", err)
	}
}

// TestAuditIsFound: pages by the index have what a walk through everything
// has, in blocks that are indexed and behind them.
func TestAuditIsFound(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, func(cfg *Config) { cfg.BootstrapExpect, cfg.Shards = 1, 1 })
	n := c.nodes[0]
	const batches = 6
	for i := range batches {
		specs := make([]api.TaskSpec, MaxSubmit)
		for k := range specs {
			specs[k] = api.TaskSpec{Action: "vet", Target: fmt.Sprint("t", k%7), SessionID: fmt.Sprintf("s%d", i*k%500)}
		}
		if _, err := n.Submit(t.Context(), specs, "test"); err != nil {
			t.Fatal(err)
		}
	}
	core := n.core.Load()
	c.eventually("a block is indexed", func() error {
		if _, index := core.trails.bytes(1); index == 0 {
			return errors.New("none")
		}
		return nil
	})
	var mid time.Time
	for _, f := range []api.AuditFilter{{SessionID: "s7"}, {SessionID: "s0", Action: "vet", Target: "t0"}, {Verb: "submit", GuaranteeLevel: "atp-2", Target: "t3"},
		{Verb: "complete"}, {AgentID: "nobody"}, {Action: "vet", FleetID: "default"}, {From: time.Unix(1, 0)}} {
		f.Shard = -1
		var want, got []string
		err := n.ExportAudit(t.Context(), f, func(r api.Record) error {
			want, mid = append(want, fmt.Sprint(r.Shard, "/", r.Seq, r.Hash)), r.Time
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for f.Limit = 500; ; {
			p, err := n.Audit(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range p.Records {
				got = append(got, fmt.Sprint(r.Shard, "/", r.Seq, r.Hash))
			}
			if f.Cursor = p.NextCursor; f.Cursor == "" {
				break
			}
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%+v: %d found, %d there", f, len(got), len(want))
		}
	}
	for f := (api.AuditFilter{Shard: -1, From: mid.Add(time.Hour)}); ; { // a page may be cut short by time
		p, err := n.Audit(t.Context(), f)
		if err != nil || len(p.Records) > 0 {
			t.Fatalf("of the future: %+v, %v", p, err)
		}
		if f.Cursor = p.NextCursor; f.Cursor == "" {
			break
		}
	}
	for _, bad := range []api.AuditFilter{{TaskID: "x"}, {GuaranteeLevel: "sometimes"}, {Verb: "x", Cursor: "x"}} {
		if bad.Shard = -1; asAPIError(func() error { _, err := n.Audit(t.Context(), bad); return err }()).Status != 400 {
			t.Errorf("%+v is answered", bad)
		}
	}
}

// TestCheckpointsAtOnce: who asks for a checkpoint at the same time as others gets one, and what is kept is whole.
func TestCheckpointsAtOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, nil)
	n := c.nodes[0]
	c.fill(n, 2)
	c.opened(n)
	text, err := n.AuditKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys, _ := proof.ReadKeys(text)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := n.Checkpoint(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(filepath.Join(n.core.Load().trails.dir, "checkpoint"))
	if err == nil {
		_, err = proof.Open(b, keys, 1)
	}
	if err != nil {
		t.Errorf("%q: %v", b, err)
	}
}
