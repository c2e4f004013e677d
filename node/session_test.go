package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
	"github.com/quorate/quorate/node/internal/stream"
)

// openWork opens a session as the stream's face does.
func (c *testCluster) openWork(n *Node, agent, resume string, can ...string) stream.Worker {
	c.t.Helper()
	return c.resumeWork(n, agent, resume, can)
}

func (c *testCluster) resumeWork(n *Node, agent, resume string, can []string, held ...api.Held) stream.Worker {
	c.t.Helper()
	if can == nil {
		can = []string{"do:it"}
	}
	m, err := json.Marshal(manifest(agent, 0, can...))
	if err != nil {
		c.t.Fatal(err)
	}
	w, err := n.OpenWork(c.t.Context(), api.WorkHello{AgentID: agent, Manifest: m, Resume: resume, Held: held})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(w.Close)
	return w
}

func (c *testCluster) taken(w stream.Worker) api.Held {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	got, err := w.Take(ctx, 1)
	if err != nil || len(got) != 1 {
		c.t.Fatalf("%d tasks: %v", len(got), err)
	}
	return api.Held{TaskID: got[0].TaskID, Epoch: got[0].Epoch}
}

// fencedSoon waits for the end of a session that another took the place of.
func fencedSoon(t *testing.T, w stream.Worker) {
	t.Helper()
	select {
	case <-w.Over():
		if e := asAPIError(w.Why()); e.Code != "session_fenced" || e.Layer != 2 {
			t.Errorf("ended with %v", w.Why())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the older session is not fenced")
	}
}

// The same agent ID at two nodes: the older session is fenced, and can end
// nothing that the newer one was given.
func TestFencedAcrossNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	older := c.openWork(c.nodes[0], "w", "")
	for i := range 4 { // whichever node is next
		c.eventually("heard of everywhere", func() error {
			for _, n := range c.nodes {
				if at := n.core.Load(); at.turns.heard("w") != uint32(i+1) {
					return errors.New(n.NodeID())
				}
			}
			return nil
		})
		newer := c.openWork(c.nodes[(i+1)%3], "w", "")
		fencedSoon(t, older)
		id := c.submit(c.nodes[i%3], api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: fmt.Sprint(i)})
		h := c.taken(newer)
		if h.TaskID != id {
			t.Fatalf("got %s, want %s", h.TaskID, id)
		}
		vs, err := older.Settle(t.Context(), []api.Settlement{{TaskID: id, Epoch: h.Epoch - 1, Verdict: "complete"}, {TaskID: id, Epoch: h.Epoch + 1, Verdict: "complete"}})
		if err != nil || vs[0].Error == nil || vs[0].Error.Code != "stale_lease" || vs[1].Error == nil || vs[1].Error.Code != "stale_lease" || vs[0].Error.Layer != 5 {
			t.Errorf("the fenced session settled: %+v, %v", vs, err)
		}
		if vs, err = newer.Settle(t.Context(), []api.Settlement{{TaskID: id, Epoch: h.Epoch, Verdict: "complete"}}); err != nil || vs[0].Error != nil {
			t.Errorf("%+v, %v", vs, err)
		}
		older = newer
	}
}

// Two at the same moment: one stays, whichever it is.
func TestSessionsCross(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.register(c.nodes[0], "w", "do:it")
	for range 8 {
		a, b := c.openWork(c.nodes[0], "w", ""), c.openWork(c.nodes[1], "w", "")
		stays := a
		select {
		case <-a.Over():
			stays = b
		case <-b.Over():
		case <-time.After(20 * time.Second):
			t.Fatal("both stay")
		}
		select {
		case <-stays.Over():
			t.Fatal("both are fenced")
		case <-time.After(100 * time.Millisecond): // what might still come
		}
	}
}

// A resume token opens the next session at any node of its cluster, with what
// is held; one that was not given by it, or to another agent, does not.
func TestResumeTokens(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	id := c.submit(c.nodes[0], api.TaskSpec{Action: "do", Target: "it", LeaseSeconds: 1})
	w := c.openWork(c.nodes[0], "w", "")
	welcome, _ := w.Welcome()
	h := c.taken(w)
	for name, x := range map[string]struct{ agent, token string }{"made up": {"w", "bm8gdG9rZW4gYXQgYWxs"}, "not base64": {"w", "!"}, "short": {"w", "AA"},
		"another agent's": {"x", welcome.Resume}, "one letter off": {"w", "A" + welcome.Resume[1:]}} {
		m, _ := json.Marshal(manifest(x.agent, 0, "do:it"))
		if strings.HasPrefix(welcome.Resume, "A") && name == "one letter off" {
			x.token = "B" + welcome.Resume[1:]
		}
		_, err := c.nodes[1].OpenWork(t.Context(), api.WorkHello{AgentID: x.agent, Manifest: m, Resume: x.token})
		if e := asAPIError(err); err == nil || e.Code != "bad_resume_token" || e.Layer != 2 || e.Retry != api.RetryNo {
			t.Errorf("a token that is %s: %v", name, err)
		}
	}
	for i := range 6 { // around the cluster, for longer than a lease
		next := c.resumeWork(c.nodes[(i+1)%3], "w", welcome.Resume, nil, h)
		if x, lost := next.Welcome(); len(lost) > 0 {
			t.Fatalf("lost %+v", lost)
		} else {
			welcome = x
		}
		fencedSoon(t, w)
		w = next
		time.Sleep(400 * time.Millisecond) // part of a lease
	}
	if vs, err := w.Settle(t.Context(), []api.Settlement{{TaskID: id, Epoch: h.Epoch, Verdict: "complete"}}); err != nil || vs[0].Error != nil {
		t.Fatalf("%+v, %v", vs, err)
	}
	if x := c.task(c.nodes[0], id); x.Attempts != 1 || x.State != "completed" {
		t.Errorf("%s after %d attempts", x.State, x.Attempts)
	}
}

