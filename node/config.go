package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quorate/quorate/sched"
)

// policy is what decides about intents: Policy first, then AutoApprove.
func (c *Config) policy() Policy {
	auto := autoApprove(c.AutoApprove)
	if c.Policy == nil {
		return auto
	}
	return func(in Intent) Ruling {
		r := c.Policy(in)
		if a := auto(in); a.Approve && !r.Refuse && !r.Approve && r.Approvers == 0 {
			r.Approve, r.Rule, r.Pack = true, a.Rule, a.Pack
		}
		return r
	}
}

// Config says what one node is. Zero fields take the default given.
type Config struct {
	// DataDir holds everything the node keeps; created when missing. Required.
	DataDir string
	// NodeID names the node in the cluster for ever; default: made up at the
	// first start and kept in DataDir.
	NodeID string
	// APIAddr, PeerAddr and GossipAddr are host:port to listen on; port 0 picks
	// a free one. Defaults: 127.0.0.1 with ports 7700, 7701, 7702.
	APIAddr, PeerAddr, GossipAddr string
	// APIListener, PeerListener and GossipListener are listened on instead, and
	// taken over: the node closes them. Gossip wants datagrams as well:
	// GossipPacketConn, on the address of GossipListener; both or neither. An
	// APIListener may be tls.NewListener's: its config offers h2 and http/1.1
	// (NextProtos), and its certificate is for the address it listens on, by which
	// clients find the node. Nodes speak to one another's APIs without TLS: such a
	// node lets none join by way of its API, and no gateway forwards to it.
	APIListener, PeerListener, GossipListener net.Listener
	GossipPacketConn                          net.PacketConn
	// InsecureListen allows addresses outside loopback. There is no TLS yet.
	InsecureListen bool
	// AutoApprove lists the actions (ACTION:TARGET, either may be a star) that
	// need no human's approval when they are exactly_once. Give all nodes the
	// same.
	AutoApprove []string
	// Policy decides about intents beside AutoApprove; nil: nothing does.
	Policy Policy
	// Join lists gossip addresses of other nodes.
	Join []string
	// BootstrapExpect is how many nodes make a new cluster; default 3. Only a
	// node that belongs to no cluster reads it.
	BootstrapExpect int
	// Cluster is the cluster's name; default "quorate".
	Cluster string
	// Shards is how many task shards a new cluster gets, for ever; at most 64.
	// Default: one for every four processors of the node that founds it, at
	// least one: fewer are faster as long as one node's processors can do all
	// (LATENCY.md).
	Shards int
	// AgentInterval is how often an agent should be heard of; after three
	// silent intervals it is unresponsive. Default 30 s.
	AgentInterval time.Duration
	// MaxPayloadBytes bounds one task's input, context and result each;
	// default 1 MiB, at most 4 MiB.
	MaxPayloadBytes int
	// DiskReserveBytes: with less free on the data directory's disk, new tasks
	// are refused (disk_full) and the rest is kept for what ends them; default
	// 256 MiB, negative never.
	DiskReserveBytes int64
	// DiskBudgetBytes: from seven eighths of it in the data directory on, new
	// tasks are refused (disk_full) and the rest is kept for what ends them; at
	// least MinDiskBudget. Default 0: as much as there is. Ended tasks make room
	// after TaskRetention, audit records when their fleets' retention
	// (SetRecordRetention) is over; what is archived in DataDir counts.
	DiskBudgetBytes int64
	// MemoryBudgetBytes sizes caches, memtables, queues and the bounds of what
	// may arrive at once; at least MinMemoryBudget. Live tasks may take as much
	// again, 1 KiB and their payload each; from then on new ones are refused
	// (memory_full) on the shards this node leads: give all nodes the same.
	// Default 0: sizes for throughput, and as many live tasks as there is memory
	// for. Give the Go runtime a limit of its own (GOMEMLIMIT) above twice this.
	MemoryBudgetBytes int64
	// TaskRetention is how long ended tasks and their idempotency keys are kept
	// on the shards this node leads, in fleets without a retention of their own
	// (SetRetention); default 0, for ever. Their audit records stay. It is at
	// least MinTaskRetention.
	TaskRetention time.Duration
	// AuditLevel is "hash" (default: audit records are hashed into Merkle trees
	// as they come, for checkpoints and proofs) or "log" (they are kept only).
	AuditLevel string
	// ArchiveDir takes the audit records that leave the journals, when their
	// fleets' retention says so: files of zstd-packed JSON Lines, each with a
	// signed checkpoint. Default: archive in DataDir. A node's own, not shared.
	ArchiveDir string
	// RankSuccess, RankLoad and RankTrust weigh what agents are ranked by:
	// success·s + trust·t − load·l; default, when all are 0: 1, 0.3 and 0.3.
	RankSuccess, RankLoad, RankTrust float64
	// FleetWeights are the fleets' shares, against each other, of the agents
	// that several fleets have work for: 1 to sched.MaxFleetWeight, default 1.
	FleetWeights map[string]int
	// FS holds DataDir; default nil, the disk. What is brought must make durable
	// what is synced, and lock.
	FS vfs.FS
	// Logger takes the node's log; default slog.Default.
	Logger *slog.Logger
	// Now is the clock: what records are stamped with, and what leases, delays
	// and all that lasts is measured by. Timers that only say when to look are
	// the system's. It may be off by any amount, but should not jump. Default
	// time.Now.
	Now func() time.Time

	healthyFor time.Duration // tests only; 0: healthyFor
	logRetain  uint64        // tests only: entries of a log that are kept; 0: as many as is good
	pingAfter  time.Duration // tests only: of silence on a stream's connection; 0: pingAfter
}

