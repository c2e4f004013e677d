package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

func quickHealth(c *Config) { c.healthyFor = 100 * time.Millisecond }

func memberLogger(t *testing.T) *slog.Logger {
	if os.Getenv("NODE_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

// grow starts a node that joins the cluster; admitted or not.
func (c *testCluster) grow(id string) *Node {
	c.t.Helper()
	cfg := Config{DataDir: filepath.Join(c.dir, id), NodeID: id, Cluster: testName, APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0",
		Shards: 2, Logger: memberLogger(c.t)}
	for _, n := range c.nodes {
		cfg.Join = append(cfg.Join, n.GossipAddr())
	}
	quickHealth(&cfg)
	n, err := Open(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes = append(c.nodes, n)
	return n
}

// admit admits a node, starts it, and waits until it is a member.
func (c *testCluster) admit(id string) *Node {
	c.t.Helper()
	if _, err := c.nodes[0].AddNode(c.t.Context(), id, "", "test"); err != nil {
		c.t.Fatal(err)
	}
	n := c.grow(id)
	c.eventually(id+" is a member", func() error { return c.isState(id, "member") })
	c.eventually(id+" serves", func() error {
		if len(n.Gateway()) > 0 {
			return errors.New("it is a gateway")
		}
		return n.Ready()
	})
	return n
}

func (c *testCluster) info(id string) (api.ClusterNode, error) {
	list, err := c.nodes[0].Nodes(c.t.Context())
	if err != nil {
		return api.ClusterNode{}, err
	}
	for _, x := range list.Nodes {
		if x.NodeID == id {
			return x, nil
		}
	}
	return api.ClusterNode{}, fmt.Errorf("%s is not listed", id)
}

func (c *testCluster) isState(id, state string) error {
	x, err := c.info(id)
	if err == nil && x.State != state {
		err = fmt.Errorf("%s is %s", id, x.State)
	}
	return err
}

// placed says whether every shard lives where it should, and is led there.
func (c *testCluster) placed() error {
	k := c.nodes[0].core.Load()
	for shard := range k.shards {
		p, ok := k.placement(shard)
		v, err := k.viewShard(shard)
		if err != nil || !ok {
			return fmt.Errorf("shard %d: %v", shard, err)
		}
		want, have := slices.Sorted(slices.Values(p.Voters)), slices.Sorted(slices.Values(v.Voters))
		if !slices.Equal(want, have) || len(v.Learners) != len(p.Learners) {
			return fmt.Errorf("shard %d: voters %x learners %x, placed %v", shard, have, v.Learners, &p)
		}
		if v.Leader != p.Voters[0] {
			return fmt.Errorf("shard %d is led by %x, not %x", shard, v.Leader, p.Voters[0])
		}
	}
	return nil
}

func (c *testCluster) drop(n *Node) {
	c.t.Helper()
	c.nodes = slices.DeleteFunc(c.nodes, func(x *Node) bool { return x == n })
	if err := n.Close(); err != nil {
		c.t.Error(err)
	}
}

// memberLoad submits and completes until it is told to stop; then all that was
// acknowledged must be there, completed once.
type memberLoad struct {
	mu  sync.Mutex
	ids []string
	wg  sync.WaitGroup
}

func (c *testCluster) load(ctx context.Context, nodes func() []*Node) *memberLoad {
	l := &memberLoad{}
	l.wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			ns := nodes()
			vs, err := ns[i%len(ns)].Submit(context.Background(), []api.TaskSpec{{Action: "x", Target: "y", IdempotencyKey: fmt.Sprint("k", i)}}, "test")
			if err == nil && vs[0].Error == nil {
				l.mu.Lock()
				l.ids = append(l.ids, vs[0].TaskID)
				l.mu.Unlock()
			}
		}
	})
	for w := range 2 {
		agent := fmt.Sprint("w", w)
		l.wg.Go(func() {
			for i := w; ; i++ {
				ns := nodes()
				n := ns[i%len(ns)]
				ls, err := n.Lease(context.Background(), api.LeaseRequest{AgentID: agent, Max: 8, WaitSeconds: 0.05})
				if err != nil || len(ls.Tasks) == 0 {
					if ctx.Err() != nil && err == nil {
						return
					}
					continue
				}
				var done []api.Settlement
				for _, t := range ls.Tasks {
					done = append(done, api.Settlement{TaskID: t.TaskID, Epoch: t.Epoch, Verdict: "complete"})
				}
				_, _ = n.Settle(context.Background(), agent, done) // what was lost is given again
			}
		})
	}
	return l
}

