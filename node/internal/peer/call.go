package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// call is one Call that waits. Whoever takes it out of the table sends to done,
// once; so it can be used again.
type call struct {
	done chan answer // capacity 1
}

type answer struct {
	status uint8
	broken bool   // the connection ended
	taken  uint64 // broken: bytes the writer had taken
	body   []byte
}

var callPool = sync.Pool{New: func() any { return &call{done: make(chan answer, 1)} }}

// callTable holds the calls of one connection that wait for an answer.
type callTable struct {
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*call // nil = the connection ended
}

func (ct *callTable) add(c *call) (id uint64, ok bool) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if ct.waiting == nil {
		return 0, false
	}
	ct.last++
	ct.waiting[ct.last] = c
	return ct.last, true
}

// remove takes a call out; nil means that someone else did and its answer comes.
func (ct *callTable) remove(id uint64) *call {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	c := ct.waiting[id]
	delete(ct.waiting, id)
	return c
}

// answer delivers a response; one to a call that gave up is nobody's.
func (ct *callTable) answer(f *frame) {
	if c := ct.remove(f.id); c != nil {
		c.done <- answer{status: f.kind, body: f.body}
	}
}

// fail ends every call, when the connection did.
func (ct *callTable) fail(taken uint64) {
	ct.mu.Lock()
	all := ct.waiting
	ct.waiting = nil
	ct.mu.Unlock()
	for _, c := range all {
		c.done <- answer{broken: true, taken: taken}
	}
}

// Call asks a peer and waits for the answer; ctx bounds the wait and its
// deadline is passed on. Errors: *RemoteError; ErrPeerDown, ErrOverloaded,
// ErrTooLarge (certainly not delivered); ErrCallLost (unknown), which wraps the
// error of ctx if that was the reason.
func (t *Transport) Call(ctx context.Context, to uint64, method uint8, body []byte) ([]byte, error) {
	_, c := t.conn(to)
	if c == nil {
		return nil, ErrPeerDown
	}
	if len(body) > t.cfg.MaxFrameBytes {
		return nil, ErrTooLarge
	}
	var millis uint32
	if d, ok := ctx.Deadline(); ok {
		millis = uint32(min(max(time.Until(d).Milliseconds(), 1), 1<<32-1))
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("peer: call: %w", err)
	}
	return c.call(ctx, &frame{typ: typeRequest, kind: method, millis: millis, body: body})
}

func (c *conn) call(ctx context.Context, f *frame) ([]byte, error) {
	w := callPool.Get().(*call)
	id, ok := c.calls.add(w)
	if !ok {
		callPool.Put(w)
		return nil, ErrPeerDown
	}
	f.id = id
	start, err := c.out.put(laneCall, f, c.compressAbove)
	if err != nil {
		if c.calls.remove(id) == nil {
			<-w.done // the connection ended at the same moment
		}
		callPool.Put(w)
		return nil, err
	}
	var a answer
	select {
	case a = <-w.done:
	case <-ctx.Done():
		if c.calls.remove(id) != nil {
			callPool.Put(w)
			_, _ = c.out.put(laneRaft, &frame{typ: typeCancel, id: id}, 0)
			return nil, fmt.Errorf("%w: %w", ErrCallLost, ctx.Err())
		}
		a = <-w.done
	}
	callPool.Put(w)
	switch {
	case a.broken && start >= a.taken:
		return nil, ErrPeerDown // never left the queue
	case a.broken:
		return nil, ErrCallLost
	case a.status == statusOK:
		return a.body, nil
	case a.status == statusOverloaded:
		return nil, ErrOverloaded
	case a.status == statusLost:
		return nil, fmt.Errorf("%w: the handler ran out of time", ErrCallLost)
	}
	return nil, parseError(a.body)
}

// request runs the handler for a request, in a goroutine of its own.
func (c *conn) request(f *frame) {
	id, method, body := f.id, f.kind, f.body
	if c.inflight.Add(1) > MaxInflightRequests {
		c.inflight.Add(-1)
		// When even this finds no room the caller waits for its own deadline.
		_, _ = c.out.put(laneRaft, &frame{typ: typeResponse, id: id, kind: statusOverloaded}, 0)
		return
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if f.millis > 0 {
		ctx, cancel = context.WithTimeout(c.ctx, time.Duration(f.millis)*time.Millisecond)
	} else {
		ctx, cancel = context.WithCancel(c.ctx)
	}
	c.running.Lock()
	c.running.cancel[id] = cancel
	c.running.Unlock()
	c.t.wg.Go(func() {
		out, err := c.h.Request(ctx, c.peer.id, method, body)
		c.running.Lock()
		delete(c.running.cancel, id)
		c.running.Unlock()
		cancel()
		c.respond(id, out, err)
		c.inflight.Add(-1)
	})
}

// respond queues an answer, waiting for room; it is lost with the connection.
func (c *conn) respond(id uint64, out []byte, err error) {
	f := frame{typ: typeResponse, id: id, body: out}
	if err == nil && len(out) > c.t.cfg.MaxFrameBytes {
		err = &RemoteError{Code: "answer_too_large", Text: fmt.Sprintf("%d bytes, the limit is %d", len(out), c.t.cfg.MaxFrameBytes)}
	}
	if err != nil {
		var re *RemoteError
		switch {
		case errors.Is(err, ErrOverloaded):
			f.kind, f.body = statusOverloaded, nil
		case errors.Is(err, ErrCallLost), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			f.kind, f.body = statusLost, nil
		case errors.As(err, &re):
			f.kind, f.body = statusError, appendError(nil, re)
		default:
			f.kind, f.body = statusError, appendError(nil, &RemoteError{Code: CodeInternal, Text: err.Error()})
		}
		f.body = f.body[:min(len(f.body), c.t.cfg.MaxFrameBytes)]
	}
	_, _ = c.out.put(laneReply, &f, c.compressAbove)
}
