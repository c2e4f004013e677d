package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
	"github.com/quorate/quorate/node/internal/files"
)

// single is one node that is a cluster.
func single(cfg *Config) { cfg.BootstrapExpect = 1 }

// Agents in the process perform tasks with every guarantee, fail them, report
// progress, and are given copies: what a handler does to its input changes no
// replica.
func TestEmbeddedWork(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { cfg.AutoApprove = []string{"*:*"} })
	ctx, stop := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	for i, n := range c.nodes {
		ended.Go(func() {
			err := n.Work(ctx, manifest(fmt.Sprint("w", i), 4, "do:it"), func(ctx context.Context, task *client.Task) (any, error) {
				was := string(task.Input)
				clear(task.Input)
				if err := task.Progress("half"); err != nil {
					return nil, err
				}
				if strings.Contains(was, "bad") {
					return nil, client.Permanent(errors.New("bad input"))
				}
				return was, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	for i, g := range []string{"best_effort", "at_least_once", "exactly_once", "bad"} {
		spec := api.TaskSpec{Action: "do", Target: "it", Input: []byte(`"` + g + `"`), Guarantee: g, IdempotencyKey: g}
		want := "completed"
		switch g {
		case "exactly_once":
			spec.Verify = []byte(`{"action":"look","target":"it"}`)
		case "bad":
			spec.Guarantee, want = "", "failed"
		}
		id := c.submit(c.nodes[i%3], spec)
		task, err := c.nodes[(i+1)%3].Task(t.Context(), id, 30*time.Second)
		if err != nil || task.State != want || string(task.Input) != string(spec.Input) || task.Attempts != 1 {
			t.Errorf("%s: %s, input %s, attempts %d, error %q: %v", g, task.State, task.Input, task.Attempts, task.LastError, err)
		}
	}
	stop()
	ended.Wait()
}

// The same ID in the process twice: the older one is fenced, and told so. A
// frame within the process keeps the rules of the others.
func TestEmbeddedFenced(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, single)
	n := c.nodes[0]
	handler := func(context.Context, *client.Task) (any, error) { return nil, nil }
	older := make(chan error, 1)
	go func() { older <- n.Work(t.Context(), manifest("w", 1, "do:it"), handler) }()
	c.eventually("connected", func() error {
		if !n.core.Load().sessions.connected("w") {
			return errors.New("not yet")
		}
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	newer := make(chan error, 1)
	go func() { newer <- n.Work(ctx, manifest("w", 1, "do:it"), handler) }()
	var e *api.Error
	if err := <-older; !errors.As(err, &e) || e.Code != "session_fenced" || e.Layer != 2 {
		t.Errorf("the older session ended with %v", err)
	}
	id := c.submit(n, api.TaskSpec{Action: "do", Target: "it"})
	if task, err := n.Task(t.Context(), id, 20*time.Second); err != nil || task.State != "completed" {
		t.Errorf("%s: %v", task.State, err)
	}
	stop()
	if err := <-newer; err != nil {
		t.Error(err)
	}
	if err := n.Work(t.Context(), api.Manifest{}, handler); err == nil {
		t.Error("worked without an agent_id")
	}
}

// Close ends agents in the process: those that finish in time well, the others
// by their context. Nothing of a node is left, also of one that never formed,
// and of several in one process.
func TestEmbeddedClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	var begun, settled atomic.Int32
	c := &testCluster{t: t, dir: dir}
	c.open(1, single)
	n := c.nodes[0]
	alone, err := Open(Config{DataDir: filepath.Join(dir, "alone"), APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0", Logger: n.cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	works := make(chan error, 3)
	go func() {
		works <- alone.Work(t.Context(), manifest("w", 1, "do:it"), func(context.Context, *client.Task) (any, error) { return nil, nil })
	}()
	go func() {
		works <- n.WorkWith(t.Context(), client.WorkConfig{Manifest: manifest("quick", 2, "do:it"), Settled: func(l []api.Settlement) { settled.Add(int32(len(l))) },
			Handler: func(ctx context.Context, _ *client.Task) (any, error) {
				begun.Add(1)
				time.Sleep(300 * time.Millisecond) // a task that takes its time
				return nil, ctx.Err()
			}})
	}()
	go func() {
		works <- n.Work(t.Context(), manifest("slow", 1, "hang:on"), func(ctx context.Context, _ *client.Task) (any, error) {
			begun.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}()
	for i, action := range []string{"do", "do", "hang"} {
		c.submit(n, api.TaskSpec{Action: action, Target: map[string]string{"do": "it", "hang": "on"}[action], IdempotencyKey: fmt.Sprint(i)})
	}
	c.eventually("begun", func() error {
		if begun.Load() != 3 {
			return fmt.Errorf("%d", begun.Load())
		}
		return nil
	})
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := alone.Close(); err != nil {
		t.Error(err)
	}
	for range 3 {
		var e *api.Error
		if err := <-works; !errors.As(err, &e) || e.Code != "node_closed" || e.Layer != 2 {
			t.Errorf("Work ended with %v", err)
		}
	}
	if settled.Load() != 2 {
		t.Errorf("%d of the calls that ended in time were settled, want 2", settled.Load())
	}
	if err := n.Work(t.Context(), manifest("late", 1, "do:it"), func(context.Context, *client.Task) (any, error) { return nil, nil }); err == nil {
		t.Error("worked at a closed node")
	}
	goleak.VerifyNone(t, before)
}

// Why a node does not open says its layer and keeps its cause; listeners that
// were handed over are closed.
func TestOpenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := func(change func(*Config)) Config {
		c := Edge()
		c.DataDir, c.APIAddr, c.PeerAddr, c.GossipAddr = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		change(&c)
		return c
	}
	held := t.TempDir()
	lock, err := lockDir(files.FS{}, held)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for _, x := range []struct {
		name   string
		change func(*Config)
		layer  int
		cause  error
		says   string
	}{
		{"configuration", func(c *Config) {
			c.Shards, c.MemoryBudgetBytes, c.DiskBudgetBytes = 65, MinMemoryBudget-1, MinDiskBudget-1
		}, 1, nil, "shards 65"},
		{"memory budget", func(c *Config) { c.MemoryBudgetBytes = MinMemoryBudget - 1 }, 1, nil, "memory budget 16777215"},
		{"disk budget", func(c *Config) { c.DiskBudgetBytes = MinDiskBudget - 1 }, 1, nil, "disk budget 268435455"},
		{"directory", func(c *Config) { c.DataDir = held }, 1, nil, "another process"},
		{"API address", func(c *Config) { c.APIAddr = taken.Addr().String() }, 2, syscall.EADDRINUSE, "API address"},
		{"peer address", func(c *Config) { c.PeerAddr = taken.Addr().String() }, 2, syscall.EADDRINUSE, "peer address"},
		{"gossip address", func(c *Config) { c.GossipAddr = taken.Addr().String() }, 3, nil, "gossip address"},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c := cfg(x.change)
		if c.APIAddr == "127.0.0.1:0" {
			c.APIListener = l
		}
		n, err := Open(c)
		var e *api.Error
		if n != nil || !errors.As(err, &e) || e.Layer != x.layer || e.Code != "cannot_start" || !strings.Contains(e.Detail, x.says) {
			t.Errorf("%s: %v", x.name, err)
		}
		if x.cause != nil && !errors.Is(err, x.cause) {
			t.Errorf("%s: %v is not %v", x.name, err, x.cause)
		}
		if err := l.Close(); c.APIListener != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener was left open: %v", x.name, err)
		}
	}
}

// Listeners, and clocks an hour apart: the tasks' times are their leaders', and
// leases last as long as they should.
func TestListenersAndClocks(t *testing.T) {
	t.Parallel()
	skew := []time.Duration{0, time.Hour, -time.Hour}
	at := 0
	var ls, gossips []net.Listener
	c := startCluster(t, 3, func(cfg *Config) {
		for range 2 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ls = append(ls, l)
		}
		off := skew[at]
		at++
		for cfg.GossipPacketConn == nil { // a port that is free for both
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if p, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
				cfg.GossipListener, cfg.GossipPacketConn = l, p
			} else {
				_ = l.Close()
			}
		}
		gossips = append(gossips, cfg.GossipListener)
		cfg.APIListener, cfg.PeerListener = ls[len(ls)-2], ls[len(ls)-1]
		cfg.Now = func() time.Time { return time.Now().Add(off) }
	})
	for i, n := range c.nodes {
		if n.APIAddr() != ls[2*i].Addr().String() || n.PeerAddr() != ls[2*i+1].Addr().String() || n.GossipAddr() != gossips[i].Addr().String() {
			t.Errorf("%s listens on %s, %s and %s", n.NodeID(), n.APIAddr(), n.PeerAddr(), n.GossipAddr())
		}
	}
	var begun atomic.Int32
	for i, n := range c.nodes {
		working(t, clientOf(t, n), client.WorkConfig{Manifest: manifest(fmt.Sprint("w", i), 4, "do:it"), Handler: func(ctx context.Context, task *client.Task) (any, error) {
			begun.Add(1)
			select {
			case <-time.After(2500 * time.Millisecond): // longer than a lease: only renewals keep it
				return nil, nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}})
	}
	var ids []string
	for i := range 9 {
		ids = append(ids, c.submit(c.nodes[i%3], api.TaskSpec{Action: "do", Target: "it", LeaseSeconds: 1, IdempotencyKey: fmt.Sprint(i)}))
	}
	for _, id := range ids {
		task, err := c.nodes[0].Task(t.Context(), id, 30*time.Second)
		if err != nil || task.State != "completed" || task.Attempts != 1 {
			t.Errorf("%s %s, attempts %d, %q: %v", id, task.State, task.Attempts, task.LastError, err)
		}
	}
	if n := begun.Load(); n != 9 {
		t.Errorf("%d calls, want 9", n)
	}
}

// A node on a file system that the program brought: what was acknowledged is
// there after Close, and after a loss of power in the middle.
func TestBroughtFileSystem(t *testing.T) {
	t.Parallel()
	fs := vfs.NewCrashableMem()
	c := &testCluster{t: t, dir: "/edge"}
	t.Cleanup(c.close)
	on := func(fs vfs.FS) *Node {
		c.open(1, func(cfg *Config) { single(cfg); cfg.FS = fs })
		return c.nodes[0]
	}
	n := on(fs)
	if _, err := Open(Config{FS: fs, DataDir: n.cfg.DataDir, APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second node in one directory: %v", err)
	}
	if _, err := os.Stat("/edge"); err == nil {
		t.Error("something is on the disk")
	}
	id := c.submit(n, api.TaskSpec{Action: "do", Target: "it", Input: []byte(`"kept"`)})
	c.close()
	n = on(fs)
	w := c.openWork(n, "w", "")
	h := c.taken(w)
	if vs, err := w.Settle(t.Context(), []api.Settlement{{TaskID: id, Epoch: h.Epoch, Verdict: "complete", Result: []byte(`"done"`)}}); err != nil || vs[0].Error != nil {
		t.Fatalf("%+v, %v", vs, err)
	}
	power := fs.CrashClone(vfs.CrashCloneCfg{}) // only what was synced
	c.close()
	n = on(power)
	if x := c.task(n, id); x.State != "completed" || string(x.Result) != `"done"` || string(x.Input) != `"kept"` {
		t.Errorf("after a loss of power: %s, %s", x.State, x.Result)
	}
	if v, err := n.VerifyLedger(t.Context()); err != nil || !v.OK {
		t.Errorf("%+v, %v", v, err)
	}
}
