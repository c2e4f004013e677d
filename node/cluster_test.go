package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// testCluster is three nodes in this process, on a real disk and real sockets.
type testCluster struct {
	t     *testing.T
	dir   string
	nodes []*Node
}

func startCluster(t *testing.T, count int, change func(*Config)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, dir: t.TempDir()}
	t.Cleanup(c.close)
	c.open(count, change)
	return c
}

// testName keeps the nodes of this process apart from those of others that were
// given a port that was theirs.
var testName = fmt.Sprint("test-", os.Getpid())

func (c *testCluster) open(count int, change func(*Config)) {
	c.t.Helper()
	var join []string
	for i := range count {
		cfg := Config{DataDir: filepath.Join(c.dir, fmt.Sprint("n", i+1)), NodeID: fmt.Sprint("n", i+1), Cluster: testName, APIAddr: "127.0.0.1:0",
			PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0", Join: join, BootstrapExpect: min(count, 3), Shards: 2,
			Logger: slog.New(slog.DiscardHandler)}
		if change != nil {
			change(&cfg)
		}
		n, err := Open(cfg)
		if err != nil {
			c.t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
		join = append(join, n.GossipAddr())
	}
	c.eventually("all nodes ready", func() error {
		for _, n := range c.nodes {
			if len(n.Gateway()) == 0 && n.Ready() != nil {
				return n.Ready()
			}
		}
		return nil
	})
}

func (c *testCluster) close() {
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(func() {
			if err := n.Close(); err != nil {
				c.t.Errorf("close %s: %v", n.NodeID(), err)
			}
		})
	}
	wg.Wait()
	c.nodes = nil
}

// eventually waits for what has no event to wait for from outside.
func (c *testCluster) eventually(what string, ok func() error) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond) // nothing outside says when
	}
}

func (c *testCluster) register(n *Node, id string, caps ...string) {
	c.t.Helper()
	m := api.Manifest{AgentID: id}
	for _, s := range caps {
		a, t, _ := api.SplitCapability(s)
		m.Capabilities = append(m.Capabilities, api.Capability{Action: a, Target: t})
	}
	if _, err := n.Register(c.t.Context(), m); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) submit(n *Node, spec api.TaskSpec) string {
	c.t.Helper()
	vs, err := n.Submit(c.t.Context(), []api.TaskSpec{spec}, "test")
	if err != nil || vs[0].Error != nil {
		c.t.Fatal(err, vs)
	}
	return vs[0].TaskID
}

func (c *testCluster) lease(n *Node, agent string, wait float64) api.Lease {
	c.t.Helper()
	ls, err := n.Lease(c.t.Context(), api.LeaseRequest{AgentID: agent, WaitSeconds: wait})
	if err != nil || len(ls.Tasks) != 1 {
		c.t.Fatalf("lease for %s: %v, %d tasks", agent, err, len(ls.Tasks))
	}
	return ls.Tasks[0]
}

func (c *testCluster) settle(n *Node, agent string, l api.Lease, verdict string) api.SettleVerdict {
	c.t.Helper()
	vs, err := n.Settle(c.t.Context(), agent, []api.Settlement{{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: verdict, Result: []byte(`"r"`), Error: "why"}})
	if err != nil {
		c.t.Fatal(err)
	}
	return vs[0]
}

func (c *testCluster) task(n *Node, id string) api.Task {
	c.t.Helper()
	t, err := n.Task(c.t.Context(), id, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	return t
}

func code(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

// equalLedgers waits for every node to have applied everything and compares
// the chains.
func (c *testCluster) equalLedgers() {
	c.t.Helper()
	c.eventually("equal ledgers", func() error {
		var want []api.LedgerHead
		for _, n := range c.nodes {
			v, err := n.VerifyLedger(context.Background())
			if err != nil || !v.OK {
				c.t.Fatal(n.NodeID(), err, v.Bad)
			}
			if want == nil {
				want = v.Heads
			}
			for i := range want {
				if v.Heads[i] != want[i] {
					return fmt.Errorf("%s: shard %d: %+v, want %+v", n.NodeID(), i, v.Heads[i], want[i])
				}
			}
		}
		return nil
	})
}
