package chaos

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// memberWait bounds one membership step: the five seconds a learner has to be
// well, catching up, and a loaded machine.
const memberWait = 60 * time.Second

// members changes a cluster of processes.
type members struct {
	t  *testing.T
	cl *client.Client
}

func (m *members) await(what string, ok func([]api.ClusterNode) bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), memberWait)
	defer cancel()
	for {
		list, err := m.cl.Nodes(ctx)
		if err == nil && ok(list.Nodes) {
			return
		}
		if !pause(ctx, restPoll) {
			m.t.Fatalf("%s: not within %v: %v\n%+v", what, memberWait, err, list.Nodes)
		}
	}
}

func (m *members) awaitState(id, state string) {
	m.t.Helper()
	m.await(id+" is "+state, func(nodes []api.ClusterNode) bool {
		for _, n := range nodes {
			if n.NodeID == id {
				return n.State == state
			}
		}
		return false
	})
}

// awaitSettled waits until every member holds what it is to hold.
func (m *members) awaitSettled() {
	m.t.Helper()
	m.await("replicas are where they belong", func(nodes []api.ClusterNode) bool {
		for _, n := range nodes {
			if n.State != "removed" && n.Hosts != len(n.Shards) {
				return false
			}
		}
		return len(nodes) > 0
	})
}

// underLoad is a cluster of processes with submitters and workers at it.
type underLoad struct {
	*run
	load       *load
	pool       *http.Client
	stopSubmit context.CancelFunc
	stopWork   context.CancelFunc
	subs, wrks sync.WaitGroup
}

// newUnderLoad knows every node of c; nothing runs yet.
func newUnderLoad(t *testing.T, c *proc.Cluster) *underLoad {
	r := &run{cfg: RunConfig{Drain: defaultDrain, Out: io.Discard}, began: time.Now(), h: &History{}, cluster: c}
	u := &underLoad{run: r, pool: wire.Pool(submitters + workers + 1)}
	t.Cleanup(u.pool.CloseIdleConnections)
	for _, n := range c.Nodes() {
		r.nodes = append(r.nodes, wire.Client{Base: n.URL(), HTTP: u.pool})
	}
	return u
}

// begin puts load on some of the nodes until end, or the test's.
func (u *underLoad) begin(t *testing.T, nodes []wire.Client) {
	u.load = &load{h: u.h, nodes: nodes, seed: *seedFlag}
	work, stopWork := context.WithCancel(t.Context())
	submit, stopSubmit := context.WithCancel(work)
	u.stopWork, u.stopSubmit = stopWork, stopSubmit
	for n := range workers {
		u.wrks.Go(func() { u.load.worker(work, n) })
	}
	for n := range submitters {
		u.subs.Go(func() { u.load.submit(submit, work, n) })
	}
	t.Cleanup(u.stop)
}

func (u *underLoad) stop() {
	u.stopSubmit()
	u.stopWork()
	u.subs.Wait()
	u.wrks.Wait()
}

// end lets every task end on the nodes that are left, and goes over the history.
func (u *underLoad) end(t *testing.T, m *members, left []*proc.Node) {
	u.load.calm.Store(true)
	u.stopSubmit()
	u.subs.Wait()
	u.nodes = u.nodes[len(u.nodes)-len(left):]
	if err := u.awaitEnd(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.stop()
	m.check(u.run, left)
}

// TestMembersChangeUnderLoad takes a cluster of processes from three nodes to
// five and back to three, two founders gone, with submitters and workers at
// work and the control shard's leader killed on the way. The checker goes over
// everything anybody was told.
func TestMembersChangeUnderLoad(t *testing.T) {
	c, err := proc.New(proc.Config{Binary: binary(t), Nodes: 5, Expect: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u := newUnderLoad(t, c)
	for _, n := range c.Nodes()[:3] {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes()[:3] {
		if err := n.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cl, err := client.New(client.Config{URLs: c.URLs(), Patience: memberWait})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	m := &members{t, cl}
	m.awaitSettled()

	u.begin(t, u.nodes[:3])
	m.growAndShrink(c)
	u.end(t, m, c.Nodes()[2:])
}

func (m *members) growAndShrink(c *proc.Cluster) {
	t := m.t
	for _, n := range c.Nodes()[3:] {
		if _, err := m.cl.AddNode(t.Context(), n.ID, n.Peer); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	leaders, err := c.Leaders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	victim := c.Node(leaders[0]) // the administrator is there
	victim.Kill()
	if !pause(t.Context(), time.Second) {
		t.FailNow()
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes()[3:] {
		m.awaitState(n.ID, "member")
	}
	m.awaitSettled()
	for _, n := range c.Nodes()[:2] {
		if _, err := m.cl.ChangeNode(t.Context(), n.ID, "remove"); err != nil {
			t.Fatal(err)
		}
		m.awaitState(n.ID, "removed")
		select {
		case <-n.Process().Done():
		case <-time.After(memberWait):
			t.Fatalf("%s was removed and does not stop", n.ID)
		}
	}
	m.awaitSettled()
}

// check reads the three nodes that are left, and goes over the history.
func (m *members) check(r *run, left []*proc.Node) {
	t := m.t
	ctx, cancel := context.WithTimeout(t.Context(), defaultDrain)
	defer cancel()
	heads, err := awaitEqualHeads(ctx, r.nodes)
	if err != nil || !equalHeads(heads) {
		t.Fatalf("ledgers: %v %+v", err, heads)
	}
	for i, c := range r.nodes {
		tasks, err := c.Tasks(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range tasks {
			r.h.seen(Sight{NodeID: left[i].ID, TaskID: x.TaskID, State: x.State, AgentID: x.AgentID, Epoch: x.Epoch, Result: string(x.Result)})
		}
		records, err := c.Export(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r.h.booked(Book{NodeID: left[i].ID, Bad: heads[i].Bad, Records: records})
	}
	rep := RunReport{}
	r.tally(&rep)
	for _, v := range Check(r.h) {
		t.Error(v)
	}
	if rep.Tasks < 50 || rep.Completed < 50 {
		t.Errorf("a run that did nothing proves nothing: %+v", rep)
	}
	t.Logf("%d tasks, %d completions, %d records, %v", rep.Tasks, rep.Completed, rep.Records, time.Since(r.began).Round(time.Second))
}
