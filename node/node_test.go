package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// A task walks through three nodes: submitted at one, leased at another whose
// agent was already waiting, settled at the third; its submitter waits for it.
func TestLifecycleAcrossNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[1], "a", "vet:*")
	waiting := func() <-chan api.Lease {
		got := make(chan api.Lease, 1)
		go func() {
			defer close(got)
			ls, err := c.nodes[1].Lease(t.Context(), api.LeaseRequest{AgentID: "a", WaitSeconds: 20})
			if err == nil && len(ls.Tasks) == 1 {
				got <- ls.Tasks[0]
			}
		}()
		return got
	}
	got := waiting()
	for i := range 6 { // both shards, so that some are led elsewhere
		id := c.submit(c.nodes[0], api.TaskSpec{Action: "vet", Target: "go", Input: []byte(`{"x":1}`), IdempotencyKey: fmt.Sprint(i)})
		l, ok := <-got
		if !ok {
			t.Fatal("the waiting agent got nothing")
		}
		if l.TaskID != id || string(l.Input) != `{"x":1}` || l.Attempt != 1 || l.Epoch == 0 {
			t.Fatalf("lease %+v of task %s", l, id)
		}
		if st := c.task(c.nodes[2], id); st.State != "assigned" || st.AgentID != "a" {
			t.Fatalf("state %s, agent %s", st.State, st.AgentID)
		}
		if _, err := c.nodes[2].Start(t.Context(), id, api.Claim{AgentID: "a", Epoch: l.Epoch}); err != nil {
			t.Fatal(err)
		}
		if st := c.task(c.nodes[0], id); st.State != "running" {
			t.Fatalf("state %s", st.State)
		}
		ended := make(chan api.Task, 1)
		go func() {
			x, _ := c.nodes[0].Task(t.Context(), id, 20*time.Second)
			ended <- x
		}()
		if v := c.settle(c.nodes[2], "a", l, "complete"); v.Error != nil || v.State != "completed" {
			t.Fatalf("settle %+v", v)
		}
		if v := c.settle(c.nodes[1], "a", l, "complete"); v.Error != nil || !v.Replayed {
			t.Fatalf("settled again: %+v", v)
		}
		if x := <-ended; x.State != "completed" || string(x.Result) != `"r"` || x.Attempts != 1 {
			t.Fatalf("waited for %+v", x)
		}
		got = waiting()
	}
	c.submit(c.nodes[0], api.TaskSpec{Action: "vet", Target: "go"})
	<-got
	c.equalLedgers()
}

