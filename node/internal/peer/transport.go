package peer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Transport is the node's end of all peer connections. Its methods are safe for
// concurrent use.
type Transport struct {
	cfg      Config
	ln       net.Listener
	ctx      context.Context // ends at Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup // every goroutine
	greeting chan struct{}  // a slot per handshake under way
	aux      chan struct{}  // a slot per snapshot or forming connection served
	refusals refusalLog
	epoch    time.Time // what ping tokens count from

	// peers is read by Send without a lock; a new map is stored for each change, under mu.
	peers atomic.Pointer[map[uint64]*remote]

	mu struct {
		sync.Mutex
		self    Identity
		handler Handler
		form    func([]byte) []byte
		conns   map[net.Conn]struct{} // every open connection, closed by Close
		started bool
		closed  bool
	}
}

// Listen binds the address; nothing is accepted before Start.
func Listen(cfg Config) (*Transport, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	ln := cfg.Listener
	if ln == nil {
		var err error
		if ln, err = net.Listen("tcp", cfg.Addr); err != nil {
			return nil, fmt.Errorf("peer: listen: %w", err)
		}
	}
	t := &Transport{cfg: cfg, ln: ln, greeting: make(chan struct{}, MaxGreeting), aux: make(chan struct{}, MaxAuxConns), epoch: time.Now()}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.peers.Store(&map[uint64]*remote{})
	t.mu.self = cfg.Self
	t.mu.conns = make(map[net.Conn]struct{})
	return t, nil
}

// Addr is the bound address.
func (t *Transport) Addr() net.Addr { return t.ln.Addr() }

// SetForm sets how a forming request is answered; without it they are refused as busy.
func (t *Transport) SetForm(answer func(req []byte) []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.form = answer
}

// SetHandler sets the handler, once, before SetCluster.
func (t *Transport) SetHandler(h Handler) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.handler = h
}

// SetCluster says which cluster this node is part of, once. Peers are accepted
// and dialled from then on. Config.Self may carry the ID already: call it all
// the same, when the handler is ready.
func (t *Transport) SetCluster(id [16]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case id == [16]byte{}:
		return errors.New("peer: set cluster: ID is zero")
	case t.mu.self.ClusterID != id && t.mu.self.ClusterID != [16]byte{}:
		return fmt.Errorf("peer: set cluster: already part of %x, not %x", t.mu.self.ClusterID, id)
	case t.mu.handler == nil:
		return errors.New("peer: set cluster: no handler")
	case t.mu.closed:
		return ErrClosed
	}
	t.mu.self.ClusterID = id
	for _, r := range *t.peers.Load() {
		t.dialLocked(r)
	}
	return nil
}

// Start begins accepting.
func (t *Transport) Start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.started || t.mu.closed {
		return
	}
	t.mu.started = true
	t.wg.Go(t.accept)
}

// self returns the identity as of now, and whether peers are welcome.
func (t *Transport) self() (Identity, Handler, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.self, t.mu.handler, t.mu.handler != nil && t.mu.self.ClusterID != [16]byte{} && !t.mu.closed
}

// SetPeer names a peer and its address, and tries it at once if it is down.
func (t *Transport) SetPeer(id uint64, nodeID, addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed || id == 0 || id == t.mu.self.RaftID {
		return
	}
	r := t.remoteLocked(id)
	r.configure(nodeID, addr)
	if t.mu.handler != nil && t.mu.self.ClusterID != [16]byte{} {
		t.dialLocked(r)
	}
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// RemovePeer forgets a peer and closes its connection.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	r := (*t.peers.Load())[id]
	if r != nil {
		next := maps.Clone(*t.peers.Load())
		delete(next, id)
		t.peers.Store(&next)
	}
	t.mu.Unlock()
	if r == nil {
		return
	}
	r.cancel() // stops the dialer, and refuses a connection being installed
	if c := r.conn.Load(); c != nil {
		c.shut(errRemoved)
	}
}