// Edge is a preset for a small device, or a program that has better uses for
// its memory: idle below 64 MiB, data below 1 GiB. The directory and, outside a
// cluster of three, BootstrapExpect are still to be given.
func Edge() Config {
	return Config{Shards: 1, MemoryBudgetBytes: 32 << 20, DiskBudgetBytes: 1 << 30, DiskReserveBytes: 64 << 20,
		TaskRetention: 24 * time.Hour, MaxPayloadBytes: 256 << 10}
}

// ranking is what the configuration says about the scheduler.
func (c *Config) ranking() sched.Config {
	return sched.Config{WeightSuccess: c.RankSuccess, WeightLoad: c.RankLoad, WeightTrust: c.RankTrust, FleetWeights: c.FleetWeights}.WithDefaults()
}

// Limits of a configuration.
const (
	MaxShards        = 64
	maxDefaultShards = 16 // on 64 processors
	MaxVoters        = 7
	maxPayloadLimit  = 4 << 20
	maxNodeIDBytes   = 63
	// MinMemoryBudget holds one task of the largest size, 4 MiB of input and of
	// context, on its way through a node, twice; MinDiskBudget the log's
	// memtables and tables, and a state checkpoint beside the last.
	MinMemoryBudget = 16 << 20
	MinDiskBudget   = 256 << 20
)

var nodeIDPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	if c.APIListener != nil {
		c.APIAddr = c.APIListener.Addr().String()
	}
	if c.PeerListener != nil {
		c.PeerAddr = c.PeerListener.Addr().String()
	}
	if c.GossipListener != nil {
		c.GossipAddr = c.GossipListener.Addr().String()
	}
	def(&c.APIAddr, "127.0.0.1:7700")
	def(&c.PeerAddr, "127.0.0.1:7701")
	def(&c.GossipAddr, "127.0.0.1:7702")
	def(&c.Cluster, "quorate")
	def(&c.AuditLevel, AuditHash)
	def(&c.ArchiveDir, filepath.Join(c.DataDir, "archive"))
	if c.BootstrapExpect == 0 {
		c.BootstrapExpect = 3
	}
	if c.Shards == 0 {
		c.Shards = min(max(runtime.GOMAXPROCS(0)/4, 1), maxDefaultShards)
	}
	if c.AgentInterval == 0 {
		c.AgentInterval = 30 * time.Second
	}
	if c.MaxPayloadBytes == 0 {
		c.MaxPayloadBytes = 1 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.healthyFor == 0 {
		c.healthyFor = healthyFor
	}
	if c.pingAfter == 0 {
		c.pingAfter = pingAfter
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// validate returns every mistake at once.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.DataDir == "" {
		bad("data directory is missing: give --data-dir")
	} else if fi, err := os.Stat(c.DataDir); c.FS == nil && err == nil && !fi.IsDir() {
		bad("data directory %s is a file", c.DataDir)
	}
	if c.NodeID != "" && (len(c.NodeID) > maxNodeIDBytes || !nodeIDPattern.MatchString(c.NodeID)) {
		bad("node ID %q: want up to %d letters, digits, '.', '_' or '-', with a letter or digit at both ends", c.NodeID, maxNodeIDBytes)
	}
	if len(c.Cluster) > maxNodeIDBytes || !nodeIDPattern.MatchString(c.Cluster) {
		bad("cluster name %q: want up to %d letters, digits, '.', '_' or '-'", c.Cluster, maxNodeIDBytes)
	}
	if (c.GossipListener == nil) != (c.GossipPacketConn == nil) {
		bad("gossip listener and gossip packet connection: want both or neither")
	}
	if c.TaskRetention != 0 && c.TaskRetention < MinTaskRetention {
		bad("task retention %v: want %v or more, or 0 for ever", c.TaskRetention, MinTaskRetention)
	}
	if c.AuditLevel != AuditHash && c.AuditLevel != AuditLog {
		bad("audit level %q: want %s or %s", c.AuditLevel, AuditHash, AuditLog)
	}
	if c.DiskBudgetBytes != 0 && c.DiskBudgetBytes < MinDiskBudget {
		bad("disk budget %d: want at least %d bytes, or 0 for no bound", c.DiskBudgetBytes, int64(MinDiskBudget))
	}
	if c.MemoryBudgetBytes != 0 && c.MemoryBudgetBytes < MinMemoryBudget {
		bad("memory budget %d: want at least %d bytes, or 0 for the default sizes", c.MemoryBudgetBytes, int64(MinMemoryBudget))
	}
	if c.BootstrapExpect < 1 || c.BootstrapExpect > MaxVoters || c.BootstrapExpect%2 == 0 {
		bad("bootstrap-expect %d: want 1, 3, 5 or 7", c.BootstrapExpect)
	}
	if c.Shards < 1 || c.Shards > MaxShards {
		bad("shards %d: want 1 to %d", c.Shards, MaxShards)
	}
	if c.AgentInterval < 100*time.Millisecond {
		bad("agent interval %v: want at least 100ms", c.AgentInterval)
	}
	if c.MaxPayloadBytes < 1024 || c.MaxPayloadBytes > maxPayloadLimit {
		bad("payload limit %d: want 1024 to %d bytes", c.MaxPayloadBytes, maxPayloadLimit)
	}
	for _, a := range []struct{ name, addr string }{{"api", c.APIAddr}, {"peer", c.PeerAddr}, {"gossip", c.GossipAddr}} {
		host, _, err := net.SplitHostPort(a.addr)
		if err != nil {
			bad("%s address %q: %v", a.name, a.addr, err)
			continue
		}
		if ip := net.ParseIP(host); !c.InsecureListen && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			bad("%s address %q is outside loopback and there is no TLS yet: use 127.0.0.1, or --insecure-listen on a network you trust", a.name, a.addr)
		}
	}
	if err := c.ranking().Validate(); err != nil {
		bad("ranking of agents, weights of fleets: %w", err)
	}
	return errors.Join(errs...)
}