// One key from all nodes at once is one task; another request under it is
// refused.
func TestIdempotencyIsFleetWide(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids, fresh := map[string]int{}, 0
	for i := range 300 {
		wg.Go(func() {
			vs, err := c.nodes[i%3].Submit(t.Context(), []api.TaskSpec{{Action: "a", Target: "b", IdempotencyKey: "one"}}, "test")
			mu.Lock()
			defer mu.Unlock()
			if err != nil || vs[0].Error != nil {
				t.Error(err, vs)
				return
			}
			ids[vs[0].TaskID]++
			if !vs[0].Replayed {
				fresh++
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 || fresh != 1 {
		t.Fatalf("%d tasks, %d first submissions", len(ids), fresh)
	}
	vs, err := c.nodes[1].Submit(t.Context(), []api.TaskSpec{{Action: "a", Target: "other", IdempotencyKey: "one"}}, "test")
	if err != nil || vs[0].Error == nil || vs[0].Error.Code != "idempotency_key_reused" || vs[0].Error.Status != 422 {
		t.Fatalf("%v %+v", err, vs)
	}
}

// A lease that runs out is another attempt after the backoff, then a dead
// letter; the old epoch is refused and recorded; retry gives a higher one.
func TestLeaseExpiry(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[0], "a", "x:y")
	one := 1
	id := c.submit(c.nodes[0], api.TaskSpec{Action: "x", Target: "y", LeaseSeconds: 0.2, RetryPolicy: &api.RetryPolicy{MaxRetries: &one, InitialDelaySeconds: 0.1}})
	first := c.lease(c.nodes[0], "a", 5)
	second := c.lease(c.nodes[1], "a", 10)
	if second.TaskID != id || second.Epoch <= first.Epoch || second.Attempt != 2 {
		t.Fatalf("first %+v second %+v", first, second)
	}
	if v := c.settle(c.nodes[2], "a", first, "complete"); v.Error == nil || v.Error.Code != "stale_lease" {
		t.Fatalf("stale completion: %+v", v)
	}
	x, err := c.nodes[2].Task(t.Context(), id, 10*time.Second)
	if err != nil || x.State != "failed" || x.LastError != "lease_expired" || x.Attempts != 2 {
		t.Fatalf("%v %+v", err, x)
	}
	p, err := c.nodes[1].Tasks(t.Context(), api.TaskFilter{States: []string{"failed"}})
	if err != nil || len(p.Tasks) != 1 || p.Tasks[0].TaskID != id {
		t.Fatalf("dead letters: %v %+v", err, p)
	}
	if _, err := c.nodes[1].Retry(t.Context(), id, "test"); err != nil {
		t.Fatal(err)
	}
	if third := c.lease(c.nodes[2], "a", 10); third.Epoch <= second.Epoch || third.Attempt != 1 {
		t.Fatalf("third %+v", third)
	}
	c.eventually("refusal recorded", func() error {
		r, err := c.nodes[0].Audit(t.Context(), api.AuditFilter{TaskID: id, Verb: "refused", Shard: -1})
		if err != nil || len(r.Records) != 1 || r.Records[0].Code != "stale_lease" || r.Records[0].Epoch != first.Epoch {
			return fmt.Errorf("%w %+v", err, r.Records)
		}
		return nil
	})
}

// An epoch from another task, or one that was never given, is refused and
// changes nothing.
func TestForeignEpoch(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, nil)
	n := c.nodes[0]
	c.register(n, "a", "x:y")
	c.submit(n, api.TaskSpec{Action: "x", Target: "y"})
	l := c.lease(n, "a", 5)
	other := c.submit(n, api.TaskSpec{Action: "x", Target: "never leased"})
	for _, epoch := range []uint64{1, l.Epoch, l.Epoch + 1, 1 << 52} {
		if v := c.settle(n, "a", api.Lease{TaskID: other, Epoch: epoch}, "complete"); v.Error == nil || v.Error.Code != "stale_lease" {
			t.Errorf("epoch %d: %+v", epoch, v)
		}
	}
	if x := c.task(n, other); x.State != "ready" || x.Attempts != 0 {
		t.Errorf("changed: %+v", x)
	}
}

// best_effort: answered before it is durable, never run again; with a key the
// key still decides.
func TestBestEffort(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[1], "a", "x:y")
	spec := api.TaskSpec{Action: "x", Target: "y", Guarantee: "atp-1", LeaseSeconds: 0.2}
	id := c.submit(c.nodes[0], spec)
	if l := c.lease(c.nodes[1], "a", 10); l.TaskID != id || l.Guarantee != "best_effort" {
		t.Fatalf("%+v", l)
	}
	x, err := c.nodes[2].Task(t.Context(), id, 10*time.Second)
	if err != nil || x.State != "failed" || x.Attempts != 1 || x.LastError != "lease_expired" {
		t.Fatalf("%v %+v", err, x)
	}
	spec.IdempotencyKey = "k"
	if first, again := c.submit(c.nodes[0], spec), c.submit(c.nodes[1], spec); first != again {
		t.Fatalf("%s and %s have one key", first, again)
	}
}

// What time brings about: a delay ends, a deadline passes, a cancel reaches
// the connected holder.
func TestDelayDeadlineCancel(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[2], "a", "x:*")
	now := time.Now()
	soon, late := now.Add(400*time.Millisecond), now.Add(700*time.Millisecond)
	delayed := c.submit(c.nodes[0], api.TaskSpec{Action: "x", Target: "delayed", NotBefore: &soon})
	doomed := c.submit(c.nodes[0], api.TaskSpec{Action: "other", Target: "y", Deadline: &late})
	if w, err := c.nodes[1].Why(t.Context(), delayed); err != nil || !strings.HasPrefix(w.Summary, "waits until") {
		t.Fatal(err, w)
	}
	l := c.lease(c.nodes[2], "a", 10)
	if l.TaskID != delayed || time.Now().Before(soon.Truncate(time.Millisecond)) {
		t.Fatalf("leased %s %v before it was due", l.TaskID, time.Until(soon))
	}
	if x, err := c.nodes[1].Task(t.Context(), doomed, 10*time.Second); err != nil || x.State != "timed_out" {
		t.Fatal(err, x)
	}
	events := make(chan api.SessionEvent, 8)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.nodes[2].Session(ctx, "a", []api.Held{{TaskID: l.TaskID, Epoch: l.Epoch}}, func(ev api.SessionEvent) error { events <- ev; return nil })
	}()
	if ev := <-events; ev.Type != "hello" {
		t.Fatal(ev)
	}
	if _, err := c.nodes[0].Cancel(t.Context(), delayed, "test", "enough"); err != nil {
		t.Fatal(err)
	}
	if ev := <-events; ev.Type != "revoked" || ev.TaskID != delayed || ev.Reason != "cancelled" {
		t.Fatal(ev)
	}
	if v := c.settle(c.nodes[2], "a", l, "complete"); v.Error == nil {
		t.Fatalf("a cancelled task was completed: %+v", v)
	}
	if _, err := c.nodes[0].Cancel(t.Context(), doomed, "test", ""); code(err) != "bad_state" {
		t.Fatal(err)
	}
	stop()
	<-ended
}