// remoteLocked finds or makes a peer; mu is held.
func (t *Transport) remoteLocked(id uint64) *remote {
	old := *t.peers.Load()
	if r := old[id]; r != nil {
		return r
	}
	r := newRemote(t.ctx, id)
	next := maps.Clone(old)
	next[id] = r
	t.peers.Store(&next)
	return r
}

// dialLocked starts the dialer of a peer that is ours to dial; mu is held.
func (t *Transport) dialLocked(r *remote) {
	if r.id < t.mu.self.RaftID || !r.startDialing() {
		return
	}
	h := t.mu.handler
	t.wg.Go(func() { t.dial(r, h) })
}

// conn finds the established connection to a peer.
func (t *Transport) conn(id uint64) (*remote, *conn) {
	r := (*t.peers.Load())[id]
	if r == nil {
		return nil, nil
	}
	return r, r.conn.Load()
}

// Send queues a raft message. It never blocks; the message is dropped when the
// peer is down or its queue is full.
func (t *Transport) Send(to uint64, shard uint32, msg []byte) { t.queue(laneRaft, to, shard, msg) }

// Queue is Send, but the message stays until Flush, or until something else
// goes to that peer.
func (t *Transport) Queue(to uint64, shard uint32, msg []byte) { t.queue(laneHeld, to, shard, msg) }

func (t *Transport) queue(l lane, to uint64, shard uint32, msg []byte) {
	r, c := t.conn(to)
	if c == nil {
		return
	}
	if len(msg) > t.cfg.MaxFrameBytes {
		r.dropped.Add(1)
		if t.refusals.allow("too large", 0) {
			t.cfg.Logger.Error("raft message over the frame limit dropped", "layer", layer, "bytes", len(msg), "limit_bytes", t.cfg.MaxFrameBytes)
		}
		return
	}
	f := frame{typ: typeRaft, shard: shard, body: msg}
	if _, err := c.out.put(l, &f, c.compressAbove); err != nil {
		r.dropped.Add(1)
	}
}

// Flush sends what was queued. Replicas that have much to say at once say it in
// one write, and wake the other side once.
func (t *Transport) Flush() {
	for _, r := range *t.peers.Load() {
		if c := r.conn.Load(); c != nil {
			c.out.flush()
		}
	}
}

// Notify queues a notice. nil means queued, not delivered; ErrPeerDown,
// ErrOverloaded and ErrTooLarge mean certainly not.
func (t *Transport) Notify(to uint64, kind uint8, body []byte) error {
	_, c := t.conn(to)
	if c == nil {
		return ErrPeerDown
	}
	if len(body) > t.cfg.MaxFrameBytes {
		return ErrTooLarge
	}
	f := frame{typ: typeNotify, kind: kind, body: body}
	_, err := c.out.put(laneCall, &f, c.compressAbove)
	return err
}

// Up reports whether a connection to the peer is established.
func (t *Transport) Up(id uint64) bool {
	_, c := t.conn(id)
	return c != nil
}

// Peers lists every known peer, by raft ID.
func (t *Transport) Peers() []PeerStatus {
	all := *t.peers.Load()
	out := make([]PeerStatus, 0, len(all))
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[id].status())
	}
	return out
}

// track registers a connection for Close; false means closed already.
func (t *Transport) track(nc net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		_ = nc.Close()
		return false
	}
	t.mu.conns[nc] = struct{}{}
	return true
}

func (t *Transport) untrack(nc net.Conn) {
	_ = nc.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.mu.conns, nc)
}

// Close closes everything and waits for every goroutine, running requests
// included; their contexts have ended.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.mu.closed {
		t.mu.Unlock()
		t.wg.Wait()
		return nil
	}
	t.mu.closed = true
	open := slices.Collect(maps.Keys(t.mu.conns))
	t.mu.Unlock()
	t.cancel()
	err := t.ln.Close()
	for _, nc := range open {
		_ = nc.Close()
	}
	t.wg.Wait()
	if err != nil {
		return fmt.Errorf("peer: close: %w", err)
	}
	return nil
}
