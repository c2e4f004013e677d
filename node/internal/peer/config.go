package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// Limits that are not configuration.
const (
	// MaxInflightRequests bounds the requests one peer may have running here; one
	// more is answered ErrOverloaded. 4096 goroutines of 8 KiB are 32 MiB.
	MaxInflightRequests = 4096
	// MaxNameBytes bounds cluster name, node ID and refusal text in a hello (one length byte).
	MaxNameBytes = 255
	// MaxAuxConns bounds snapshot and forming connections being served at once.
	MaxAuxConns = 64
	// MaxGreeting bounds connections whose handshake is under way.
	MaxGreeting = 128
	// SnapshotChunkBytes is the size of one chunk of a snapshot stream.
	SnapshotChunkBytes = 256 << 10
	// MaxFormBytes bounds a forming request and its answer: 64 voters of 1 KiB.
	MaxFormBytes = 64 << 10

	// HandshakeTimeout ends a handshake that does not come to an end.
	HandshakeTimeout = 5 * time.Second
	// StallTimeout ends a snapshot stream that makes no progress.
	StallTimeout = 30 * time.Second
)

// Identity is who this node is to others.
type Identity struct {
	Cluster     string
	ClusterID   [16]byte // zero until formed; see SetCluster
	RaftID      uint64
	NodeID      string
	Incarnation uint64 // grows with each start; 0 = not compared
}

// Config of a Transport. Zero values mean the default.
type Config struct {
	Listener net.Listener // taken over; or
	Addr     string       // host:port to listen on

	Self   Identity
	Logger *slog.Logger // default slog.Default()

	// Admit is consulted on every handshake of a peer, in either direction: is
	// this raft ID with this node ID a member? nil admits all.
	Admit func(raftID uint64, nodeID string) error

	MaxFrameBytes int // payload of one frame, uncompressed. Default 16 MiB. Larger is refused at both ends
	MaxQueueBytes int // waiting for one peer. Default 64 MiB; calls and notices get half, raft the rest
	CompressAbove int // bytes of a payload. Default 4 KiB, but never to a loopback address; > 0 always; < 0 never

	PingInterval time.Duration // default 1 s
	DeadAfter    time.Duration // silence that ends a connection. Default 3 s
	// UntilBeat is how long until this process's periodic work is done, so that pings fall together with it; nil: no matter.
	UntilBeat   func(raftID uint64) time.Duration
	DialTimeout time.Duration // default 2 s
	RedialMin   time.Duration // first wait after a failed dial. Default 20 ms, doubling with jitter
	RedialMax   time.Duration // default 1 s
}

const defaultCompressAbove = 4 << 10

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.MaxFrameBytes == 0 {
		c.MaxFrameBytes = 16 << 20
	}
	if c.MaxQueueBytes == 0 {
		c.MaxQueueBytes = 64 << 20
	}
	if c.Admit == nil {
		c.Admit = func(uint64, string) error { return nil }
	}
	def(&c.PingInterval, time.Second)
	def(&c.DeadAfter, 3*time.Second)
	def(&c.DialTimeout, 2*time.Second)
	def(&c.RedialMin, 20*time.Millisecond)
	def(&c.RedialMax, time.Second)
	return c
}

func (c Config) validate() error {
	var errs []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			errs = append(errs, fmt.Errorf("peer: config: "+format, args...))
		}
	}
	bad(c.Listener == nil && c.Addr == "", "neither Listener nor Addr")
	bad(c.Self.RaftID == 0, "raft ID 0 is reserved")
	bad(c.Self.NodeID == "" || len(c.Self.NodeID) > MaxNameBytes, "node ID of %d bytes, want 1 to %d", len(c.Self.NodeID), MaxNameBytes)
	bad(c.Self.Cluster == "" || len(c.Self.Cluster) > MaxNameBytes, "cluster name of %d bytes, want 1 to %d", len(c.Self.Cluster), MaxNameBytes)
	bad(c.MaxFrameBytes < SnapshotChunkBytes || c.MaxFrameBytes > 1<<30, "MaxFrameBytes %d out of [256 KiB, 1 GiB]", c.MaxFrameBytes)
	bad(c.MaxQueueBytes < 2*c.MaxFrameBytes, "MaxQueueBytes %d is less than two frames", c.MaxQueueBytes)
	bad(c.DeadAfter <= c.PingInterval, "DeadAfter %v must exceed PingInterval %v", c.DeadAfter, c.PingInterval)
	return errors.Join(errs...)
}

// Handler is what a node does with what its peers send. Byte slices belong to
// the handler. Raft, Notify, PeerUp and PeerDown run on a connection's reader
// and must not block; Request and Snapshot have a goroutine of their own.
type Handler interface {
	Raft(from uint64, shard uint32, msg []byte)
	Notify(from uint64, kind uint8, body []byte)
	// Request may block; ctx ends when the caller gives up, its deadline passes
	// or the connection breaks. The caller gets the answer; or a *RemoteError as
	// it was returned; or, for ErrOverloaded and ErrCallLost, the same; the error
	// of an ended context is ErrCallLost there; any other is CodeInternal.
	Request(ctx context.Context, from uint64, method uint8, body []byte) ([]byte, error)
	// Snapshot reads a stream to its end. r returns io.EOF only after the whole
	// was verified; the sender learns the error returned.
	Snapshot(from uint64, r io.Reader) error
	PeerUp(id uint64)
	PeerDown(id uint64)
}

// PeerStatus is one peer as this node sees it.
type PeerStatus struct {
	RaftID        uint64
	NodeID        string
	Addr          string // as configured, or of the connection
	Up            bool
	Since         time.Time     // of the last change of Up
	RTT           time.Duration // of the last ping; 0 = none yet
	QueuedBytes   int
	SentBytes     uint64
	ReceivedBytes uint64
	Dropped       uint64 // raft messages, queue full
	LastRefusal   string // "" = none; kept until the next success
	LastError     string
}