// What an agent does not say it holds when it connects again goes to others,
// although its new session would have it renewed for ever; in doubt if it was
// to happen once.
func TestForgottenTasks(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, func(cfg *Config) { single(cfg); cfg.AutoApprove = []string{"*:*"} })
	n := c.nodes[0]
	w := c.openWork(n, "w", "")
	kept := c.submit(n, api.TaskSpec{Action: "do", Target: "it"})
	h := c.taken(w)
	again := c.submit(n, api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: "again"})
	c.taken(w)
	once := c.submit(n, api.TaskSpec{Action: "do", Target: "it", Guarantee: "exactly_once", IdempotencyKey: "once", Verify: []byte(`{"action":"look","target":"it"}`)})
	c.taken(w)
	never := c.submit(n, api.TaskSpec{Action: "do", Target: "it", Guarantee: "best_effort"})
	c.taken(w)
	welcome, _ := w.Welcome()
	w = c.resumeWork(n, "w", welcome.Resume, nil, h)
	if got := c.taken(w); got.TaskID != again {
		t.Errorf("got %s again, want %s", got.TaskID, again)
	}
	c.eventually("in doubt", func() error {
		for id, want := range map[string]string{once: "unknown", never: "failed", again: "assigned", kept: "assigned"} {
			if x := c.task(n, id); x.State != want {
				return fmt.Errorf("%s is %s, want %s", id, x.State, want)
			}
		}
		return nil
	})
	if vs, err := w.Settle(t.Context(), []api.Settlement{{TaskID: kept, Epoch: h.Epoch, Verdict: "complete"}}); err != nil || vs[0].Error != nil {
		t.Errorf("%+v, %v", vs, err)
	}
}

