package chaos

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
)

// newCluster prepares nodes that all know of each other.
func newCluster(t *testing.T, nodes, expect int) *proc.Cluster {
	t.Helper()
	c, err := proc.New(proc.Config{Binary: binary(t), Dir: t.TempDir(), Nodes: nodes, Expect: expect})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func startNode(t *testing.T, n *proc.Node) {
	t.Helper()
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
}

// TestFourNodesFormOneCluster starts one node more than the bootstrap expects,
// in several orders: whoever comes too late joins what the others formed.
func TestFourNodesFormOneCluster(t *testing.T) {
	for _, tc := range []struct {
		name  string
		order []int
		gap   time.Duration
	}{
		{"at once", []int{0, 1, 2, 3}, 0},
		{"backwards", []int{3, 2, 1, 0}, 0},
		{"one after the other", []int{2, 0, 3, 1}, 150 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 4, 3)
			for _, i := range tc.order {
				startNode(t, c.Nodes()[i])
				pause(t.Context(), tc.gap)
			}
			if err := c.AwaitFormed(t.Context()); err != nil { // one cluster ID for all
				t.Fatal(err)
			}
			v, err := c.Nodes()[0].View(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range v.Shards {
				if len(s.Voters) != 3 {
					t.Errorf("shard %d has voters %v, want three", s.Shard, s.Voters)
				}
			}
		})
	}
}

// refused waits until a node's process has ended by itself and checks that it
// said why.
func refused(t *testing.T, n *proc.Node, reasons ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	code, err := n.Process().Wait(ctx)
	log := string(proc.LogTail(n.Log(), 4096))
	if err != nil {
		t.Fatalf("%s was not refused: %v; its log ends:\n%s", n.ID, err, log)
	}
	if code != 1 {
		t.Errorf("%s ended with exit code %d, want 1", n.ID, code)
	}
	for _, r := range reasons {
		if !strings.Contains(strings.ToLower(log), r) {
			t.Errorf("%s does not say %q; its log ends:\n%s", n.ID, r, log)
		}
	}
}

// awaitLog waits until a node's log says something.
func awaitLog(t *testing.T, n *proc.Node, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !strings.Contains(string(proc.LogTail(n.Log(), 16<<10)), what) {
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("%s does not say %q; its log ends:\n%s", n.ID, what, proc.LogTail(n.Log(), 2048))
		}
	}
}

// formedThree is a cluster of three running nodes.
func formedThree(t *testing.T) *proc.Cluster {
	t.Helper()
	c := newCluster(t, 3, 3)
	for _, n := range c.Nodes() {
		startNode(t, n)
	}
	if err := c.AwaitFormed(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRefusals starts nodes beside a formed cluster in ways that must not
// work; after each the cluster is what it was.
func TestRefusals(t *testing.T) {
	c := formedThree(t)
	join := []string{c.Nodes()[0].Gossip, c.Nodes()[1].Gossip}
	before, err := c.Nodes()[0].View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("another cluster's name", func(t *testing.T) {
		n := c.Nodes()[2]
		n.Kill()
		n.Cluster = "elsewhere"
		startNode(t, n)
		refused(t, n, "cluster", "elsewhere", c.Name())
		n.Cluster = ""
		backAgain(t, n)
	})
	t.Run("data directory held by another process", func(t *testing.T) {
		other := newCluster(t, 1, 1).Nodes()[0]
		other.Data, other.ID = c.Nodes()[0].Data, c.Nodes()[0].ID
		startNode(t, other)
		refused(t, other, "data directory", "another process")
	})
	t.Run("node ID in use", func(t *testing.T) {
		twin := newCluster(t, 1, 3).Nodes()[0]
		twin.ID, twin.Join = "n1", join
		startNode(t, twin)
		refused(t, twin, "n1")
	})
	t.Run("node ID reused with an empty directory", func(t *testing.T) {
		n := c.Nodes()[2]
		n.Kill()
		data := n.Data
		n.Data = t.TempDir()
		startNode(t, n)
		refused(t, n, "n3")
		n.Data = data
		backAgain(t, n)
	})
	t.Run("data directory of another cluster", func(t *testing.T) { foreignDirectory(t, join) })
	t.Run("new node with another cluster's name", func(t *testing.T) { stranger(t, join) })

	after, err := c.Nodes()[0].View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.ClusterID != before.ClusterID || len(after.Nodes) != len(before.Nodes) {
		t.Errorf("after all that: cluster %s with %d nodes, was %s with %d", after.ClusterID, len(after.Nodes), before.ClusterID, len(before.Nodes))
	}
}

// foreignDirectory sends a node that has been a cluster of its own to join.
func foreignDirectory(t *testing.T, join []string) {
	foreign := newCluster(t, 1, 1)
	f := foreign.Nodes()[0]
	f.ID = "n9"
	startNode(t, f)
	if err := foreign.AwaitFormed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Join = join
	startNode(t, f)
	refused(t, f, "cluster")
}

// stranger sends a new node that names another cluster. It may yet find its
// own: it waits, and says why.
func stranger(t *testing.T, join []string) {
	n := newCluster(t, 1, 3).Nodes()[0]
	n.ID, n.Cluster, n.Join = "n9", "elsewhere", join
	startNode(t, n)
	awaitLog(t, n, "same cluster")
	if err := n.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// backAgain starts a node as it was and waits until it is ready.
func backAgain(t *testing.T, n *proc.Node) {
	t.Helper()
	if err := n.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedIdentityIsRefused: what cannot be read is not absent.
func TestDamagedIdentityIsRefused(t *testing.T) {
	c := newCluster(t, 1, 1)
	n := c.Nodes()[0]
	startNode(t, n)
	if err := c.AwaitFormed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := n.Data + "/identity.json"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	startNode(t, n)
	refused(t, n, "identity")
	if now, err := os.ReadFile(path); err != nil || string(now) != string(b) {
		t.Errorf("the damaged file was touched: %v", err)
	}
}
