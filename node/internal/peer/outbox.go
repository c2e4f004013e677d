package peer

import "sync"

// outbox is what waits to be written to one connection: encoded frames, end to
// end. Senders append under the lock; the one writer takes the whole of it,
// writes it in one call and gives the memory back. Under load a write carries
// everything that was queued while the one before it was under way, without a
// timer; an idle connection pays one wake-up.
//
// Rejected: a channel of frames and net.Buffers (a wake-up and an iovec per
// frame; copying 64 KiB costs less than the CRC over it).
type outbox struct {
	limit int           // bytes, waiting and being written
	wake  chan struct{} // capacity 1: there is something, or it is closed

	mu struct {
		sync.Mutex
		space   sync.Cond // room was made, or it is closed
		pending []byte
		writing int    // bytes the writer has taken and not finished
		queued  uint64 // bytes ever accepted
		taken   uint64 // of these, taken by the writer
		closed  bool
	}
}

// lane says how much of the limit a frame may use, and what happens above.
type lane uint8

const (
	laneCall  lane = iota // half; refused
	laneRaft              // all; refused
	laneReply             // all; waits
	laneBeat              // a few bytes, always accepted
)

// keptBufferBytes: a write buffer over this is not kept for the next batch.
const keptBufferBytes = 4 << 20

func newOutbox(limit int) *outbox {
	o := &outbox{limit: limit, wake: make(chan struct{}, 1)}
	o.mu.space.L = &o.mu.Mutex
	return o
}

// put queues a frame. start is the position of its first byte, to be compared
// with what was taken when the connection broke. Errors: ErrPeerDown (closed),
// ErrOverloaded.
func (o *outbox) put(l lane, f *frame, compressAbove int) (start uint64, err error) {
	body, flags := f.body, uint8(0)
	if compressAbove > 0 && len(body) > compressAbove {
		buf := scratch.Get().(*[]byte)
		defer scratch.Put(buf)
		body, flags = compress(buf, body)
	}
	var h head
	f.seal(&h, flags, body)
	n := h.n + len(body)

	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.mu.closed && !o.fits(l, n) {
		if l != laneReply {
			return 0, ErrOverloaded
		}
		o.mu.space.Wait()
	}
	if o.mu.closed {
		return 0, ErrPeerDown
	}
	start = o.mu.queued
	o.mu.queued += uint64(n)
	if len(o.mu.pending) == 0 {
		select { // the first of a batch wakes the writer
		case o.wake <- struct{}{}:
		default:
		}
	}
	o.mu.pending = append(append(o.mu.pending, h.b[:h.n]...), body...)
	return start, nil
}

// fits reports whether n more bytes may be queued; the lock is held.
func (o *outbox) fits(l lane, n int) bool {
	total := len(o.mu.pending) + o.mu.writing + n
	switch l {
	case laneBeat:
		return true
	case laneCall:
		return total <= o.limit/2
	}
	return total <= o.limit
}

// take hands everything queued to the writer and takes back the memory of the
// batch before. ok is false when the outbox is closed. The writer only.
func (o *outbox) take(done []byte) (batch []byte, ok bool) {
	for {
		o.mu.Lock()
		if o.mu.writing > 0 {
			o.mu.writing = 0
			o.mu.space.Broadcast()
		}
		if o.mu.closed {
			o.mu.Unlock()
			return nil, false
		}
		if len(o.mu.pending) > 0 {
			batch = o.mu.pending
			if cap(done) > keptBufferBytes {
				done = nil
			}
			o.mu.pending = done[:0]
			o.mu.writing = len(batch)
			o.mu.taken += uint64(len(batch))
			o.mu.Unlock()
			return batch, true
		}
		o.mu.Unlock()
		<-o.wake
	}
}

// close refuses everything from now on and reports how much was ever taken.
func (o *outbox) close() (taken uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.mu.closed {
		o.mu.closed = true
		o.mu.space.Broadcast()
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
	return o.mu.taken
}

// size is the bytes waiting or being written.
func (o *outbox) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.mu.pending) + o.mu.writing
}
