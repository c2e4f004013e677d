package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/gossip"
	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/files"
	"github.com/quorate/quorate/node/internal/form"
	"github.com/quorate/quorate/node/internal/peer"
	"github.com/quorate/quorate/raftstore"
)

// Node is one Quorate peer: from forming on, a member of its cluster or a
// gateway to it.
type Node struct {
	cfg    Config
	lock   io.Closer
	id     form.Identity
	former *form.Former
	peers  *peer.Transport
	gossip atomic.Pointer[gossip.Gossip] // nil until it is open; its callbacks may come before
	server *http.Server
	api    net.Listener

	embedded  *embedded
	core      atomic.Pointer[core] // nil while forming, and on a gateway
	gateway   atomic.Bool
	opened    time.Time
	malformed seldom                 // raft messages
	refusals  atomic.Int32           // by seeds
	joinWaits atomic.Pointer[string] // why this node is no member yet
	changed   chan struct{}          // capacity 1: gossip's members changed
	fatal     chan error             // capacity 1

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	closed sync.Once
}

// Version is the version this binary was built as.
func Version() string {
	if version != "" {
		return version
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "devel"
}

var version string // set by the linker

// Open starts a node and returns when it listens; forming a cluster, or
// joining one, goes on behind. A directory that is held by another process,
// belongs to another node or cluster, or is damaged is refused.
func Open(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		cfg.closeListeners()
		return nil, startError(1, fmt.Errorf("configuration: %w", err))
	}
	n := &Node{cfg: cfg, opened: cfg.Now(), changed: make(chan struct{}, 1), fatal: make(chan error, 1)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.embedded = newEmbedded(n)
	if err := n.open(); err != nil {
		n.Close()
		cfg.closeListeners()
		return nil, err
	}
	return n, nil
}

func (n *Node) open() (err error) {
	if n.lock, err = lockDir(files.FS{FS: n.cfg.FS}, n.cfg.DataDir); err != nil {
		return startError(1, err)
	}
	if n.id, err = form.Open(files.FS{FS: n.cfg.FS}, n.cfg.DataDir, n.cfg.NodeID, n.cfg.Cluster); err != nil {
		return startError(1, err)
	}
	n.cfg.Logger = n.cfg.Logger.With("node", n.id.NodeID)
	if n.api = n.cfg.APIListener; n.api == nil {
		if n.api, err = net.Listen("tcp", n.cfg.APIAddr); err != nil {
			return startError(2, fmt.Errorf("API address: %w", err))
		}
	}
	pc := peer.Config{Listener: n.cfg.PeerListener, Addr: n.cfg.PeerAddr, Logger: n.cfg.Logger, Admit: n.admit,
		UntilBeat: func(raftID uint64) time.Duration { return raftstore.UntilBeat(time.Now(), raftID) },
		Self:      peer.Identity{Cluster: n.id.Cluster, ClusterID: n.id.ClusterID, RaftID: n.id.RaftID, NodeID: n.id.NodeID, Incarnation: n.id.Incarnation}}
	n.cfg.peerBudget(&pc)
	if n.peers, err = peer.Listen(pc); err != nil {
		return startError(2, fmt.Errorf("peer address: %w", err))
	}
	n.former, err = form.New(form.Config{FS: files.FS{FS: n.cfg.FS}, Dir: n.cfg.DataDir, Identity: n.id, PeerAddr: n.PeerAddr(), Expect: n.cfg.BootstrapExpect,
		Shards: uint32(n.cfg.Shards) + 1, Candidates: n.candidates, Changed: n.changed, Call: n.peers.CallForm, Logger: n.cfg.Logger})
	if err != nil {
		return startError(5, err)
	}
	n.peers.SetForm(n.former.Answer)
	n.peers.SetHandler(n)
	if !n.id.ClusterID.IsZero() && (!n.id.Joined || n.wasMember()) {
		if err := n.join(n.id); err != nil { // an old member refuses here what it cannot read
			return startError(5, err)
		}
	}
	n.peers.Start()
	g, err := gossip.Open(gossip.Config{Cluster: n.cfg.Cluster, NodeID: n.id.NodeID, BindAddr: n.cfg.GossipAddr,
		Listener: n.cfg.GossipListener, PacketConn: n.cfg.GossipPacketConn, Meta: n.meta(n.id),
		Seeds: n.cfg.Join, OnChange: n.gossipChanged, OnConflict: n.conflict, OnForeign: n.foreign, OnRefused: n.refusedBySeed, Known: n.knownGossip, Logger: n.cfg.Logger})
	if err != nil {
		return startError(3, fmt.Errorf("gossip address: %w", err))
	}
	n.gossip.Store(g)
	n.gossipChanged()
	if c := n.core.Load(); c != nil {
		c.start()
		if n.id.Joined {
			n.gateway.Store(true)
			n.wg.Go(func() { n.joinLoop(n.id) })
		} else {
			c.enter(n.APIAddr(), n.GossipAddr(), Version())
		}
	} else {
		n.wg.Go(n.form)
	}
	n.serve()
	return nil
}

// lockDir makes the data directory and holds it for this process.
func lockDir(fs files.FS, dir string) (io.Closer, error) {
	if err := fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := fs.Lock(filepath.Join(dir, "LOCK"))
	if errors.Is(err, files.ErrLocked) {
		return nil, fmt.Errorf("data directory %s is held by another process: stop it, or give this node a directory of its own", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	return lock, nil
}

// form waits for the cluster and becomes part of it.
func (n *Node) form() {
	out, err := n.former.Run(n.ctx)
	if err != nil {
		if n.ctx.Err() == nil {
			n.fail(fmt.Errorf("forming: %w", err))
		}
		return
	}
	id := n.former.Identity()
	if out.Joined {
		n.gateway.Store(true)
		n.cfg.Logger.Info("joined a formed cluster as a gateway: requests go on to its members", "layer", 5, "cluster_id", id.ClusterID.String())
		n.setMeta(id)
		n.joinLoop(id)
		return
	}
	if err := n.join(id); err != nil {
		n.fail(err)
		return
	}
	c := n.core.Load()
	c.start()
	c.enter(n.APIAddr(), n.GossipAddr(), Version())
	n.setMeta(id)
	n.gossipChanged()
}

// join opens the replicas of a cluster this node is a member of.
func (n *Node) join(id form.Identity) error {
	c, err := newCore(n.cfg, id, n.peers, n.fail)
	if err != nil {
		return err
	}
	c.metrics.registry.MustRegister(gauges{c})
	n.core.Store(c)
	return n.peers.SetCluster(id.ClusterID)
}

func (n *Node) setMeta(id form.Identity) {
	if err := n.gossip.Load().SetMeta(n.meta(id)); err != nil {
		n.cfg.Logger.Warn("gossip does not carry this node's addresses", "layer", 3, "error", err)
	}
}

func (n *Node) meta(id form.Identity) gossip.Meta {
	return gossip.Meta{RaftID: id.RaftID, ClusterID: id.ClusterID, Gateway: id.Joined && !n.isMember(), PeerAddr: n.PeerAddr(), APIAddr: n.APIAddr(), Version: Version()}
}

// fail is the fail-stop: the process must end.
func (n *Node) fail(err error) {
	select {
	case n.fatal <- err:
		n.cfg.Logger.Error("this node stops: it can not go on safely", "layer", 5, "error", err)
	default:
	}
}

// Fatal delivers the reason when the node can not go on: the process must end
// with it.
func (n *Node) Fatal() <-chan error { return n.fatal }

// knownGossip lists the other members' gossip addresses, as they entered them:
// after a full partition gossip finds back through them.
func (n *Node) knownGossip() (addrs []string) {
	c := n.core.Load()
	if c == nil {
		return nil
	}
	c.registry(func(ctl *ledger.Control) {
		for _, x := range ctl.Nodes() {
			if x.RaftID != c.id.RaftID && x.GossipAddr != "" {
				addrs = append(addrs, x.GossipAddr)
			}
		}
	})
	return addrs
}

// members are the nodes that gossip believes alive.
func (n *Node) members() []gossip.Member {
	if g := n.gossip.Load(); g != nil {
		return g.Members()
	}
	return nil
}

// candidates are the nodes that forming may count on.
func (n *Node) candidates() []form.Candidate {
	var out []form.Candidate
	for _, m := range n.members() {
		out = append(out, form.Candidate{RaftID: m.Meta.RaftID, NodeID: m.NodeID, PeerAddr: m.Meta.PeerAddr, ClusterID: m.Meta.ClusterID})
	}
	return out
}

// gossipChanged takes members' present addresses; hints only, the handshake
// checks who answers there.
func (n *Node) gossipChanged() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
	c := n.core.Load()
	if c == nil {
		return
	}
	for _, m := range n.members() {
		for _, v := range c.others() {
			if v.RaftID == m.Meta.RaftID && m.Meta.PeerAddr != "" {
				n.peers.SetPeer(v.RaftID, v.NodeID, m.Meta.PeerAddr)
			}
		}
	}
}

// foreign handles a node of another cluster with the same name. A cluster at
// work ignores it; a node that was told to join it, and reaches nobody of its
// own cluster, was started in the wrong place and stops.
func (n *Node) foreign(m gossip.Member) {
	c := n.core.Load()
	if c == nil {
		return
	}
	others := c.others()
	alone := len(others) > 0 || n.cfg.Now().Sub(n.opened) < strayTime
	for _, v := range others {
		alone = alone && !n.peers.Up(v.RaftID)
	}
	if !alone || !slices.Contains(n.cfg.Join, m.Addr) || len(others) > 0 && c.Ready() == nil {
		n.cfg.Logger.Warn("a node of another cluster with the same name gossips here; it is ignored", "layer", 5, "peer", m.NodeID, "addr", m.Addr)
		return
	}
	n.fail(fmt.Errorf("data directory %s belongs to cluster %s, but the node at %s is of cluster %s: start this node with the directory and addresses of one cluster",
		n.cfg.DataDir, c.id.ClusterID, m.Addr, form.ID(m.Meta.ClusterID)))
}

// A node that finds itself in the wrong place stops within strayTime of its
// start, or after straySeeds refusals while it knows nobody.
const (
	strayTime  = 10 * time.Second
	straySeeds = 3
)

// refusedBySeed handles a seed that is there but does not gossip with this
// node: one that belongs to no cluster yet, and reaches nobody else, was given
// the wrong cluster name.
func (n *Node) refusedBySeed(seed string, err error) {
	if n.core.Load() != nil || n.gateway.Load() || n.refusals.Add(1) < straySeeds || len(n.members()) > 1 {
		return
	}
	n.fail(fmt.Errorf("the node at %s does not take this one in (%s): most likely it is not of cluster %q; give its cluster's name with --cluster",
		seed, strings.Join(strings.Fields(err.Error()), " "), n.cfg.Cluster))
}

// conflict handles another process with this node's ID.
func (n *Node) conflict(nodeID, addr string) {
	if nodeID != n.id.NodeID {
		n.cfg.Logger.Warn("two processes claim one node ID", "layer", 5, "peer", nodeID, "addr", addr)
		return
	}
	if c := n.core.Load(); c == nil && !n.gateway.Load() {
		n.fail(fmt.Errorf("node ID %q is taken by the node at %s: start this one with a --node-id of its own", nodeID, addr))
		return
	}
	n.cfg.Logger.Error("another process uses this node's ID; it is not let in", "layer", 5, "addr", addr)
}

// closeTimeout bounds the drain at Close.
const closeTimeout = 5 * time.Second

// Close drains the node: leadership goes to the others, calls under way
// finish or are told to repeat elsewhere, everything is flushed.
func (n *Node) Close() (err error) {
	n.closed.Do(func() {
		errs := []error{n.embedded.close()}
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if c := n.core.Load(); c != nil {
			errs = append(errs, c.stop(ctx))
		}
		n.cancel()
		if n.server != nil {
			if n.server.Shutdown(ctx) != nil {
				n.server.Close()
			}
		} else if n.api != nil {
			n.api.Close()
		}
		if g := n.gossip.Load(); g != nil {
			_ = g.Leave(500 * time.Millisecond) // peers notice by themselves
			errs = append(errs, g.Close())
		}
		if n.peers != nil {
			errs = append(errs, n.peers.Close())
		}
		n.wg.Wait()
		if n.lock != nil {
			n.lock.Close()
		}
		err = errors.Join(errs...)
	})
	return err
}

// APIAddr is the bound API address.
func (n *Node) APIAddr() string { return n.api.Addr().String() }

// PeerAddr is the bound peer address.
func (n *Node) PeerAddr() string { return n.peers.Addr().String() }

// GossipAddr is the bound gossip address.
func (n *Node) GossipAddr() string {
	if g := n.gossip.Load(); g != nil {
		return g.Addr()
	}
	return n.cfg.GossipAddr
}

// NodeID is the node's name.
func (n *Node) NodeID() string { return n.id.NodeID }

// Gateway lists the members' API base URLs when this process is a gateway.
func (n *Node) Gateway() []string {
	if n.isMember() || !n.gateway.Load() && !n.id.Joined {
		return nil
	}
	var urls []string
	for _, m := range n.members() {
		if m.Meta.ClusterID != ([16]byte{}) && !m.Meta.Gateway && m.NodeID != n.id.NodeID {
			urls = append(urls, "http://"+m.Meta.APIAddr)
		}
	}
	if urls == nil {
		urls = []string{""} // a gateway that knows no member: every request is refused
	}
	return urls
}

// isMember says that this node has a core that serves.
func (n *Node) isMember() bool {
	c := n.core.Load()
	return c != nil && c.serving()
}

// member is the core, or why there is none.
func (n *Node) member() (*core, error) {
	if c := n.core.Load(); c != nil && (!n.gateway.Load() || c.serving()) {
		return c, nil
	}
	if n.gateway.Load() {
		return nil, api.Errorf(503, 5, "no_member_reachable", api.RetryLater, "this gateway knows no reachable member of its cluster")
	}
	return nil, api.Errorf(503, 5, "not_formed", api.RetryLater, "the cluster is not formed yet: %s", n.former.Waiting()).
		WithHint("start the other nodes with --join pointing at one another")
}

// The node is its peers' handler.

// Raft implements peer.Handler.
func (n *Node) Raft(from uint64, shard uint32, msg []byte) {
	if c := n.core.Load(); c != nil {
		if err := c.store.Step(shard, from, msg); err != nil {
			level := slog.LevelDebug // this node stops, or has no replica of the shard
			if errors.Is(err, raftstore.ErrMalformed) && n.malformed.allow(n.cfg.Now()) {
				level = slog.LevelWarn
			}
			n.cfg.Logger.Log(context.Background(), level, "raft message refused", "layer", "L5", "shard", shard, "peer", c.nodeName(from), "error", err)
		}
	}
}

// Request implements peer.Handler.
func (n *Node) Request(ctx context.Context, from uint64, method uint8, body []byte) ([]byte, error) {
	c := n.core.Load()
	if c == nil {
		return nil, errors.New("not formed")
	}
	return c.request(ctx, from, method, body)
}

// Notify implements peer.Handler.
func (n *Node) Notify(from uint64, kind uint8, body []byte) {
	if c := n.core.Load(); c != nil {
		c.notified(from, kind, body)
	}
}

// Snapshot implements peer.Handler.
func (n *Node) Snapshot(from uint64, r io.Reader) error {
	c := n.core.Load()
	if c == nil {
		return errors.New("not formed")
	}
	return c.store.Receive(from, r)
}

// PeerUp implements peer.Handler.
func (n *Node) PeerUp(id uint64) {
	if c := n.core.Load(); c != nil {
		n.cfg.Logger.Info("peer connected", "layer", 2, "peer", c.nodeName(id))
		c.leadsNews()
		c.idlers.again.Store(true)
		c.thieves.peerUp(id)
	}
}

// PeerDown implements peer.Handler.
func (n *Node) PeerDown(id uint64) {
	if c := n.core.Load(); c != nil {
		n.cfg.Logger.Warn("peer lost", "layer", 2, "peer", c.nodeName(id))
		c.depths.set(id, nil)
		c.idlers.set(id, nil)
		c.store.PeerDown(id)
	}
}
