package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/quorate/quorate/bench"
	"github.com/quorate/quorate/node"
	"github.com/quorate/quorate/node/api"
)

type logFlags struct {
	LogLevel  string `enum:"debug,info,warn,error" default:"info" help:"debug, info, warn or error."`
	LogFormat string `enum:"text,json" default:"text" help:"text or json."`
}

func (f logFlags) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(f.LogLevel)) // an enum
	opts := &slog.HandlerOptions{Level: level}
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

type startCmd struct {
	DataDir         string         `required:"" placeholder:"DIR" help:"Where the node keeps everything."`
	NodeID          string         `placeholder:"N" help:"The node's name for ever; default made up at the first start."`
	API             string         `name:"api" default:"127.0.0.1:7700" env:"QUORATE_LISTEN_API" help:"API address."`
	Peer            string         `default:"127.0.0.1:7701" help:"Peer address."`
	Gossip          string         `default:"127.0.0.1:7702" help:"Gossip address."`
	Join            []string       `placeholder:"A,B" help:"Gossip addresses of other nodes."`
	BootstrapExpect int            `default:"3" help:"How many nodes make a new cluster."`
	Cluster         string         `default:"quorate" help:"The cluster's name."`
	Shards          *int           `placeholder:"N" help:"Task shards of a new cluster, for ever; 0: one for every four processors of the node that founds it."`
	AgentInterval   time.Duration  `default:"30s" help:"How often an agent should be heard of."`
	MaxPayload      *int           `placeholder:"1048576" help:"Bytes of one task's input, context or result."`
	DiskReserve     *int64         `placeholder:"268435456" help:"Bytes of disk kept free: with less, new tasks are refused and what ends tasks goes on. Negative: none."`
	DiskBudget      *int64         `placeholder:"BYTES" help:"Bytes the data directory may hold: from seven eighths of it on, new tasks are refused. 0: as much as there is."`
	MemoryBudget    *int64         `placeholder:"BYTES" help:"Bytes to size caches, memtables and queues by; 0: sized for throughput."`
	Preset          string         `enum:"none,edge" default:"none" help:"edge: a small device (32 MiB memory budget, 1 GiB disk budget, one shard of tasks, ended tasks kept a day); options given beside it win."`
	TaskRetention   *time.Duration `placeholder:"24h" help:"Keep ended tasks and their idempotency keys this long (at least 1m), in fleets without a retention of their own (quorate ledger retention); 0: for ever."`
	ArchiveDir      string         `type:"path" placeholder:"DIR" help:"Where audit records go when their fleets' retention is over (quorate ledger retention --records); default archive in the data directory."`
	AuditLevel      string         `default:"hash" enum:"hash,log" help:"hash: audit records go into Merkle trees, for checkpoints and proofs. log: they are kept only."`
	AutoApprove     []string       `placeholder:"ACTION:TARGET" help:"exactly_once actions that need no human; a star stands for all. The same on every node."`
	RankSuccess     float64        `help:"Weight of measured success in ranking agents; all three 0: 1, 0.3 and 0.3."`
	RankLoad        float64        `help:"Weight of load."`
	RankTrust       float64        `help:"Weight of trust."`
	FleetWeight     map[string]int `mapsep:"," placeholder:"FLEET=N" help:"A fleet's share of the agents that several fleets have work for, against the others'; default 1 each."`
	InsecureListen  bool           `help:"Allow addresses outside loopback: there is no TLS yet."`
	Pprof           string         `placeholder:"ADDR" help:"Serve Go profiles (/debug/pprof/) on this loopback address."`
	Profile         string         `placeholder:"DIR" help:"Write a CPU profile below this directory when the node stops."`
	logFlags        `embed:""`
}

// servePprof serves profiles until the process ends; never outside loopback.
func servePprof(addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usageError{fmt.Errorf("--pprof %s: want a loopback address such as 127.0.0.1:6060", addr)}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return api.Errorf(500, 2, "cannot_start", api.RetryNo, "profiles: %v", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	go func() { _ = (&http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}).Serve(l) }()
	return nil
}

func (c *startCmd) config(log *slog.Logger) node.Config {
	// What an option that was not given stands for; one that was given wins, also
	// when it says what it would be by default.
	e := node.Config{MaxPayloadBytes: 1 << 20, DiskReserveBytes: 256 << 20, TaskRetention: 24 * time.Hour}
	if c.Preset == "edge" {
		e = node.Edge()
	}
	return node.Config{DataDir: c.DataDir, NodeID: c.NodeID, APIAddr: c.API, PeerAddr: c.Peer, GossipAddr: c.Gossip,
		Join: c.Join, BootstrapExpect: c.BootstrapExpect, Cluster: c.Cluster, Shards: given(c.Shards, e.Shards), AgentInterval: c.AgentInterval,
		MaxPayloadBytes: given(c.MaxPayload, e.MaxPayloadBytes), RankSuccess: c.RankSuccess, RankLoad: c.RankLoad, RankTrust: c.RankTrust, FleetWeights: c.FleetWeight,
		DiskReserveBytes: given(c.DiskReserve, e.DiskReserveBytes), DiskBudgetBytes: given(c.DiskBudget, e.DiskBudgetBytes),
		MemoryBudgetBytes: given(c.MemoryBudget, e.MemoryBudgetBytes), AuditLevel: c.AuditLevel, ArchiveDir: c.ArchiveDir,
		TaskRetention: given(c.TaskRetention, e.TaskRetention), InsecureListen: c.InsecureListen, AutoApprove: c.AutoApprove, Logger: log}
}

