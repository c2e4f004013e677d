package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// past is a cluster with a history: tasks that were completed, that are held
// and that wait, and what everybody was told of them.
type past struct {
	*proc.Cluster
	t     *testing.T
	cl    *client.Client
	specs map[string]api.TaskSpec // by task ID: acknowledged
	done  map[string]bool         // completed
	held  []api.Lease             // by agent w, at the end
}

func connect(t *testing.T, c *proc.Cluster) *client.Client {
	t.Helper()
	cl, err := client.New(client.Config{URLs: c.URLs(), Patience: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func newPast(t *testing.T) *past {
	t.Helper()
	c, err := proc.Start(t.Context(), proc.Config{Binary: binary(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p := &past{Cluster: c, t: t, cl: connect(t, c), specs: map[string]api.TaskSpec{}, done: map[string]bool{}}
	p.register(p.cl)
	for i := range 60 {
		p.submit(fmt.Sprintf("key-%d", i))
	}
	p.held = p.lease(p.cl, 9)
	var out []api.Settlement
	for _, l := range p.held[:6] {
		out = append(out, api.Settlement{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: "complete", Result: json.RawMessage(`{"ok":true}`)})
		p.done[l.TaskID] = true
	}
	p.held = p.held[6:]
	for _, v := range p.settle(p.cl, out) {
		if v.Error != nil || v.State != "completed" {
			t.Fatalf("settled: %+v", v)
		}
	}
	return p
}

func (p *past) submit(key string) {
	p.t.Helper()
	spec := api.TaskSpec{Action: "vet", Target: "go", IdempotencyKey: key, Input: json.RawMessage(`{"n":1}`), LeaseSeconds: 300}
	v, err := p.cl.Submit(p.t.Context(), spec)
	if err != nil || v.Error != nil {
		p.t.Fatalf("submit: %+v, %v", v, err)
	}
	p.specs[v.TaskID] = spec
}

func (p *past) register(cl *client.Client) {
	p.t.Helper()
	if _, err := cl.Register(p.t.Context(), api.Manifest{AgentID: "w", Capabilities: []api.Capability{{Action: "vet", Target: "go"}}}); err != nil {
		p.t.Fatal(err)
	}
}

// lease takes n tasks for agent w.
func (p *past) lease(cl *client.Client, n int) (got []api.Lease) {
	p.t.Helper()
	for len(got) < n {
		l, err := cl.Lease(p.t.Context(), api.LeaseRequest{AgentID: "w", Max: n - len(got), WaitSeconds: 20})
		if err != nil || len(l.Tasks) == 0 {
			p.t.Fatalf("%d leases, %v", len(l.Tasks), err)
		}
		got = append(got, l.Tasks...)
	}
	return got
}

func (p *past) settle(cl *client.Client, out []api.Settlement) []api.SettleVerdict {
	p.t.Helper()
	v, err := cl.Settle(p.t.Context(), "w", out)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// run runs a command of the binary: output, and whether it exited with 0.
func (p *past) run(args ...string) (stdout, stderr string, ok bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Binary(), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return out.String(), errs.String(), err == nil
}

// restored runs restore into new directories for three nodes and starts them.
func (p *past) restored(args ...string) (*proc.Cluster, node.Restored) {
	p.t.Helper()
	next, err := proc.New(proc.Config{Binary: p.Binary()})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(next.Close)
	dir := filepath.Join(next.Dir(), "restored")
	args = append([]string{"restore", "--json", "--data-dir", dir}, args...)
	for _, n := range next.Nodes() {
		args = append(args, "--member", n.ID+"="+n.Peer)
		n.Data = filepath.Join(dir, n.ID)
	}
	out, errs, ok := p.run(args...)
	if !ok {
		p.t.Fatalf("restore: %s", errs)
	}
	var r node.Restored
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		p.t.Fatal(err)
	}
	if _, errs, ok := p.run(args...); ok || !strings.Contains(errs, "not empty") {
		p.t.Errorf("restored again into the same directories: %v, %s", ok, errs)
	}
	for _, n := range next.Nodes() {
		if err := n.Start(); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := next.AwaitFormed(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	return next, r
}

// check holds that the new cluster has the past, that nothing the old one gave
// out is good any more, and that it works on.
func (p *past) check(next *proc.Cluster, r node.Restored) {
	p.t.Helper()
	t, ctx, cl := p.t, p.t.Context(), connect(p.t, next)
	for id, spec := range p.specs {
		x, err := cl.Task(ctx, id, 0)
		if err != nil || p.done[id] != (x.State == "completed") {
			t.Fatalf("task %s is %q (completed before: %v), %v", id, x.State, p.done[id], err)
		}
		if v, err := cl.Submit(ctx, spec); err != nil || v.TaskID != id || !v.Replayed {
			t.Fatalf("submitted again: %+v, %v; it was %s", v, err, id)
		}
	}
	p.register(cl)
	var out []api.Settlement
	for _, l := range p.held {
		out = append(out, api.Settlement{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: "complete"})
	}
	for i, v := range p.settle(cl, out) {
		if v.Error == nil || v.Error.Code != "stale_lease" {
			t.Errorf("epoch %d of the old cluster: %+v", p.held[i].Epoch, v)
		}
	}
	out = out[:0]
	for _, l := range p.lease(cl, len(p.specs)-len(p.done)) {
		id, err := ledger.ParseTaskID(l.TaskID)
		if err != nil {
			t.Fatal(err)
		}
		if floor := r.Shards[id.Shard()].EpochFloor; p.done[l.TaskID] || l.Epoch <= floor {
			t.Errorf("leased %s with epoch %d, floor %d", l.TaskID, l.Epoch, floor)
		}
		out = append(out, api.Settlement{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: "complete"})
	}
	for _, v := range p.settle(cl, out) {
		if v.Error != nil {
			t.Errorf("completed in the new cluster: %+v", v)
		}
	}
	if out, errs, ok := p.run("ledger", "verify", "--all", "--api", next.URLs()[0]); !ok {
		t.Errorf("ledger verify: %s %s", out, errs)
	}
	page, err := cl.Audit(ctx, api.AuditFilter{Verb: "cluster_restored", Shard: -1})
	if err != nil || len(page.Records) < len(r.Shards) {
		t.Errorf("%d records of the restore in %d shards, %v", len(page.Records), len(r.Shards), err)
	}
	for _, rec := range page.Records {
		if rec.Seq <= r.Shards[rec.Shard].Records && r.Backup != nil {
			t.Errorf("record %d of shard %d should follow the %d of the backup", rec.Seq, rec.Shard, r.Shards[rec.Shard].Records)
		}
	}
	v, err := cl.Cluster(ctx)
	if err != nil || v.ClusterID != r.ClusterID || v.ClusterID == r.OldClusterID || len(v.Nodes) != 3 {
		t.Errorf("cluster %s of %d nodes, restored as %s from %s: %v", v.ClusterID, len(v.Nodes), r.ClusterID, r.OldClusterID, err)
	}
}

// TestBackupUnderLoad backs a busy cluster up and restores it into three new
// nodes. Damaged files are refused, and say where.
func TestBackupUnderLoad(t *testing.T) {
	p := newPast(t)
	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			specs := make([]api.TaskSpec, 20)
			for k := range specs {
				specs[k] = api.TaskSpec{Action: "noise", Target: "go", IdempotencyKey: fmt.Sprintf("noise-%d-%d", i, k)}
			}
			if _, err := p.cl.SubmitBatch(t.Context(), specs); err != nil {
				t.Errorf("load: %v", err)
				return
			}
		}
	})
	dir := t.TempDir()
	out, errs, ok := p.run("backup", dir, "--json", "--api", p.URLs()[0])
	close(stop)
	load.Wait()
	if !ok {
		t.Fatalf("backup: %s", errs)
	}
	var made struct{ File string }
	if err := json.Unmarshal([]byte(out), &made); err != nil || filepath.Dir(made.File) != dir {
		t.Fatalf("backup printed %q, %v", out, err)
	}
	if out, errs, ok := p.run("restore", made.File, "--check"); !ok || !strings.Contains(out, "is whole") {
		t.Fatalf("check: %s%s", out, errs)
	}
	if _, errs, ok := p.run("backup", made.File, "--api", p.URLs()[0]); ok || !strings.Contains(errs, "exists") {
		t.Errorf("a backup was written over: %s", errs)
	}
	whole, err := os.ReadFile(made.File)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.qbk")
	for i := range 8 {
		b := bytes.Clone(whole)
		if at := len(b) * (2*i + 1) / 16; i%2 == 0 {
			b[at] ^= 1 << i
		} else {
			b = b[:at]
		}
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		into := filepath.Join(dir, "into")
		_, errs, ok := p.run("restore", bad, "--data-dir", into)
		if _, err := os.Stat(into); ok || !strings.Contains(errs, "byte ") || !os.IsNotExist(err) {
			t.Errorf("damage %d: restored %v, directory %v: %s", i, ok, err, errs)
		}
	}
	next, r := p.restored(made.File)
	p.check(next, r)
}

// TestLostQuorum loses two of three disks. Everything the survivor had
// applied is in the new cluster.
func TestLostQuorum(t *testing.T) {
	p := newPast(t)
	survivor := p.Nodes()[1]
	await(t, "the survivor has everything", func() bool {
		want, err := p.Nodes()[0].View(t.Context())
		have, herr := survivor.View(t.Context())
		if err != nil || herr != nil {
			return false
		}
		for i := range want.Shards {
			if have.Shards[i].Applied < want.Shards[i].Applied {
				return false
			}
		}
		return true
	})
	if _, errs, ok := p.run("restore", "--from-survivor", survivor.Data, "--data-dir", t.TempDir()); ok || !strings.Contains(errs, "held by another process") {
		t.Errorf("restored from a node that runs: %s", errs)
	}
	for _, n := range p.Nodes() {
		n.Kill()
		if n != survivor {
			if err := os.RemoveAll(n.Data); err != nil {
				t.Fatal(err)
			}
		}
	}
	next, r := p.restored("--from-survivor", survivor.Data)
	if r.Survivor == nil || r.Survivor.NodeID != survivor.ID || len(r.Survivor.Lost) != 2 {
		t.Errorf("restored from %+v", r.Survivor)
	}
	p.check(next, r)
}

// await polls: what is waited for happens in other processes.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		case <-tick.C:
		}
	}
}
