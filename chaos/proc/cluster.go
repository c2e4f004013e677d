package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Defaults and limits of a [Config].
const (
	DefaultNodes     = 3
	MaxNodes         = 16
	defaultReadyWait = 30 * time.Second
	defaultShards    = 4
	stopWait         = 10 * time.Second // for one node to drain on SIGTERM
)

// Config says what cluster to run. Zero fields take the default given.
type Config struct {
	// Binary is the quorate executable; default: this one.
	Binary string
	// Dir takes the nodes' data and logs; default: a new temporary directory,
	// removed by Close unless Keep is set.
	Dir string
	// Nodes is how many processes; default 3.
	Nodes int
	// Expect is --bootstrap-expect; default Nodes.
	Expect int
	// Cluster is the cluster's name; default one of this process, so that nodes of
	// others which gossip to a port that was theirs are not taken in.
	Cluster string
	// Shards is how many task shards the cluster gets; default 4, so that faults
	// meet several on any machine. Negative: as many as nodes take by themselves.
	Shards int
	// Args are further arguments of every `quorate start`.
	Args []string
	// Env are further environment entries, NAME=value. QUORATE_* entries of
	// this process are never passed on.
	Env []string
	// ReadyWait bounds the wait for one node to be ready and for the cluster
	// to be formed; default 30 s.
	ReadyWait time.Duration
	// Keep leaves the temporary directory.
	Keep bool
	// Detach lets the processes live on when this one ends; [Cluster.Release]
	// then gives them up, Close still ends them.
	Detach bool
}

func (c Config) withDefaults() (Config, error) {
	if c.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("proc: %w", err)
		}
		c.Binary = self
	}
	if c.Nodes == 0 {
		c.Nodes = DefaultNodes
	}
	if c.Nodes < 1 || c.Nodes > MaxNodes {
		return c, fmt.Errorf("proc: %d nodes: want 1 to %d", c.Nodes, MaxNodes)
	}
	if c.Expect == 0 {
		c.Expect = c.Nodes
	}
	if c.Cluster == "" {
		c.Cluster = fmt.Sprintf("quorate-%d", os.Getpid())
	}
	if c.Shards == 0 {
		c.Shards = defaultShards
	}
	if c.ReadyWait == 0 {
		c.ReadyWait = defaultReadyWait
	}
	return c, nil
}

// Cluster is a set of node processes and of others started beside them.
type Cluster struct {
	cfg    Config
	dir    string
	ownDir bool
	nodes  []*Node
	jobs   chan func()
	joined sync.WaitGroup

	mu struct {
		sync.Mutex
		procs  []*Process // everything ever started
		closed bool
	}
}

// New prepares a cluster: directory, ports, arguments. Nothing runs yet.
func New(cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, dir: cfg.Dir, jobs: make(chan func())}
	if c.dir == "" {
		c.ownDir = true
		if c.dir, err = os.MkdirTemp("", "quorate-"); err != nil {
			return nil, fmt.Errorf("proc: %w", err)
		}
	}
	const perNode = 3
	ports, err := freePorts(perNode * cfg.Nodes)
	if err != nil {
		c.removeDir()
		return nil, err
	}
	var join []string
	for i := range cfg.Nodes {
		join = append(join, loopback(ports[perNode*i+2]))
	}
	for i := range cfg.Nodes {
		c.nodes = append(c.nodes, &Node{
			ID: fmt.Sprintf("n%d", i+1), cluster: c,
			API: loopback(ports[perNode*i]), Peer: loopback(ports[perNode*i+1]), Gossip: join[i],
			Join: join, Data: filepath.Join(c.dir, fmt.Sprintf("n%d", i+1)),
		})
	}
	c.joined.Go(c.spawnLoop)
	return c, nil
}

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.cfg.Cluster }

// Start runs a cluster and returns when it is formed. On error nothing is left
// running.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		if err := n.Start(); err != nil {
			c.Close()
			return nil, err
		}
	}
	if err := c.AwaitFormed(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// spawnLoop owns the thread that children are started from. The kernel sends
// a child its death signal when the *thread* that started it ends, and Go ends
// threads at will unless a goroutine is locked to them.
func (c *Cluster) spawnLoop() {
	runtime.LockOSThread()
	for job := range c.jobs {
		job()
	}
}

// Spawn starts the cluster's binary with args beside the nodes, its output in
// name.log.
func (c *Cluster) Spawn(name string, args ...string) (*Process, error) {
	return c.start(name, filepath.Join(c.dir, name+".log"), args)
}

func (c *Cluster) start(name, log string, args []string) (*Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, fmt.Errorf("proc: start %s: cluster is closed", name)
	}
	cmd := exec.Command(c.cfg.Binary, args...)
	cmd.Env = append(cleanEnv(os.Environ()), c.cfg.Env...)
	var p *Process
	var err error
	done := make(chan struct{})
	c.jobs <- func() {
		p, err = spawn(name, log, cmd, c.cfg.Detach)
		close(done)
	}
	<-done
	if err != nil {
		return nil, err
	}
	c.mu.procs = append(c.mu.procs, p)
	return p, nil
}

// cleanEnv drops the settings a quorate process would read.
func cleanEnv(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "QUORATE_") {
			out = append(out, e)
		}
	}
	return out
}

// Dir is where the data directories and logs are.
func (c *Cluster) Dir() string { return c.dir }

// Binary is the executable that runs.
func (c *Cluster) Binary() string { return c.cfg.Binary }

// Nodes are the cluster's nodes, running or not.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Node is the node with that ID, nil when there is none.
func (c *Cluster) Node(id string) *Node {
	for _, n := range c.nodes {
		if n.ID == id {
			return n
		}
	}
	return nil
}

// URLs are the API base addresses of all nodes.
func (c *Cluster) URLs() []string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.URL())
	}
	return urls
}

// Processes are the processes that run now, nodes and others.
func (c *Cluster) Processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*Process
	for _, p := range c.mu.procs {
		if p.Running() {
			out = append(out, p)
		}
	}
	return out
}

// Stop stops everything in order: first what was spawned last, SIGTERM each,
// nodes together. The error joins all that did not end well.
func (c *Cluster) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	procs := c.Processes()
	errs := make([]error, len(procs))
	var wg sync.WaitGroup
	for i, p := range procs {
		wg.Go(func() { errs[i] = p.Stop(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close kills whatever still runs and removes the temporary directory unless
// it is kept. It may be called more than once.
func (c *Cluster) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return
	}
	c.mu.closed = true
	for _, p := range c.mu.procs {
		p.Kill()
	}
	close(c.jobs)
	c.joined.Wait()
	c.removeDir()
}

// Release gives the processes up: they live on without this one. Only with
// Config.Detach; the directory stays.
func (c *Cluster) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed || !c.cfg.Detach {
		return
	}
	c.mu.closed = true
	close(c.jobs)
	c.joined.Wait()
}

func (c *Cluster) removeDir() {
	if c.ownDir && !c.cfg.Keep {
		_ = os.RemoveAll(c.dir) // a temporary directory; what stays is the system's to clean
	}
}