// given is the option, or def when it was not given.
func given[T any](option *T, def T) T {
	if option == nil {
		return def
	}
	return *option
}

// Run runs a node until a signal or a reason to stop.
func (c *startCmd) Run(ctx context.Context, con console) error {
	if err := servePprof(c.Pprof); err != nil {
		return err
	}
	if c.Profile != "" {
		defer bench.StartProfile(c.Profile)()
	}
	cfg := c.config(c.logger(con.err))
	if b := cfg.MemoryBudgetBytes; b > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2 * b) // the runtime's soft limit: what the node needs beside its budget fits
	}
	n, err := node.Open(cfg)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return n.Close()
	case err := <-n.Fatal():
		_ = n.Close() // the reason matters more
		return api.Errorf(500, 5, "node_stopped", api.RetryNo, "%v", err).WithHint("the node's log has more")
	}
}

type devCmd struct {
	Nodes       int      `default:"3" help:"1, 3, 5 or 7."`
	Shards      int      `help:"Task shards of a new cluster; 0: as quorate start."`
	DataDir     string   `placeholder:"DIR" help:"Keep the cluster here; default a temporary directory, removed at the end."`
	AutoApprove []string `placeholder:"ACTION:TARGET" help:"exactly_once actions that need no human; a star stands for all."`
	logFlags    `embed:""`
}

// Run runs a cluster in this process until a signal.
func (c *devCmd) Run(ctx context.Context, con console) error {
	if c.Nodes < 1 || c.Nodes > node.MaxVoters || c.Nodes%2 == 0 {
		return usageError{fmt.Errorf("--nodes %d: want 1, 3, 5 or 7", c.Nodes)}
	}
	dir := c.DataDir
	if dir == "" {
		tmp, err := os.MkdirTemp("", "quorate-dev-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	}
	if c.LogLevel == "info" {
		c.LogLevel = "warn" // several nodes talk at once
	}
	var nodes []*node.Node
	defer func() {
		for _, n := range nodes {
			if err := n.Close(); err != nil {
				fmt.Fprintln(con.err, "quorate:", err)
			}
		}
	}()
	fatal, broken := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer broken(nil)
	var join []string
	for i := range c.Nodes {
		name := "node" + strconv.Itoa(i+1)
		cfg := node.Config{DataDir: filepath.Join(dir, name), NodeID: name, APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0",
			Join: join, BootstrapExpect: c.Nodes, Shards: c.Shards, AutoApprove: c.AutoApprove, Logger: c.logger(con.err)}
		if i == 0 {
			cfg.APIAddr = "127.0.0.1:7700" // where clients look
		}
		n, err := node.Open(cfg)
		if errors.Is(err, syscall.EADDRINUSE) && i == 0 {
			cfg.APIAddr = "127.0.0.1:0"
			n, err = node.Open(cfg)
		}
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
		join = append(join, n.GossipAddr())
		watching.Go(func() {
			select {
			case err := <-n.Fatal():
				broken(api.Errorf(500, 5, "node_stopped", api.RetryNo, "%s: %v", n.NodeID(), err))
			case <-fatal.Done():
			}
		})
		fmt.Fprintf(con.out, "%s  http://%s\n", n.NodeID(), n.APIAddr())
	}
	if awaitReady(fatal, nodes) {
		fmt.Fprintf(con.out, "ready: export QUORATE_API=http://%s; stop with Ctrl-C\n", nodes[0].APIAddr())
		<-fatal.Done()
	}
	if ctx.Err() != nil {
		return nil // the signal
	}
	return context.Cause(fatal)
}

func awaitReady(ctx context.Context, nodes []*node.Node) bool {
	for _, n := range nodes {
		if n.AwaitReady(ctx) != nil {
			return false
		}
	}
	return true
}

type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run prints the version.
func (c versionCmd) Run(con console) error {
	if c.JSON {
		return printJSON(con.out, map[string]string{"version": node.Version()})
	}
	fmt.Fprintln(con.out, "quorate", node.Version())
	return nil
}

// isTerminal says whether w is one: colour and redrawing only there.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
