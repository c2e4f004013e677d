package form

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/quorate/quorate/node/internal/files"
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
	Voters    []Voter // the founders, at the addresses of that time
	Joined    bool    // not a voter: this process is a gateway to a cluster formed by others
}

// Config of a Former.
type Config struct {
	FS       files.FS // where Dir is; default the disk
	Dir      string   // data directory the identity lives in
	Identity Identity // as returned by Open
	PeerAddr string   // where others reach this node
	Expect   int      // voters of the first cluster, at most MaxVoters; 0 = never bootstrap, only join
	Shards   uint32   // what this node proposes as coordinator

	Candidates func() []Candidate // who is there now; this node may be among them
	Changed    <-chan struct{}    // hint: Candidates has changed; may be nil
	// Call sends a request to the Answer of the node at addr.
	Call func(ctx context.Context, addr string, req []byte) ([]byte, error)

	Logger *slog.Logger
	Round  time.Duration // how often to try again without a hint. Default 200 ms
}

// callTimeout bounds one request; it covers the fsync of a promise on a busy disk.
const callTimeout = 2 * time.Second

// Former takes one node from "no cluster" to an Outcome and answers others that
// are on the same way. Its methods are safe for concurrent use.
type Former struct {
	cfg   Config
	moved chan struct{} // capacity 1: an answer or reply changed the state

	mu struct {
		sync.Mutex
		core   core
		warned map[string]bool // warnings given
	}
}

// New checks the configuration.
func New(cfg Config) (*Former, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Round == 0 {
		cfg.Round = 200 * time.Millisecond
	}
	var errs []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			errs = append(errs, fmt.Errorf("form: config: "+format, args...))
		}
	}
	if err := cfg.Identity.validate(); err != nil {
		errs = append(errs, fmt.Errorf("form: config: %w", err))
	}
	bad(cfg.Dir == "", "no data directory")
	bad(cfg.PeerAddr == "", "no peer address")
	bad(cfg.Expect < 0 || cfg.Expect > MaxVoters, "expect %d nodes, want 0 to %d", cfg.Expect, MaxVoters)
	bad(cfg.Shards == 0 && cfg.Expect > 0, "no shards")
	bad(cfg.Candidates == nil || cfg.Call == nil, "Candidates and Call are needed")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f := &Former{cfg: cfg, moved: make(chan struct{}, 1)}
	f.mu.core = core{me: cfg.Identity, addr: cfg.PeerAddr, expect: cfg.Expect, shards: cfg.Shards, draw: drawClusterID, jitter: rand.IntN,
		save: func(id Identity) error { return id.Save(cfg.FS, cfg.Dir) }}
	f.mu.warned = map[string]bool{}
	return f, nil
}

// Run blocks until the cluster is formed or joined, forming failed (a
// *RefusedError, or the disk) or ctx ends; called once. For a node that is part
// of a cluster already it returns at once.
func (f *Former) Run(ctx context.Context) (Outcome, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if out, done, err := f.result(); done {
			return out, err
		}
		if ctx.Err() != nil {
			return Outcome{}, fmt.Errorf("form: %s: %w", f.Waiting(), ctx.Err())
		}
		all := f.candidates()
		f.mu.Lock()
		requests := f.mu.core.round(all)
		f.mu.Unlock()
		f.send(ctx, requests)

		timer.Reset(f.cfg.Round + rand.N(f.cfg.Round/4+1))
		if _, done, _ := f.result(); done {
			continue
		}
		select {
		case <-timer.C:
		case <-f.cfg.Changed:
		case <-f.moved:
		case <-ctx.Done():
		}
	}
}

// result reports whether forming came to an end.
func (f *Former) result() (out Outcome, done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &f.mu.core
	switch {
	case c.fatal != nil && errors.Is(c.fatal, errDisk):
		return out, true, fmt.Errorf("form: %w", c.fatal)
	case c.me.formed():
		return c.me.outcome(), true, nil
	case c.fatal != nil:
		return out, true, c.fatal
	}
	return out, false, nil
}

// candidates asks gossip, and warns once of each who does not fit.
func (f *Former) candidates() []Candidate {
	all := f.cfg.Candidates()
	f.mu.Lock()
	defer f.mu.Unlock()
	me := &f.mu.core.me
	for _, v := range all {
		if v.Cluster != "" && v.Cluster != me.Cluster {
			f.warnLocked("candidate of another cluster ignored", "node_id", v.NodeID, "peer", v.PeerAddr, "cluster", v.Cluster)
		}
		if v.NodeID == me.NodeID && v.RaftID != me.RaftID {
			f.warnLocked("another node uses this node's ID", "node_id", v.NodeID, "peer", v.PeerAddr)
		}
	}
	return all
}

func (f *Former) warnLocked(msg string, attrs ...any) {
	key := fmt.Sprint(msg, attrs)
	if len(f.mu.warned) > 1000 || f.mu.warned[key] {
		return
	}
	f.mu.warned[key] = true
	f.cfg.Logger.Warn(msg, append([]any{"layer", "L5"}, attrs...)...)
}

// send sends requests side by side, and what their replies lead to, and waits
// for all of it.
func (f *Former) send(ctx context.Context, requests []request) {
	var wg sync.WaitGroup
	for _, r := range requests {
		wg.Go(func() { f.send(ctx, f.exchange(ctx, &r)) })
	}
	wg.Wait()
}

// exchange sends one request and takes its reply.
func (f *Former) exchange(ctx context.Context, r *request) []request {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := f.cfg.Call(ctx, r.addr, r.msg.encode())
	var m message
	if err == nil {
		m, err = decodeMessage(b)
	}
	if err != nil {
		f.cfg.Logger.Debug("forming request", "layer", "L5", "kind", r.msg.Kind, "peer", r.addr, "err", err)
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Kind == refusedKind {
		f.warnLocked("forming request refused", "kind", r.msg.Kind, "peer", r.addr, "code", m.Code, "reason", m.Text)
	}
	before := f.mu.core.me
	out := f.mu.core.reply(r, &m)
	f.changedLocked(&before)
	return out
}

// changedLocked logs a change of the identity and wakes Run.
func (f *Former) changedLocked(before *Identity) {
	me := &f.mu.core.me
	switch {
	case me.formed() && !before.formed():
		f.cfg.Logger.Info("cluster formed", "layer", "L5", "cluster", me.Cluster, "cluster_id", me.ClusterID.String(), "voters", len(me.Voters), "gateway", me.Joined)
	case (me.Promise == nil) == (before.Promise == nil):
		return
	}
	select {
	case f.moved <- struct{}{}:
	default:
	}
}

// Answer answers the request of another node; it may be called before, during
// and after Run. What it promises is durable when it returns. nil means that
// the request is not one.
func (f *Former) Answer(req []byte) []byte {
	m, err := decodeMessage(req)
	if err != nil {
		f.cfg.Logger.Debug("malformed forming request", "layer", "L5", "err", err)
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.mu.core.me
	out := f.mu.core.answer(&m)
	if out.Kind == refusedKind {
		f.warnLocked("forming request refused here", "from", m.FromNode, "kind", m.Kind, "code", out.Code, "reason", out.Text)
	}
	f.changedLocked(&before)
	return out.encode()
}

// Identity is the identity as it is now.
func (f *Former) Identity() Identity {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.mu.core.me
	id.Voters = slices.Clone(id.Voters)
	return id
}

// Waiting says, for people, what forming waits for; "" when it is done.
func (f *Former) Waiting() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := &f.mu.core; !c.me.formed() {
		return c.waiting
	}
	return ""
}