// A connected agent's loss is seen at once: its work goes to another, with a
// higher epoch, long before the lease would have run out.
func TestConnectedAgentLost(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[1], "dies", "x:y")
	c.register(c.nodes[2], "lives", "x:y")
	c.submit(c.nodes[0], api.TaskSpec{Action: "x", Target: "y", RetryPolicy: &api.RetryPolicy{InitialDelaySeconds: 0.05}})
	ctx, kill := context.WithCancel(t.Context())
	hello := make(chan struct{}, 8)
	go func() {
		_ = c.nodes[1].Session(ctx, "dies", nil, func(api.SessionEvent) error { hello <- struct{}{}; return nil })
	}()
	<-hello
	first := c.lease(c.nodes[1], "dies", 5)
	begin := time.Now()
	kill()
	second := c.lease(c.nodes[2], "lives", 20)
	if second.TaskID != first.TaskID || second.Epoch <= first.Epoch {
		t.Fatalf("%+v after %+v", second, first)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("moved after %v", took)
	}
	if a, err := c.nodes[0].Agent(t.Context(), "dies"); err != nil || a.State != api.AgentOffline {
		t.Errorf("%v %+v", err, a)
	}
	if v := c.settle(c.nodes[1], "dies", first, "complete"); v.Error == nil || v.Error.Code != "stale_lease" {
		t.Errorf("zombie: %+v", v)
	}
}

// A silent, unconnected agent is unresponsive after three intervals, and well
// again when it calls.
func TestSilentAgent(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { cfg.AgentInterval = 200 * time.Millisecond })
	c.register(c.nodes[1], "a", "x:y")
	c.submit(c.nodes[0], api.TaskSpec{Action: "x", Target: "y", RetryPolicy: &api.RetryPolicy{InitialDelaySeconds: 0.05}})
	first := c.lease(c.nodes[1], "a", 5)
	c.eventually("unresponsive", func() error {
		if a, err := c.nodes[2].Agent(t.Context(), "a"); err != nil || a.State != api.AgentUnresponsive {
			return fmt.Errorf("%w %s", err, a.State)
		}
		return nil
	})
	second := c.lease(c.nodes[0], "a", 10)
	if second.TaskID != first.TaskID || second.Epoch <= first.Epoch {
		t.Fatalf("%+v after %+v", second, first)
	}
	if _, err := c.nodes[0].Heartbeat(t.Context(), "a", api.Heartbeat{Load: 0.5, CurrentTasks: 1}); err != nil {
		t.Fatal(err)
	}
	if a, err := c.nodes[2].Agent(t.Context(), "a"); err != nil || a.State != api.AgentHealthy || a.Load != 0.5 {
		t.Fatal(err, a)
	}
}

// Handing a shard over costs its holders neither their leases nor a second
// delivery: the new leader learns of them before it gives anything.
func TestLeaderChangeKeepsLeases(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[0], "a", "x:y")
	const tasks = 20
	held := map[string]api.Lease{}
	for range tasks {
		c.submit(c.nodes[0], api.TaskSpec{Action: "x", Target: "y"})
	}
	for range tasks {
		l := c.lease(c.nodes[0], "a", 5)
		held[l.TaskID] = l
	}
	for shard := uint32(1); shard <= 2; shard++ {
		for _, n := range c.nodes {
			k := n.core.Load()
			if id, _ := k.leaders.of(shard); id != k.id.RaftID {
				continue
			}
			to := k.id.Voters[0].RaftID
			if to == k.id.RaftID {
				to = k.id.Voters[1].RaftID
			}
			c.eventually("new leader", func() error {
				if id, _ := k.leaders.of(shard); id != to {
					return fmt.Errorf("led by %x: %v", id, k.store.TransferLeader(t.Context(), shard, to))
				}
				return nil
			})
			break
		}
	}
	if ls, err := c.nodes[1].Lease(t.Context(), api.LeaseRequest{AgentID: "a", Max: tasks, WaitSeconds: 1}); err != nil || len(ls.Tasks) != 0 {
		t.Fatalf("%v: %d tasks were given a second time", err, len(ls.Tasks))
	}
	for _, l := range held {
		if v := c.settle(c.nodes[2], "a", l, "complete"); v.Error != nil || v.Replayed {
			t.Fatalf("%+v", v)
		}
	}
}