// TestThreeToFiveToThree grows a cluster by two nodes and has two founders
// leave, under load. Nothing is lost, every node serves every shard.
func TestThreeToFiveToThree(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { quickHealth(cfg); cfg.Shards = 4; cfg.Logger = memberLogger(t) })
	var serving atomic.Pointer[[]*Node]
	nodes := func() []*Node { return *serving.Load() }
	serving.Store(new(slices.Clone(c.nodes)))
	c.register(c.nodes[0], "w0", "x:y")
	c.register(c.nodes[0], "w1", "x:y")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c.eventually("placement", c.placed)
	load := c.load(ctx, nodes)
	n4, n5 := c.admit("n4"), c.admit("n5")
	c.eventually("five nodes, three replicas each", c.placed)
	for _, n := range c.nodes {
		k := n.core.Load()
		c.eventually("spare replicas are gone", func() error {
			if held := k.store.Shards(); len(held) > 4 {
				return fmt.Errorf("%s holds %v", n.NodeID(), held)
			}
			return nil
		})
	}
	founders := slices.Clone(c.nodes[:2])
	serving.Store(&[]*Node{c.nodes[2], n4, n5})
	c.nodes = []*Node{c.nodes[2], n4, n5, founders[0], founders[1]}
	for _, n := range founders {
		if _, err := c.nodes[0].RemoveNode(t.Context(), n.NodeID(), "test"); err != nil {
			t.Fatal(err)
		}
		c.eventually(n.NodeID()+" is gone", func() error { return c.isState(n.NodeID(), "removed") })
		select {
		case err := <-n.Fatal():
			if !errors.Is(err, errRetired) {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a removed node does not stop")
		}
		c.drop(n)
	}
	c.eventually("three nodes", c.placed)
	stop()
	load.wg.Wait()
	if len(load.ids) < 20 {
		t.Fatalf("only %d tasks were submitted", len(load.ids))
	}
	t.Logf("%d tasks", len(load.ids))
	for _, id := range load.ids {
		c.eventually("task "+id, func() error {
			if x := c.task(c.nodes[2], id); x.State != "completed" {
				return fmt.Errorf("%s is %s", id, x.State)
			}
			return nil
		})
	}
	for _, n := range c.nodes {
		if v, err := n.VerifyLedger(t.Context()); err != nil || !v.OK {
			t.Errorf("%s: %v %+v", n.NodeID(), err, v.Bad)
		}
	}
}

// TestNodeRefusals asks for what can't be done with nodes.
func TestNodeRefusals(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, quickHealth)
	n := c.nodes[0]
	ctx := t.Context()
	c.eventually("placement", c.placed)
	for what, x := range map[string]struct {
		do   func() error
		want string
	}{
		"existing ID":     {func() error { _, err := n.AddNode(ctx, "n2", "", ""); return err }, "exists"},
		"no ID":           {func() error { _, err := n.AddNode(ctx, "-", "", ""); return err }, "invalid_node_id"},
		"promote unknown": {func() error { _, err := n.PromoteNode(ctx, "n9", ""); return err }, "not_found"},
		"drain unknown":   {func() error { _, err := n.DrainNode(ctx, "n9", ""); return err }, "not_found"},
		"remove unknown":  {func() error { _, err := n.RemoveNode(ctx, "n9", ""); return err }, "not_found"},
		"drain of three":  {func() error { _, err := n.DrainNode(ctx, "n2", ""); return err }, "too_few_nodes_left"},
		"join unasked": {func() error {
			_, err := n.Join(ctx, api.JoinRequest{ClusterID: n.core.Load().id.ClusterID.String(), RaftID: "77", NodeID: "n7", PeerAddr: "p"})
			return err
		}, "not_admitted"},
		"join with half an ID": {func() error {
			_, err := n.Join(ctx, api.JoinRequest{ClusterID: n.core.Load().id.ClusterID.String(), RaftID: "77 and more", NodeID: "n7", PeerAddr: "p"})
			return err
		}, "invalid_join"},
		"join elsewhere": {func() error {
			_, err := n.Join(ctx, api.JoinRequest{ClusterID: "00", RaftID: "77", NodeID: "n7"})
			return err
		}, "invalid_join"},
	} {
		if got := code(x.do()); got != x.want {
			t.Errorf("%s: %s, want %s", what, got, x.want)
		}
	}
	if _, err := n.AddNode(ctx, "n4", "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := n.PromoteNode(ctx, "n4", ""); code(err) != "bad_state" {
		t.Errorf("promoting one that has not come: %v", err)
	}
	if _, err := n.RemoveNode(ctx, "n4", ""); err != nil {
		t.Fatal(err)
	}
	late := c.grow("n4") // not admitted any more: a gateway, until it is
	c.eventually("gateway", func() error {
		if len(late.Gateway()) == 0 {
			return errors.New("no gateway")
		}
		return nil
	})
	if _, err := n.AddNode(ctx, "n4", late.PeerAddr(), ""); err != nil {
		t.Fatal(err)
	}
	c.eventually("it is a member by itself", func() error { return c.isState("n4", "member") })
	c.eventually("placement", c.placed)
	if _, err := n.RemoveNode(ctx, "n4", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := n.RemoveNode(ctx, "n3", ""); err != nil {
		t.Errorf("a second removal beside the first: %v", err)
	}
	if _, err := n.RemoveNode(ctx, "n2", ""); code(err) != "too_few_nodes_left" {
		t.Errorf("a removal that leaves one: %v", err)
	}
}

