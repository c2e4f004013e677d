package bare

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/quorate/quorate/node/internal/peer"
	"github.com/quorate/quorate/raftstore"
)

// Config says who this peer is. All fields but Logger are required.
type Config struct {
	Dir    string   // for the replicas
	Addrs  []string // where the peers listen, this one included, the same on all
	Index  int      // of this peer in Addrs
	Shards uint32
	Logger *slog.Logger // default: discard
	// OnFatal is told when the peer must not go on; the process should end.
	OnFatal func(error)
}

// MaxPeers bounds Addrs: more voters than this nobody runs.
const MaxPeers = 7

func (c Config) validate() error {
	if c.Dir == "" || len(c.Addrs) == 0 || len(c.Addrs) > MaxPeers || c.Index < 0 || c.Index >= len(c.Addrs) {
		return fmt.Errorf("bare: directory %q, peer %d of %d: want a directory and one of up to %d peers", c.Dir, c.Index, len(c.Addrs), MaxPeers)
	}
	if c.Shards == 0 || c.Shards > raftstore.MaxShards {
		return fmt.Errorf("bare: %d shards: want 1 to %d", c.Shards, raftstore.MaxShards)
	}
	if c.OnFatal == nil {
		return errors.New("bare: OnFatal is nil")
	}
	return nil
}

// Peer is a running one. Its methods are safe for concurrent use.
type Peer struct {
	store *raftstore.Store
	peers *peer.Transport
}

func raftID(index int) uint64 { return uint64(index) + 1 }

// Open opens or bootstraps the replicas and starts.
func Open(cfg Config) (*Peer, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	id := raftID(cfg.Index)
	t, err := peer.Listen(peer.Config{Addr: cfg.Addrs[cfg.Index], Logger: cfg.Logger,
		Self: peer.Identity{Cluster: "bare", ClusterID: [16]byte{1}, RaftID: id, NodeID: nodeID(cfg.Index)}})
	if err != nil {
		return nil, err
	}
	store, err := raftstore.Open(raftstore.Config{Dir: cfg.Dir, RaftID: id, Transport: transport{t}, Logger: cfg.Logger, OnFatal: cfg.OnFatal,
		Machine: func(uint32, raftstore.Reader, raftstore.Journal) (raftstore.Machine, error) { return new(counter), nil }})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	p := &Peer{store: store, peers: t}
	if len(store.Shards()) == 0 {
		var voters []uint64
		for i := range cfg.Addrs {
			voters = append(voters, raftID(i))
		}
		if err := store.Bootstrap(cfg.Shards, voters); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	t.SetHandler(handler{store, cfg.Logger})
	if err := t.SetCluster([16]byte{1}); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	store.Start()
	t.Start()
	for i, addr := range cfg.Addrs {
		if i != cfg.Index {
			t.SetPeer(raftID(i), nodeID(i), addr)
		}
	}
	return p, nil
}

func nodeID(index int) string { return fmt.Sprintf("n%d", index+1) }

// Leads lists the shards this peer leads.
func (p *Peer) Leads() []uint32 {
	var led []uint32
	for _, s := range p.store.Status() {
		if s.Ready {
			led = append(led, s.Shard)
		}
	}
	return led
}

// Transfer hands a shard over to the peer with that index.
func (p *Peer) Transfer(shard uint32, to int) error {
	return p.store.TransferLeader(context.Background(), shard, raftID(to))
}

// Propose queues commands on a shard.
func (p *Peer) Propose(shard uint32, ps []raftstore.Proposal) { p.store.Propose(shard, ps) }

// Close stops everything and waits for it.
func (p *Peer) Close() error { return errors.Join(p.store.Close(), p.peers.Close()) }

type transport struct{ t *peer.Transport }

func (t transport) Send(to uint64, shard uint32, msg []byte) { t.t.Queue(to, shard, msg) }

func (t transport) Flush() { t.t.Flush() }

func (t transport) SendSnapshot(ctx context.Context, to uint64, write func(io.Writer) error) error {
	return t.t.SendSnapshot(ctx, to, write)
}

// handler takes in what peers send.
type handler struct {
	store *raftstore.Store
	log   *slog.Logger
}

func (h handler) Raft(from uint64, shard uint32, msg []byte) {
	if err := h.store.Step(shard, from, msg); err != nil && !errors.Is(err, raftstore.ErrStopped) {
		h.log.Warn("raft message refused", "layer", "L5", "peer", from, "shard", shard, "err", err)
	}
}

func (h handler) Snapshot(from uint64, r io.Reader) error { return h.store.Receive(from, r) }
func (h handler) PeerDown(id uint64)                      { h.store.PeerDown(id) }
func (handler) PeerUp(uint64)                             {}
func (handler) Notify(uint64, uint8, []byte)              {}
func (handler) Request(context.Context, uint64, uint8, []byte) ([]byte, error) {
	return nil, &peer.RemoteError{Code: "unsupported", Text: "this peer answers no requests"}
}

// counter is the state machine: how many commands and bytes were applied.
type counter struct{ commands, bytes uint64 }

func (c *counter) Restore(_ raftstore.Reader, meta []byte) error {
	if meta == nil {
		return nil
	}
	if len(meta) != 16 {
		return fmt.Errorf("bare: state of %d bytes: %w", len(meta), raftstore.ErrCorrupt)
	}
	c.commands, c.bytes = binary.LittleEndian.Uint64(meta), binary.LittleEndian.Uint64(meta[8:])
	return nil
}

func (c *counter) Apply(e raftstore.Entry) [][]byte {
	c.commands += uint64(len(e.Commands))
	for _, b := range e.Commands {
		c.bytes += uint64(len(b))
	}
	return nil
}

func (c *counter) Freeze() raftstore.Changes {
	meta := binary.LittleEndian.AppendUint64(nil, c.commands)
	return raftstore.Changes{Meta: binary.LittleEndian.AppendUint64(meta, c.bytes)}
}

func (*counter) Thaw()            {}
func (*counter) Lead(uint64)      {}
func (*counter) Follow(uint64)    {}
func (c *counter) Digest() uint64 { return c.commands<<32 ^ c.bytes }
