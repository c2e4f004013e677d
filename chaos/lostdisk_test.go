package chaos

import (
	"os"
	"testing"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/node/client"
)

// TestLostDisk takes a node's disk away under load. Its name never returns with an empty directory; a node with a new name
// takes its place on the same addresses, gets all there is as snapshots, and nothing that was acknowledged is lost.
func TestLostDisk(t *testing.T) {
	c := formedThree(t)
	u := newUnderLoad(t, c)
	cl, err := client.New(client.Config{URLs: c.URLs(), Patience: memberWait})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	m := &members{t, cl}
	m.awaitSettled()

	u.begin(t, u.nodes[:2])
	m.replaceLost(c.Nodes()[2])
	u.end(t, m, c.Nodes())
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