// What is not held can't be ended, reported on or given back by a session, and
// does it no harm to try.
func TestNotHeld(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, single)
	n := c.nodes[0]
	w, other := c.openWork(n, "w", ""), c.openWork(n, "x", "")
	id := c.submit(n, api.TaskSpec{Action: "do", Target: "it"})
	h := c.taken(other)
	vs, err := w.Settle(t.Context(), []api.Settlement{
		{AgentID: "x", TaskID: id, Epoch: h.Epoch, Verdict: "complete"}, // it speaks for itself alone
		{TaskID: id, Epoch: 0, Verdict: "fail"}, {TaskID: "no such task", Epoch: 1, Verdict: "complete"}, {TaskID: id, Epoch: h.Epoch, Verdict: "shrug"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vs {
		if v.Error == nil || v.Error.Layer != 5 && v.Error.Layer != 2 || v.Error.Retry != api.RetryNo {
			t.Errorf("%d: %+v", i, v.Error)
		}
	}
	gone, err := w.Claim(t.Context(), []api.HeldClaim{{Held: h, Start: true}})
	if err != nil || len(gone) != 1 || gone[0].Reason != "stale_lease" {
		t.Errorf("%+v, %v", gone, err)
	}
	w.Return([]api.Held{h})
	if vs, err := other.Settle(t.Context(), []api.Settlement{{TaskID: id, Epoch: h.Epoch, Verdict: "complete"}}); err != nil || vs[0].Error != nil {
		t.Errorf("its holder: %+v, %v", vs, err)
	}
}

// Effects that happen once, over the stream: approved, performed, completed;
// and in doubt when the agent can't tell.
func TestExactlyOnceOverStream(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { cfg.AutoApprove = []string{"do:*"} })
	calls := map[string]int{}
	stop := working(t, clientOf(t, c.nodes...), client.WorkConfig{Manifest: manifest("w", 1, "do:*"), Perform: func(_ context.Context, task *client.Task) api.Settlement {
		calls[task.TaskID]++ // one call at a time
		if task.IdempotencyKey == "" {
			return api.Settlement{Verdict: "fail", Error: "no key"}
		}
		if task.Target == "doubt" {
			return api.Settlement{Verdict: "unknown", Error: "the line went dead"}
		}
		return api.Settlement{Verdict: "complete", Result: []byte(`"paid"`)}
	}})
	spec := func(target string) api.TaskSpec {
		return api.TaskSpec{Action: "do", Target: target, Guarantee: "exactly_once", IdempotencyKey: target, Rollback: []byte(`{"action":"undo"}`)}
	}
	sure := c.submit(c.nodes[0], spec("it"))
	doubt := api.TaskSpec{Action: "do", Target: "doubt", Guarantee: "exactly_once", IdempotencyKey: "doubt", Verify: []byte(`{"action":"look","target":"it"}`)}
	unsure := c.submit(c.nodes[1], doubt)
	if task, err := c.nodes[2].Task(t.Context(), sure, 30*time.Second); err != nil || task.State != "completed" || string(task.Result) != `"paid"` || task.Attempts != 1 {
		t.Errorf("%s, attempts %d: %v", task.State, task.Attempts, err)
	}
	c.eventually("in doubt", func() error {
		if x := c.task(c.nodes[2], unsure); x.State != "unknown" {
			return errors.New(x.State)
		}
		return nil
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
	if calls[sure] != 1 || calls[unsure] != 1 {
		t.Errorf("calls: %v", calls)
	}
}

// A recall brings back what no call has begun with; what was begun stays, and
// is said to be.
func TestRecall(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, single)
	n := c.nodes[0]
	begun, release := make(chan struct{}, 3), make(chan struct{})
	hold := func(ctx context.Context, _ *client.Task) (any, error) {
		begun <- struct{}{}
		<-release
		return nil, nil
	}
	working(t, clientOf(t, n), client.WorkConfig{Manifest: manifest("busy", 0, "do:it"), Handler: hold, Concurrency: 1, Credit: 2})
	first := c.submit(n, api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: "1"})
	<-begun
	second := c.submit(n, api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: "2"})
	var list []api.Held
	c.eventually("both pushed", func() error {
		list = nil
		for _, id := range []string{first, second} {
			x := c.task(n, id)
			if x.AgentID != "busy" {
				return errors.New(x.State)
			}
			list = append(list, api.Held{TaskID: id, Epoch: x.Epoch})
		}
		return nil
	})
	idle := c.openWork(n, "idle", "")
	if !n.core.Load().sessions.recall("busy", list) {
		t.Fatal("not connected")
	}
	if got := c.taken(idle); got.TaskID != second || got.Epoch <= list[1].Epoch {
		t.Errorf("recalled %+v, want %s with a newer epoch", got, second)
	} else if vs, err := idle.Settle(t.Context(), []api.Settlement{{TaskID: second, Epoch: got.Epoch, Verdict: "complete"}}); err != nil || vs[0].Error != nil {
		t.Errorf("%+v, %v", vs, err)
	}
	c.eventually("said to be started", func() error {
		if x := c.task(n, first); x.State != "running" || x.Epoch != list[0].Epoch {
			return fmt.Errorf("%s, epoch %d", x.State, x.Epoch)
		}
		return nil
	})
	close(release)
	if x, err := n.Task(t.Context(), first, 20*time.Second); err != nil || x.State != "completed" || x.Attempts != 1 {
		t.Errorf("%s after %d attempts: %v", x.State, x.Attempts, err)
	}
	if n.core.Load().sessions.recall("nobody", list) {
		t.Error("told nobody")
	}
}

// A connection that goes silent half-open is found out and the agent lost; its
// tasks go to others, long before their leases end.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, func(cfg *Config) { single(cfg); cfg.pingAfter = 300 * time.Millisecond })
	n := c.nodes[0]
	dead := newValve(t, n.APIAddr())
	cl, err := client.New(client.Config{URLs: []string{"http://" + dead.addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	held := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- cl.WorkWith(ctx, client.WorkConfig{Manifest: manifest("w", 1, "do:it"), Drain: time.Millisecond, Handler: func(ctx context.Context, _ *client.Task) (any, error) {
			close(held)
			<-ctx.Done()
			return nil, ctx.Err()
		}})
	}()
	id := c.submit(n, api.TaskSpec{Action: "do", Target: "it", LeaseSeconds: 600})
	<-held
	dead.shut()
	other := c.openWork(n, "other", "")
	if got := c.taken(other); got.TaskID != id {
		t.Errorf("got %s, want %s", got.TaskID, id)
	}
	dead.close()
	cancel()
	<-ended
}

// valve passes connections' bytes on until it is shut: then nothing comes
// through, and nothing breaks either.
type valve struct {
	addr string
	l    net.Listener
	open chan struct{} // closed: shut
	over chan struct{} // closed: broken
	wg   sync.WaitGroup
}

func newValve(t *testing.T, to string) *valve {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{addr: l.Addr().String(), l: l, open: make(chan struct{}), over: make(chan struct{})}
	v.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			v.wg.Go(func() { v.pass(out, in) })
			v.wg.Go(func() { v.pass(in, out) })
		}
	})
	return v
}

func (v *valve) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		select {
		case <-v.open: // neither bytes nor the end of them
			<-v.over
			return
		default:
		}
		if n > 0 {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

func (v *valve) shut() { close(v.open) }

func (v *valve) close() {
	v.l.Close()
	close(v.over)
	v.wg.Wait()
}

// heard is the last turn.
func (t *turns) heard(agent string) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(t.mu.now[agent], t.mu.before[agent])
}
