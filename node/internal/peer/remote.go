package peer

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// remote is what is known of one peer, whether connected or not.
type remote struct {
	id      uint64
	conn    atomic.Pointer[conn] // nil = down; set by install, cleared by serve
	dropped atomic.Uint64
	kick    chan struct{}   // capacity 1: try now
	ctx     context.Context // ends with RemovePeer or Close
	cancel  context.CancelFunc

	installing sync.Mutex // one connection replaces another at a time

	mu struct {
		sync.Mutex
		nodeID, addr          string
		dialing               bool
		incarnation           uint64 // newest seen
		since                 time.Time
		sent, received        uint64 // of connections that are gone
		lastRefusal, lastFail string
	}
}

func newRemote(ctx context.Context, id uint64) *remote {
	r := &remote{id: id, kick: make(chan struct{}, 1)}
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.mu.since = time.Now()
	return r
}

func (r *remote) configure(nodeID, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if nodeID != "" {
		r.mu.nodeID = nodeID
	}
	if addr != "" {
		r.mu.addr = addr
	}
}

// startDialing reports true to the one caller that has to start the dialer.
func (r *remote) startDialing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.dialing {
		return false
	}
	r.mu.dialing = true
	return true
}

func (r *remote) address() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.addr
}

func (r *remote) name() (nodeID string, incarnation uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.nodeID, r.mu.incarnation
}

// failed notes why there is no connection.
func (r *remote) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ref *RefusedError
	if errors.As(err, &ref) {
		r.mu.lastRefusal = ref.Error()
	} else {
		r.mu.lastFail = err.Error()
	}
}

// came notes a connection that was established.
func (r *remote) came(h *hello) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.nodeID = h.nodeID
	r.mu.incarnation = max(r.mu.incarnation, h.incarnation)
	r.mu.since = time.Now()
	r.mu.lastRefusal, r.mu.lastFail = "", ""
}

// went notes that connection c broke, why.
func (r *remote) went(c *conn, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.since = time.Now()
	r.mu.sent += c.sent.Load()
	r.mu.received += c.nc.received.Load()
	r.mu.lastFail = why.Error()
}

func (r *remote) status() PeerStatus {
	c := r.conn.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := PeerStatus{RaftID: r.id, NodeID: r.mu.nodeID, Addr: r.mu.addr, Since: r.mu.since, Dropped: r.dropped.Load(),
		SentBytes: r.mu.sent, ReceivedBytes: r.mu.received, LastRefusal: r.mu.lastRefusal, LastError: r.mu.lastFail}
	if c != nil {
		s.Up, s.RTT, s.QueuedBytes = true, time.Duration(c.rtt.Load()), c.out.size()
		s.SentBytes += c.sent.Load()
		s.ReceivedBytes += c.nc.received.Load()
		if s.Addr == "" {
			s.Addr = c.nc.RemoteAddr().String()
		}
	}
	return s
}
