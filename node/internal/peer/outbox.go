package peer

import "sync"

// outbox is what waits to be written to one connection: encoded frames, end to
// end, in chunks of memory. Senders append under the lock; the one writer takes a
// chunk and writes it in one call. Under load a write carries what was queued
// while the one before it was under way, without a timer; an idle connection
// pays one wake-up.
//
// Rejected: a channel of frames and net.Buffers (a wake-up and an iovec per
// frame; copying 64 KiB costs less than the CRC over it); one growing buffer
// (a queue that backs up is copied again with each growth: 4 KiB messages into a
// full queue cost 11.7 us each).
type outbox struct {
	limit int           // bytes, waiting and being written
	wake  chan struct{} // capacity 1: there is something, or it is closed

	mu struct {
		sync.Mutex
		space  sync.Cond // room was made, or it is closed
		chunks []*chunk  // waiting, oldest first; only the last has room
		head   int       // chunks before it were taken
		bytes  int       // waiting, and taken but not finished
		queued uint64    // bytes ever accepted
		taken  uint64    // of these, taken by the writer
		held   bool      // something waits and the writer was not woken
		closed bool
	}
}

// chunkBytes is the most one write carries: two full reads of the other side.
const chunkBytes = 128 << 10

type chunk struct {
	n int
	b [chunkBytes]byte
}

var chunkPool = sync.Pool{New: func() any { return new(chunk) }}

// lane says how much of the limit a frame may use, and what happens above.
type lane uint8

const (
	laneCall  lane = iota // half; refused
	laneRaft              // all; refused
	laneHeld              // the same; stays until flush, or until another frame is put
	laneReply             // all; waits
)

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
	o.mu.bytes += n
	if first := o.mu.head == len(o.mu.chunks); l == laneHeld {
		o.mu.held = o.mu.held || first
	} else if first || o.mu.held { // the first of a batch wakes the writer
		o.rouse()
	}
	o.append(h.b[:h.n])
	o.append(body)
	return start, nil
}

// rouse wakes the writer; the lock is held.
func (o *outbox) rouse() {
	o.mu.held = false
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// flush wakes the writer if what waits was held back.
func (o *outbox) flush() {
	o.mu.Lock()
	if o.mu.held {
		o.rouse()
	}
	o.mu.Unlock()
}

// append copies b behind what waits; the lock is held.
func (o *outbox) append(b []byte) {
	for len(b) > 0 {
		if last := len(o.mu.chunks) - 1; last < o.mu.head || o.mu.chunks[last].n == chunkBytes {
			c := chunkPool.Get().(*chunk)
			c.n = 0
			o.mu.chunks = append(o.mu.chunks, c)
		}
		c := o.mu.chunks[len(o.mu.chunks)-1]
		k := copy(c.b[c.n:], b)
		c.n += k
		b = b[k:]
	}
}

// fits reports whether n more bytes may be queued; the lock is held.
func (o *outbox) fits(l lane, n int) bool {
	total := o.mu.bytes + n
	switch l {
	case laneCall:
		return total <= o.limit/2
	}
	return total <= o.limit
}

// take hands the oldest chunk to the writer, waiting for one, and takes back the
// one before, which is written. nil means that the outbox is closed. The writer only.
func (o *outbox) take(done *chunk) *chunk {
	for {
		o.mu.Lock()
		if done != nil {
			o.mu.bytes -= done.n
			o.mu.space.Broadcast()
			chunkPool.Put(done)
			done = nil
		}
		if o.mu.closed {
			o.mu.Unlock()
			return nil
		}
		if o.mu.head < len(o.mu.chunks) {
			c := o.mu.chunks[o.mu.head]
			o.mu.chunks[o.mu.head] = nil
			if o.mu.head++; o.mu.head > len(o.mu.chunks)/2 { // half of it is holes
				o.mu.chunks, o.mu.head = append(o.mu.chunks[:0], o.mu.chunks[o.mu.head:]...), 0
			}
			o.mu.taken += uint64(c.n)
			o.mu.Unlock()
			return c
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
		o.mu.chunks, o.mu.head = nil, 0
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
	return o.mu.bytes
}
