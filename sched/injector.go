package sched

import "sync/atomic"

const (
	cacheLine = 128 // two lines: the prefetcher fetches them in pairs
	// blockSlots fills a block to the allocator's size class: 2·128 bytes of
	// heads and 496·16 of slots are 8,192; 16.5 bytes a handle.
	blockSlots = 496
	// publishSpins is how often a taker looks again at a slot that was claimed
	// and not yet published, before it gives the slot up.
	publishSpins = 16
)

// What the two low bits of a slot's stamp say. A stamp leaves slotEmpty once
// and never changes again.
const (
	slotEmpty  = 0
	slotFull   = 1
	slotVoided = 2
	stampBits  = 2
)

// injector is an unbounded FIFO with any number of pushers and takers: a list
// of blocks, each filled and drained once (after the FAA array queue of
// Ramalhete and Correia, with claims of a whole run). Blocks are not reused;
// the collector frees them, and with that nothing has to be proved about a
// slow reader of an old block (no ABA, no hazard pointers).
//
// push is lock-free: one fetch-and-add claims slots, one compare-and-swap
// publishes each; it starts over only if a taker voided its slot, and a taker
// does that only when it can take another instead, so the system moved.
// take is lock-free: its claim fails only if another's succeeded.
type injector struct {
	head atomic.Pointer[block] // takers; at or behind tail except while tail lags
	_    [cacheLine - 8]byte
	tail atomic.Pointer[block] // pushers
	_    [cacheLine - 8]byte
}

type block struct {
	enq   atomic.Uint64 // slots claimed by pushers; runs past blockSlots when full
	_     [cacheLine - 8]byte
	deq   atomic.Uint64 // slots claimed by takers
	next  atomic.Pointer[block]
	base  uint64 // handles before this block, since the beginning
	_     [cacheLine - 24]byte
	slots [blockSlots]slot
}

// slot is written by the pusher that claimed it. handle is plain: written
// before the stamp is set (partner: the loads of stamp in front and take), read
// by the one taker whose claim of deq covers it.
type slot struct {
	stamp  atomic.Uint64 // millis<<stampBits | slotFull, or slotEmpty or slotVoided
	handle Handle
}

// item is a handle and when its task became ready.
type item struct {
	handle Handle
	millis int64
}

func (q *injector) push(xs []item) {
	for len(xs) > 0 {
		b := q.tail.Load()
		if b == nil {
			b = q.first()
		}
		k := uint64(len(xs))
		i := b.enq.Add(k) - k
		if i >= blockSlots {
			q.extend(b)
			continue
		}
		k = min(k, blockSlots-i)
		for j := range k {
			s := &b.slots[i+j]
			s.handle = xs[j].handle
			if !s.stamp.CompareAndSwap(slotEmpty, uint64(xs[j].millis)<<stampBits|slotFull) {
				q.push(xs[j : j+1])
			}
		}
		xs = xs[k:]
	}
}

// first makes the first block; classes that see no work cost none.
func (q *injector) first() *block {
	if q.head.Load() == nil {
		q.head.CompareAndSwap(nil, &block{})
	}
	// Head moves on only after a block was filled, which takes a tail: whoever
	// still finds none sees the first block.
	q.tail.CompareAndSwap(nil, q.head.Load())
	return q.tail.Load()
}

// extend moves tail behind the full block b.
func (q *injector) extend(b *block) {
	next := b.next.Load()
	if next == nil {
		next = &block{base: b.base + blockSlots}
		if !b.next.CompareAndSwap(nil, next) {
			next = b.next.Load()
		}
	}
	q.tail.CompareAndSwap(b, next)
}

// front finds the oldest published handle. Slots given up on are passed.
func (q *injector) front() (b *block, at uint64, millis int64, ok bool) {
	b = q.head.Load()
	if b == nil {
		return nil, 0, 0, false
	}
	spins := 0
	for {
		at = b.deq.Load()
		if at >= blockSlots {
			next := b.next.Load()
			if next == nil {
				return nil, 0, 0, false
			}
			q.head.CompareAndSwap(b, next)
			b = next
			continue
		}
		s := &b.slots[at]
		switch x := s.stamp.Load(); x & (1<<stampBits - 1) {
		case slotFull:
			return b, at, int64(x) >> stampBits, true
		case slotVoided:
			b.deq.CompareAndSwap(at, at+1)
		default:
			// Nobody has pushed here, or a pusher is between its claim and its
			// stamp. It may be off its thread for long: what was published behind
			// it must not wait, and that alone justifies making it push again.
			if !publishedAfter(b, at) {
				return nil, 0, 0, false
			}
			if spins++; spins > publishSpins {
				s.stamp.CompareAndSwap(slotEmpty, slotVoided)
			}
		}
	}
}

func publishedAfter(b *block, at uint64) bool {
	for at++; b != nil; b, at = b.next.Load(), 0 {
		for end := min(b.enq.Load(), blockSlots); at < end; at++ {
			if b.slots[at].stamp.Load()&slotFull != 0 {
				return true
			}
		}
	}
	return false
}

// take claims a run of at most len(buf) handles, all of one block, and then
// reads it: nobody writes to a published slot again.
func (q *injector) take(buf []Handle) int {
	if len(buf) == 0 {
		return 0
	}
	for {
		b, from, _, ok := q.front()
		if !ok {
			return 0
		}
		to := from
		for n := 0; to < blockSlots && n < len(buf); to++ {
			flag := b.slots[to].stamp.Load() & (1<<stampBits - 1)
			if flag == slotEmpty {
				break
			}
			n += int(flag & slotFull)
		}
		if !b.deq.CompareAndSwap(from, to) {
			continue
		}
		n := 0
		for ; from < to; from++ {
			if b.slots[from].stamp.Load()&slotFull != 0 {
				buf[n] = b.slots[from].handle
				n++
			}
		}
		return n
	}
}

// len counts the handles queued; those being pushed count in, those given up
// on count until they are passed.
func (q *injector) len() int {
	h, t := q.head.Load(), q.tail.Load()
	if h == nil || t == nil {
		return 0
	}
	pushed := t.base + min(t.enq.Load(), blockSlots)
	taken := h.base + h.deq.Load()
	return int(max(pushed, taken) - taken)
}
