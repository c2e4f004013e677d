package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Why a connection ended, where the network does not say.
var (
	errReplaced = errors.New("replaced by a newer connection")
	errRemoved  = errors.New("peer was removed")
	errSilent   = errors.New("silent for too long")
)

// conn is one established main connection.
type conn struct {
	t             *Transport
	peer          *remote
	h             Handler
	nc            *counted
	fr            *frameReader // owned by read
	out           *outbox
	compressAbove int
	ctx           context.Context // of requests served here
	cancel        context.CancelFunc
	rtt           atomic.Int64  // nanoseconds; stored by read
	sent          atomic.Uint64 // stored by write
	inflight      atomic.Int64  // requests running; added by read, taken off by themselves
	done          chan struct{} // closed when torn down and reported

	calls   callTable
	running struct { // requests that can be cancelled
		sync.Mutex
		cancel map[uint64]context.CancelFunc
	}
	mu struct {
		sync.Mutex
		why error // first reason to close
	}
}

// install makes a fresh connection the one of r, after its predecessor is torn
// down. nil means r was removed or the transport closed.
func (t *Transport) install(r *remote, h Handler, nc *counted, fr *frameReader, hi *hello) *conn {
	r.installing.Lock()
	defer r.installing.Unlock()
	if _, newest := r.name(); hi.incarnation != 0 && hi.incarnation < newest {
		return nil
	}
	if old := r.conn.Load(); old != nil {
		old.shut(errReplaced)
		<-old.done
	}
	if r.ctx.Err() != nil {
		return nil
	}
	fr.max = t.cfg.MaxFrameBytes
	c := &conn{t: t, peer: r, h: h, nc: nc, fr: fr, out: newOutbox(t.cfg.MaxQueueBytes), compressAbove: t.compressAbove(nc), done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(r.ctx)
	c.calls.waiting = make(map[uint64]*call)
	c.running.cancel = make(map[uint64]context.CancelFunc)
	r.came(hi)
	r.conn.Store(c)
	if r.ctx.Err() != nil { // RemovePeer may have looked before the store
		c.shut(errRemoved)
	}
	return c
}

// compressAbove: between processes of one host bytes are cheaper than s2.
func (t *Transport) compressAbove(nc net.Conn) int {
	if t.cfg.CompressAbove != 0 {
		return t.cfg.CompressAbove
	}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok && a.IP.IsLoopback() {
		return -1
	}
	return defaultCompressAbove
}

// serve runs an installed connection to its end.
func (c *conn) serve() {
	c.h.PeerUp(c.peer.id)
	var wg sync.WaitGroup
	stopBeat := make(chan struct{})
	wg.Go(c.write)
	wg.Go(func() { c.beat(stopBeat) })
	err := c.read()
	c.shut(err)
	close(stopBeat)
	wg.Wait()
	c.cancel()
	c.peer.conn.CompareAndSwap(c, nil)
	c.calls.fail(c.out.close())
	c.mu.Lock()
	why := c.mu.why
	c.mu.Unlock()
	c.peer.went(c, why)
	c.t.cfg.Logger.Debug("peer connection ended", "layer", layer, "peer", c.nc.RemoteAddr().String(), "err", why)
	c.h.PeerDown(c.peer.id)
	close(c.done)
}

// shut makes the connection end; the first reason is kept.
func (c *conn) shut(why error) {
	c.mu.Lock()
	if c.mu.why == nil {
		c.mu.why = why
	}
	c.mu.Unlock()
	c.out.close()
	_ = c.nc.Close()
}

// write sends what is queued, a chunk at a time.
func (c *conn) write() {
	var ch *chunk
	for {
		if ch = c.out.take(ch); ch == nil {
			return
		}
		n, err := c.nc.Write(ch.b[:ch.n])
		c.sent.Add(uint64(n))
		if err != nil {
			c.shut(err)
			return
		}
	}
}

// read hands on what arrives until the connection ends, and says why.
func (c *conn) read() error {
	from := c.peer.id
	var f frame
	for {
		if err := c.fr.next(&f); err != nil {
			if isViolation(err) && c.t.refusals.allow(c.nc.RemoteAddr().String(), RefusedMalformed) {
				c.t.cfg.Logger.Warn("peer sent a bad frame; connection closed", "layer", layer, "peer", c.nc.RemoteAddr().String(), "err", err)
			}
			return err
		}
		switch f.typ {
		case typeRaft:
			c.h.Raft(from, f.shard, f.body)
		case typeNotify:
			c.h.Notify(from, f.kind, f.body)
		case typeRequest:
			c.request(&f)
		case typeResponse:
			c.calls.answer(&f)
		case typeCancel:
			c.running.Lock()
			if cancel := c.running.cancel[f.id]; cancel != nil {
				cancel()
			}
			c.running.Unlock()
		case typePing:
			// Dropped when the queue is full: there is traffic enough then.
			_, _ = c.out.put(laneRaft, &frame{typ: typePong, id: f.id}, 0)
		case typePong:
			if rtt := time.Since(c.t.epoch) - time.Duration(f.id); rtt > 0 && rtt < time.Minute {
				c.rtt.Store(int64(rtt))
			}
		default:
			return fmt.Errorf("%w: type %d", errFrameUnasked, f.typ)
		}
	}
}

// isViolation tells a bad frame from a broken connection.
func isViolation(err error) bool {
	for _, e := range []error{errFrameLarge, errFrameShort, errFrameType, errFrameCRC, errFrameS2, errFrameUnasked} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// beat pings, and ends a connection that is silent.
func (c *conn) beat(stop <-chan struct{}) {
	step := min(c.t.cfg.PingInterval, c.t.cfg.DeadAfter/6)
	if until := c.t.cfg.UntilBeat; until != nil {
		self, _, _ := c.t.self()
		t := time.NewTimer(until(self.RaftID))
		defer t.Stop()
		select {
		case <-stop:
			return
		case <-t.C:
		}
	}
	tick := time.NewTicker(step)
	defer tick.Stop()
	last := time.Now()
	heard, pinged := last, last
	var received uint64
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := time.Now()
		if n := c.nc.received.Load(); n != received || now.Sub(last) > 2*step {
			// A tick that comes late means that this process stood still: what
			// arrived meanwhile gets its chance to be read first.
			received, heard = n, now
		}
		last = now
		if now.Sub(heard) >= c.t.cfg.DeadAfter {
			c.shut(fmt.Errorf("%w (%v)", errSilent, c.t.cfg.DeadAfter))
			return
		}
		if now.Sub(pinged) >= c.t.cfg.PingInterval {
			pinged = now
			_, _ = c.out.put(laneRaft, &frame{typ: typePing, id: uint64(now.Sub(c.t.epoch))}, 0)
		}
	}
}