// TestReplaceDeadNode: a node dies for good; a new one takes its addresses, not
// its identity.
func TestReplaceDeadNode(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, quickHealth)
	c.register(c.nodes[0], "a", "x:y")
	id := c.submit(c.nodes[0], api.TaskSpec{Action: "x", Target: "y"})
	c.eventually("placement", c.placed)
	dead := c.nodes[2]
	peer, apiAddr, gossip := dead.PeerAddr(), dead.APIAddr(), dead.GossipAddr()
	c.drop(dead)
	c.eventually("the dead one can be removed", func() error {
		_, err := c.nodes[0].RemoveNode(t.Context(), "n3", "test")
		return err
	})
	c.eventually("it is gone", func() error { return c.isState("n3", "removed") })
	if _, err := c.nodes[0].AddNode(t.Context(), "n3", "", ""); code(err) != "node_removed" {
		t.Fatalf("its ID returns: %v", err)
	}
	if _, err := c.nodes[0].AddNode(t.Context(), "n4", peer, ""); err != nil {
		t.Fatal(err)
	}
	cfg := Config{DataDir: filepath.Join(c.dir, "n4"), NodeID: "n4", Cluster: testName, APIAddr: apiAddr, PeerAddr: peer, GossipAddr: gossip,
		Join: []string{c.nodes[0].GossipAddr()}, Shards: 2, Logger: memberLogger(t)}
	quickHealth(&cfg)
	n4, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.nodes = append(c.nodes, n4)
	c.eventually("it is a member", func() error { return c.isState("n4", "member") })
	c.eventually("three replicas again", c.placed)
	c.eventually("it serves", n4.Ready)
	l := c.lease(n4, "a", 5)
	if v := c.settle(n4, "a", l, "complete"); l.TaskID != id || v.Error != nil {
		t.Fatalf("%+v %+v", l, v)
	}
	// It is a member after a restart too, without being asked again.
	c.drop(n4)
	if n4, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	c.nodes = append(c.nodes, n4)
	c.eventually("it serves again", func() error {
		if len(n4.Gateway()) > 0 {
			return errors.New("it is a gateway")
		}
		return n4.Ready()
	})
	// The old directory is refused, and stops by itself.
	old := cfg
	old.DataDir, old.NodeID, old.APIAddr, old.PeerAddr, old.GossipAddr = filepath.Join(c.dir, "n3"), "n3", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	n3, err := Open(old)
	if err != nil {
		t.Fatal(err)
	}
	defer n3.Close()
	c.eventually("the members do not let it in", func() error {
		for _, n := range c.nodes {
			if n.peers.Up(n3.id.RaftID) {
				return fmt.Errorf("%s has a connection to it", n.NodeID())
			}
		}
		return nil
	})
	if got := c.task(c.nodes[1], id); got.State != "completed" {
		t.Fatalf("%+v", got)
	}
}

