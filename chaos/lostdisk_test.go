package chaos

import (
	"context"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/node/client"
)

// TestLostDisk takes a node's disk away under load. Its name never returns with an empty directory; a node with a new name
// takes its place on the same addresses, gets all there is as snapshots, and nothing that was acknowledged is lost.
func TestLostDisk(t *testing.T) {
	c := formedThree(t)
	r := &run{cfg: RunConfig{Drain: defaultDrain, Out: io.Discard}, began: time.Now(), h: &History{}, cluster: c}
	pool := wire.Pool(submitters + workers)
	defer pool.CloseIdleConnections()
	for _, n := range c.Nodes() {
		r.nodes = append(r.nodes, wire.Client{Base: n.URL(), HTTP: pool})
	}
	cl, err := client.New(client.Config{URLs: c.URLs(), Patience: memberWait})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	m := &members{t, cl}
	m.awaitSettled()

	work, stopWork := context.WithCancel(t.Context())
	submit, stopSubmit := context.WithCancel(work)
	l := &load{h: r.h, nodes: r.nodes[:2], seed: *seedFlag}
	var subs, wrks sync.WaitGroup
	for n := range workers {
		wrks.Go(func() { l.worker(work, n) })
	}
	for n := range submitters {
		subs.Go(func() { l.submit(submit, work, n) })
	}
	stop := func() { stopSubmit(); stopWork(); subs.Wait(); wrks.Wait() }
	defer stop()

	m.replaceLost(c.Nodes()[2])

	l.calm.Store(true)
	stopSubmit()
	subs.Wait()
	if err := r.awaitEnd(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	m.check(r, c.Nodes())
}

// replaceLost kills n, takes its disk, and puts a new node in its place.
func (m *members) replaceLost(n *proc.Node) {
	t := m.t
	lost := n.ID
	n.Kill()
	if err := os.RemoveAll(n.Data); err != nil {
		t.Fatal(err)
	}
	startNode(t, n) // as somebody would who does not know
	refused(t, n, lost, "quorate node remove "+lost, "quorate node add")
	if _, err := m.cl.ChangeNode(t.Context(), lost, "remove"); err != nil {
		t.Fatal(err)
	}
	m.awaitState(lost, "removed")
	n.ID, n.Data = "n4", t.TempDir()
	if _, err := m.cl.AddNode(t.Context(), n.ID, n.Peer); err != nil {
		t.Fatal(err)
	}
	startNode(t, n)
	m.awaitState(n.ID, "member")
	m.awaitSettled()
}
