package proc

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Node is one node of a cluster: fixed addresses and directory, and the
// process that runs at the moment, if any. Fields may be changed while it is
// down.
type Node struct {
	ID                string
	API, Peer, Gossip string   // host:port
	Join              []string // gossip addresses given to --join
	Data              string   // data directory
	Cluster           string   // --cluster when it shall differ from the cluster's own

	cluster *Cluster
	mu      struct {
		sync.Mutex
		proc *Process
	}
}

// URL is the node's API base address.
func (n *Node) URL() string { return "http://" + n.API }

// Log is the path of the node's log, appended to over restarts.
func (n *Node) Log() string { return filepath.Join(n.cluster.dir, n.ID+".log") }

// args is the command line.
func (n *Node) args() []string {
	cfg := n.cluster.cfg
	name := n.Cluster
	if name == "" {
		name = cfg.Cluster
	}
	args := []string{
		"start", "--data-dir", n.Data, "--node-id", n.ID,
		"--api", n.API, "--peer", n.Peer, "--gossip", n.Gossip,
		"--join", strings.Join(n.Join, ","),
		"--bootstrap-expect", strconv.Itoa(cfg.Expect), "--cluster", name,
	}
	if cfg.Shards > 0 {
		args = append(args, "--shards", strconv.Itoa(cfg.Shards))
	}
	return append(args, cfg.Args...)
}

// Start starts the node's process; it does not wait until it is ready.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.proc != nil && n.mu.proc.Running() {
		return fmt.Errorf("proc: %s runs already", n.ID)
	}
	p, err := n.cluster.start(n.ID, n.Log(), n.args())
	if err != nil {
		return err
	}
	n.mu.proc = p
	return nil
}

// Process is the node's newest process, nil before the first Start.
func (n *Node) Process() *Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.proc
}

// Running says whether the node's process runs.
func (n *Node) Running() bool {
	p := n.Process()
	return p != nil && p.Running()
}

// Kill ends the node with SIGKILL and waits until it is gone.
func (n *Node) Kill() {
	if p := n.Process(); p != nil {
		p.Kill()
	}
}

// Stop ends the node with SIGTERM, which lets it drain, and waits.
func (n *Node) Stop(ctx context.Context) error {
	p := n.Process()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	return p.Stop(ctx)
}

// Restart starts a node that is down and waits until it is ready.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Start(); err != nil {
		return err
	}
	return n.AwaitReady(ctx)
}

// AwaitReady waits until /readyz answers 200, at most Config.ReadyWait.
func (n *Node) AwaitReady(ctx context.Context) error {
	return n.await(ctx, "to be ready", func(ctx context.Context) error { return ready(ctx, n.URL()) })
}

// await polls check until it succeeds, the process ends, or time is up; the
// last failure is the reason given.
func (n *Node) await(ctx context.Context, what string, check func(context.Context) error) error {
	p := n.Process()
	if p == nil {
		return fmt.Errorf("proc: waiting for %s %s: it was never started", n.ID, what)
	}
	ctx, cancel := context.WithTimeout(ctx, n.cluster.cfg.ReadyWait)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // cut short by the deadline is no reason
			last = err
		}
		select {
		case <-p.Done():
			return p.exited()
		case <-ctx.Done():
			return fmt.Errorf("proc: waiting for %s %s: %w (last: %w)%s%s", n.ID, what, ctx.Err(), last, n.cluster.complaints(), p.tail())
		case <-tick.C:
		}
	}
}
