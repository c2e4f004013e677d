package form

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Candidate is a node that gossip believes alive.
type Candidate struct {
	RaftID    uint64
	NodeID    string
	PeerAddr  string
	Cluster   string // cluster name; "" = the same as ours
	ClusterID ID     // zero = not formed
}

// Outcome is what forming came to.
type Outcome struct {
	ClusterID ID
	Shards    uint32
	Voters    []Voter
	Joined    bool // not a voter: this process is a gateway to a cluster formed by others
}

// Config of a Former.
type Config struct {
	Dir      string   // data directory the identity lives in
	Identity Identity // as returned by Open
	PeerAddr string   // where others reach this node
	Expect   int      // voters of the first cluster; 0 = never bootstrap, only join
	Shards   uint32   // what this node proposes as coordinator

	Candidates func() []Candidate // who is there now; this node may be among them
	Changed    <-chan struct{}    // hint: Candidates has changed; may be nil
	// Call sends a request to the Answer of the node at addr.
	Call func(ctx context.Context, addr string, req []byte) ([]byte, error)

	Logger *slog.Logger
	Round  time.Duration // how often to try again without a hint. Default 200 ms
}

// Former takes one node from "no cluster" to an Outcome and answers others that
// are on the same way. Its methods are safe for concurrent use.
type Former struct{}

// New checks the configuration.
func New(cfg Config) (*Former, error) { return nil, errors.New("form: not built") }

// Run blocks until the cluster is formed or joined, or ctx ends; called once.
// For a node that is already part of a cluster it returns at once.
func (f *Former) Run(ctx context.Context) (Outcome, error) { return Outcome{}, nil }

// Answer answers the request of another node; it may be called before, during
// and after Run. What it promises is durable when it returns.
func (f *Former) Answer(req []byte) []byte { return nil }

// Identity is the identity as it is now.
func (f *Former) Identity() Identity { return Identity{} }

// Waiting says, for people, what forming waits for; "" when it is done.
func (f *Former) Waiting() string { return "" }
