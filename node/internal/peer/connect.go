package peer

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

// counted counts what a connection receives: the sign of life beat looks at.
type counted struct {
	net.Conn
	received atomic.Uint64 // written by the reader, read by beat and status
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(uint64(n))
	return n, err
}

// hello of this node, for a connection to wanted.
func (t *Transport) hello(purpose uint8, wanted uint64) hello {
	self, _, _ := t.self()
	return hello{version: protocolVersion, purpose: purpose, clusterID: self.ClusterID, raftID: self.RaftID, wanted: wanted,
		incarnation: self.Incarnation, cluster: self.Cluster, nodeID: self.NodeID}
}

// accept takes connections until the listener is closed.
func (t *Transport) accept() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		nc, err := t.ln.Accept()
		if err != nil {
			if t.ctx.Err() != nil {
				return
			}
			// Out of file descriptors, most likely: the ones in use will be given back.
			if t.refusals.allow("accept", 0) {
				t.cfg.Logger.Error("accepting peer connections", "layer", "L2", "err", err)
			}
			pause.Reset(acceptPause)
			select {
			case <-pause.C:
			case <-t.ctx.Done():
				return
			}
			continue
		}
		select {
		case t.greeting <- struct{}{}:
		default:
			_ = nc.Close() // more handshakes than MaxGreeting: the dialer comes again
			continue
		}
		c := &counted{Conn: nc}
		if !t.track(c) {
			return
		}
		t.wg.Go(func() {
			defer t.untrack(c)
			t.accepted(c)
		})
	}
}

const acceptPause = 50 * time.Millisecond

// accepted does the acceptor's side of the handshake and serves the connection.
func (t *Transport) accepted(nc *counted) {
	h, fr, ok := t.receive(nc)
	<-t.greeting
	if !ok {
		return
	}
	switch h.purpose {
	case forPeer:
		t.mu.Lock()
		r, handler := t.remoteLocked(h.raftID), t.mu.handler
		t.mu.Unlock()
		if c := t.install(r, handler, nc, fr, &h); c != nil {
			c.serve()
		}
	case forSnapshot:
		t.serveSnapshot(nc, fr, &h)
		<-t.aux
	case forForm:
		t.serveForm(nc, fr)
		<-t.aux
	}
}

// receive reads a hello and welcomes or refuses it. With ok, an aux slot is held
// unless the connection is a peer's.
func (t *Transport) receive(nc *counted) (h hello, fr *frameReader, ok bool) {
	_ = nc.SetDeadline(time.Now().Add(HandshakeTimeout))
	fr = newFrameReader(nc, maxHelloBytes)
	h, err := readHello(fr)
	known := &h
	var r *RefusedError
	switch {
	case err != nil && t.ctx.Err() != nil, errors.Is(err, io.EOF):
		return h, nil, false // closing, or a port check
	case err != nil:
		r, known = &RefusedError{Code: RefusedMalformed, Text: err.Error(), Local: true}, nil
	default:
		r = t.refusal(&h, false)
	}
	if r == nil && h.purpose != forPeer {
		select {
		case t.aux <- struct{}{}:
		default:
			r = &RefusedError{Code: RefusedBusy, Text: "too many snapshot and forming connections", Local: true}
		}
	}
	if r != nil {
		r.Addr = nc.RemoteAddr().String()
		t.noteRefusal(r, known)
		_, _ = nc.Write(appendFrame(nil, &frame{typ: typeRefuse, body: appendRefusal(nil, r)}))
		return h, nil, false
	}
	w := t.hello(h.purpose, h.raftID)
	_, err = nc.Write(appendFrame(nil, &frame{typ: typeWelcome, body: w.append(nil)}))
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil && h.purpose != forPeer {
		<-t.aux
	}
	return h, fr, err == nil
}

// link is a connection this node dialled and was welcomed on.
type link struct {
	nc  *counted
	fr  *frameReader
	got hello
	// release ends the tie to the context it was dialled under, and closes it.
	release func()
}

// connect dials an address and does the dialer's side of the handshake. The
// connection is closed when ctx ends.
func (t *Transport) connect(ctx context.Context, addr string, purpose uint8, wanted uint64, maxBody int) (*link, error) {
	d := net.Dialer{Timeout: t.cfg.DialTimeout}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	nc := &counted{Conn: raw}
	if !t.track(nc) {
		return nil, ErrClosed
	}
	untie := context.AfterFunc(ctx, func() { _ = nc.Close() })
	release := func() {
		untie()
		t.untrack(nc)
	}
	fr, got, err := greet(nc, t.hello(purpose, wanted), maxBody)
	if err == nil {
		r := t.refusal(&got, true)
		if r == nil && wanted != 0 && got.raftID != wanted {
			r = &RefusedError{Code: RefusedWrongNode, Text: "another node listens at this address", Local: true}
		}
		if r == nil && got.purpose != purpose {
			r = &RefusedError{Code: RefusedMalformed, Text: "welcome for another purpose", Local: true}
		}
		if r == nil {
			return &link{nc, fr, got, release}, nil
		}
		err = r
	}
	release()
	var r *RefusedError
	if errors.As(err, &r) {
		r.Addr = addr
		t.noteRefusal(r, nil)
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return nil, err
}

// steadyAfter: a connection that lived this long was a good one, the next
// attempt is made at once.
const steadyAfter = time.Second

// dial keeps a connection to r until r is removed or the transport closes.
func (t *Transport) dial(r *remote, h Handler) {
	pause := t.cfg.RedialMin
	timer := time.NewTimer(0)
	defer timer.Stop()
	for r.ctx.Err() == nil {
		if addr := r.address(); addr != "" {
			began := time.Now()
			l, err := t.connect(r.ctx, addr, forPeer, r.id, t.cfg.MaxFrameBytes)
			if err == nil {
				if c := t.install(r, h, l.nc, l.fr, &l.got); c != nil {
					c.serve()
				}
				l.release()
			} else if r.ctx.Err() == nil {
				r.failed(err)
				t.cfg.Logger.Debug("dialling peer", "layer", layer, "peer", addr, "err", err)
			}
			if time.Since(began) > steadyAfter && err == nil {
				pause = t.cfg.RedialMin
				continue
			}
		}
		timer.Reset(pause/2 + rand.N(pause/2+1))
		pause = min(2*pause, t.cfg.RedialMax)
		select {
		case <-timer.C:
		case <-r.kick:
			pause = t.cfg.RedialMin
		case <-r.ctx.Done():
		}
	}
}
