package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// Thefts, completions, agents that leave, leader changes and links that are
// cut, all at once: every task ends once. A new leader that gets no report from
// a node in time gives its tasks again, so only while no leader changed is each
// begun with once, at the first attempt.
func TestStealExactlyOnce(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	const tasks = 400
	terms := c.terms()
	var mu sync.Mutex
	begun := map[string]int{}
	handler := func(ctx context.Context, task *client.Task) (any, error) {
		mu.Lock()
		begun[task.TaskID]++
		mu.Unlock()
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // the work
		return "done", nil
	}
	work := func(i int, name string, concurrency, credit int) (stop func() error) {
		return working(t, clientOf(t, c.nodes[i], c.nodes[(i+1)%3], c.nodes[(i+2)%3]),
			client.WorkConfig{Manifest: manifest(name, 0, "do:it"), Handler: handler, Concurrency: concurrency, Credit: credit})
	}
	for i := range 2 {
		work(i, fmt.Sprint("hoarder-", i), 1, tasks/2)
	}
	ids := c.submitMany(c.nodes[2], tasks, api.TaskSpec{Action: "do", Target: "it", LeaseSeconds: 30})
	trouble, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { c.trouble(trouble) })
	for i := range 3 {
		work(i, fmt.Sprint("thief-", i), 8, 16)
	}
	leaves := work(2, "leaves", 2, 8)
	time.Sleep(time.Second) // it gets some, and gives back what it has not begun with
	if err := leaves(); err != nil {
		t.Error(err)
	}
	ended := func() error {
		v, err := c.nodes[0].Cluster(t.Context())
		if err == nil && v.Tasks["completed"] < tasks {
			err = fmt.Errorf("%v", v.Tasks)
		}
		return err
	}
	for deadline := time.Now().Add(90 * time.Second); ended() != nil && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond) // nothing outside says when
	}
	stop()
	wait.Wait()
	c.eventually("all are completed", ended) // again: a node counts by its replicas, which may be behind
	for _, id := range ids {
		task, err := c.nodes[0].Task(t.Context(), id, 20*time.Second)
		mu.Lock()
		n := begun[id]
		mu.Unlock()
		if err != nil || task.State != "completed" || n == 0 || (n > 1 || task.Attempts != 1) && c.terms() == terms {
			t.Errorf("%s %s, attempts %d, begun %d times: %v", id, task.State, task.Attempts, n, err)
		}
	}
	c.equalLedgers()
}

// terms is the sum of the shards' terms: equal ones say that no leader changed.
func (c *testCluster) terms() (sum uint64) {
	n := c.nodes[0].core.Load()
	for shard := range n.shards {
		if st, ok := n.store.ShardStatus(shard); ok {
			sum += st.Term
		}
	}
	return sum
}

// submitMany submits count tasks with keys in batches.
func (c *testCluster) submitMany(n *Node, count int, spec api.TaskSpec) (ids []string) {
	c.t.Helper()
	for i := 0; i < count; i += 100 {
		specs := make([]api.TaskSpec, min(100, count-i))
		for k := range specs {
			specs[k] = spec
			specs[k].IdempotencyKey = fmt.Sprint("many-", i+k)
		}
		vs, err := n.Submit(c.t.Context(), specs, "test")
		for again := 0; err != nil && again < 5; again++ { // a leader may have moved: keys make it one task
			vs, err = n.Submit(c.t.Context(), specs, "test")
		}
		if err != nil {
			c.t.Fatal(err)
		}
		for _, v := range vs {
			if v.Error != nil {
				c.t.Fatal(v.Error)
			}
			ids = append(ids, v.TaskID)
		}
	}
	return ids
}

// trouble moves leaders and cuts links until ctx ends.
func (c *testCluster) trouble(ctx context.Context) {
	pause := func(d time.Duration) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	for turn := 0; pause(150 * time.Millisecond); turn++ {
		i := rand.IntN(3)
		a, b := c.nodes[i].core.Load(), c.nodes[(i+1+rand.IntN(2))%3].core.Load()
		if turn%2 == 0 {
			for shard := range a.shards {
				if st, ok := a.store.ShardStatus(shard); ok && st.Leader == a.id.RaftID && shard != controlShard {
					_ = a.store.TransferLeader(ctx, shard, b.id.RaftID) // it may be about to change anyway
					break
				}
			}
			continue
		}
		ref := func(x *core) nodeRef { return nodeRef{x.id.RaftID, x.id.NodeID, x.peers.Addr().String()} }
		ra, rb := ref(a), ref(b)
		a.peers.RemovePeer(rb.RaftID)
		b.peers.RemovePeer(ra.RaftID)
		pause(time.Duration(rand.IntN(150)) * time.Millisecond)
		a.peers.SetPeer(rb.RaftID, rb.NodeID, rb.PeerAddr)
		b.peers.SetPeer(ra.RaftID, ra.NodeID, ra.PeerAddr)
	}
}