// TestTransferRefusesNothing hands every shard around while all nodes submit:
// no request is refused, and the longest wait is logged. As a figure:
//
//	go test ./node -run TransferRefusesNothing -v
func TestTransferRefusesNothing(t *testing.T) {
	c := startCluster(t, 3, quickHealth)
	c.eventually("placement", c.placed)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var longest time.Duration
	count := 0
	for _, n := range c.nodes {
		wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				vs, err := n.Submit(context.Background(), []api.TaskSpec{{Action: "x", Target: "y"}}, "test")
				took := time.Since(began)
				if err != nil || vs[0].Error != nil {
					t.Errorf("refused while a leader was handed over: %v %+v", err, vs)
					return
				}
				mu.Lock()
				longest, count = max(longest, took), count+1
				mu.Unlock()
			}
		})
	}
	var handed []time.Duration
	for round := range 9 {
		shard := uint32(round % 3)
		for _, n := range c.nodes {
			k := n.core.Load()
			st, _ := k.store.ShardStatus(shard)
			if !st.Ready || st.Leader != k.id.RaftID {
				continue
			}
			to := st.Voters[slices.IndexFunc(st.Voters, func(v uint64) bool { return v != k.id.RaftID && caughtUp(&st, v) })]
			began := time.Now()
			c.eventually("handed over", func() error {
				for _, x := range c.nodes {
					kx := x.core.Load()
					if s, _ := kx.store.ShardStatus(shard); s.Ready && s.Leader == kx.id.RaftID && kx != k {
						return nil // there, or where the balance had it go in the same moment
					}
				}
				// A hand-over is given up after an election timeout; whoever wants it asks again.
				if err := k.store.TransferLeader(t.Context(), shard, to); err != nil {
					return err
				}
				return errors.New("not yet")
			})
			handed = append(handed, time.Since(began))
			break
		}
	}
	stop()
	wg.Wait()
	slices.Sort(handed)
	if len(handed) < 3 || count == 0 {
		t.Fatalf("%d transfers, %d submissions", len(handed), count)
	}
	t.Logf("%d transfers, to ready: median %v, longest %v (looked at every 10 ms); %d submissions, the longest wait %v",
		len(handed), handed[len(handed)/2], handed[len(handed)-1], count, longest)
}

// TestRemovedIsNotHeard: what a removed node sends is refused at the
// handshake, by name, and logged with layer and peer.
func TestRemovedIsNotHeard(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	c := startCluster(t, 3, func(cfg *Config) {
		quickHealth(cfg)
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	c.eventually("placement", c.placed)
	gone := c.nodes[2]
	dir := gone.cfg
	c.drop(gone)
	c.eventually("removal", func() error { _, err := c.nodes[0].RemoveNode(t.Context(), "n3", "test"); return err })
	c.eventually("gone", func() error { return c.isState("n3", "removed") })
	c.eventually("every replica knows", func() error {
		for _, n := range c.nodes {
			if !n.core.Load().isRemoved(gone.id.RaftID) {
				return fmt.Errorf("%s does not", n.NodeID())
			}
		}
		return nil
	})
	before := c.nodes[0].core.Load().nodes()
	dir.Join = []string{c.nodes[0].GossipAddr()}
	dir.Logger = slog.New(slog.DiscardHandler)
	back, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	for _, n := range c.nodes {
		if err := n.admit(back.id.RaftID, "n3"); err == nil || !strings.Contains(err.Error(), "was removed from the cluster and never returns") {
			t.Errorf("%s lets it in: %v", n.NodeID(), err)
		}
		if err := n.admit(back.id.RaftID+1, "n3"); err == nil {
			t.Errorf("%s lets another in under its name", n.NodeID())
		}
		if back.id.RaftID > n.id.RaftID {
			continue // of two nodes the smaller dials, and these two do not any more
		}
		c.eventually("its handshake is refused", func() error {
			text := log.String()
			for _, want := range []string{"peer connection refused", "layer=L5", "node_id=n3", "was removed from the cluster and never returns"} {
				if !strings.Contains(text, want) {
					return fmt.Errorf("no %q in the log", want)
				}
			}
			return nil
		})
	}
	if got := c.nodes[0].core.Load().nodes(); !slices.Equal(got, before) {
		t.Fatalf("nodes %v, before %v", got, before)
	}
	if c.nodes[0].peers.Up(back.id.RaftID) || c.nodes[1].peers.Up(back.id.RaftID) {
		t.Fatal("a removed node has a connection")
	}
}

// syncBuffer is a buffer that many write.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