// Everything acknowledged is there after all nodes were stopped and opened
// again, on other ports.
func TestRestart(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	var specs []api.TaskSpec
	for i := range 200 {
		specs = append(specs, api.TaskSpec{Action: "x", Target: "y", IdempotencyKey: fmt.Sprint("k", i)})
	}
	before, err := c.nodes[0].Submit(t.Context(), specs, "test")
	if err != nil {
		t.Fatal(err)
	}
	c.register(c.nodes[0], "a", "x:y")
	done := c.lease(c.nodes[0], "a", 5)
	if v := c.settle(c.nodes[0], "a", done, "complete"); v.Error != nil {
		t.Fatal(v)
	}
	c.close()
	c.open(3, nil)
	after, err := c.nodes[1].Submit(t.Context(), specs, "test")
	if err != nil {
		t.Fatal(err)
	}
	for i := range before {
		if after[i].TaskID != before[i].TaskID || !after[i].Replayed {
			t.Fatalf("%d: %+v, was %+v", i, after[i], before[i])
		}
	}
	if x := c.task(c.nodes[2], done.TaskID); x.State != "completed" {
		t.Fatal(x.State)
	}
	n := 0
	for cur := ""; ; {
		p, err := c.nodes[2].Tasks(t.Context(), api.TaskFilter{Limit: 30, Cursor: cur})
		if err != nil {
			t.Fatal(err)
		}
		n += len(p.Tasks)
		if cur = p.NextCursor; cur == "" {
			break
		}
	}
	if n != len(specs) {
		t.Fatalf("listed %d of %d tasks", n, len(specs))
	}
	c.equalLedgers()
	c.samePages()
}

// samePages reads the audit log in pages, each from another node, and as one
// stream: the same records, dense. The nodes write records of their own, so
// what was written between the two is read again.
func (c *testCluster) samePages() {
	c.t.Helper()
	name := func(r api.Record) string { return fmt.Sprint(r.Shard, r.Seq, r.Hash) }
	var paged, whole []string
	for end := time.Now().Add(10 * time.Second); ; {
		f := api.AuditFilter{Shard: -1, Limit: 37}
		paged, whole = nil, nil
		for i := 0; i == 0 || f.Cursor != ""; i++ {
			p, err := c.nodes[i%len(c.nodes)].Audit(c.t.Context(), f)
			if err != nil {
				c.t.Fatal(err)
			}
			for _, r := range p.Records {
				paged = append(paged, name(r))
			}
			f.Cursor = p.NextCursor
		}
		err := c.nodes[0].ExportAudit(c.t.Context(), api.AuditFilter{Shard: -1}, func(r api.Record) error {
			whole = append(whole, name(r))
			return nil
		})
		if err != nil {
			c.t.Fatal(err)
		}
		if slices.Equal(paged, whole) {
			break
		}
		if time.Now().After(end) {
			c.t.Fatalf("%d records in pages, %d in the stream", len(paged), len(whole))
		}
	}
	if _, err := c.nodes[0].Audit(c.t.Context(), api.AuditFilter{Shard: -1, Limit: 37, Cursor: "x"}); code(err) != "bad_cursor" {
		c.t.Fatal(err)
	}
}

// The fourth of four nodes serves as a gateway; it holds nothing and serves
// everything.
func TestFourthNodeIsGateway(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 4, nil)
	gateways := 0
	for _, n := range c.nodes {
		if len(n.Gateway()) > 0 {
			gateways++
			if _, err := n.Submit(t.Context(), nil, ""); err == nil {
				t.Error("a gateway took work itself")
			}
		}
	}
	if gateways != 1 {
		t.Fatalf("%d gateways", gateways)
	}
}

// max_concurrent_tasks is kept, and a settled task makes room at once.
func TestAgentLimit(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, nil)
	n := c.nodes[0]
	if _, err := n.Register(t.Context(), api.Manifest{AgentID: "a", MaxTasks: 2, Capabilities: []api.Capability{{Action: "x", Target: "y"}}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.submit(n, api.TaskSpec{Action: "x", Target: "y"})
	}
	ls, err := n.Lease(t.Context(), api.LeaseRequest{AgentID: "a", Max: 10, WaitSeconds: 1})
	if err != nil || len(ls.Tasks) == 0 || len(ls.Tasks) > 2 {
		t.Fatalf("%v: %d leases", err, len(ls.Tasks))
	}
	for len(ls.Tasks) < 2 {
		ls.Tasks = append(ls.Tasks, c.lease(n, "a", 5))
	}
	next := make(chan api.Leases, 1)
	go func() {
		l, _ := n.Lease(t.Context(), api.LeaseRequest{AgentID: "a", Max: 10, WaitSeconds: 20})
		next <- l
	}()
	c.settle(n, "a", ls.Tasks[0], "complete")
	if l := <-next; len(l.Tasks) != 1 {
		t.Fatalf("%d leases after one was settled", len(l.Tasks))
	}
}
