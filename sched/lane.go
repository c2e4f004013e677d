package sched

import "sync/atomic"

// laneSlots bounds a lane: 256·16 bytes are a page. What does not fit goes to
// the class's injector, where everybody finds it.
const laneSlots = 256

// publishRun is how many handles add may leave unpublished.
const publishRun = 32

// lane is a bounded FIFO of one worker's own pushes of one class and band.
// Its owner pushes; owner and thieves take, oldest first. What the owner added
// and did not publish yet is its alone, and it takes that without an atomic.
//
// Slots are plain and claimed before they are read (after Tokio's queue). Head
// holds two positions: real, the next handle nobody claimed, and steal, the
// first one a thief may still be reading; they differ only while a thief is
// copying. The owner writes a slot only if it is laneSlots before steal.
//
// push is wait-free. claim is lock-free: its compare-and-swap fails only when
// a thief's succeeded. steal is obstruction-free towards other thieves: while
// one copies, the others find the lane busy and look elsewhere; a thief taken
// off its thread there holds back laneSlots of space and nothing else.
//
// What else was built and measured, bare, behind one seam (BenchmarkDesigns),
// ns: own push and take 1 / 32; that under 3 thieves; handed off in ≤ 32; a
// steal of 32, a call, alone / with 3 thieves; and (on a loaded machine) the
// larger of two workers' shares of long bodies, 1 being fair:
//
//	ring, each push published        7.1 / 1.4   17   20   53 / 85    1.2   chosen
//	ring, published by runs          6.9 / 1.9    8    9   54 / 102   1.4   PushLater
//	ring, owner claims 16 ahead      11  / 1.0   43   22   55 / 92    1.4   what it claimed nobody can steal
//	block queue (BWoS)               8.9 / 1.3   11   16   72 / 163   1.7   a whole block or nothing
type lane struct {
	// head is steal<<32 | real. Written by owner and thieves; partner of each
	// write is the load before the next (claim, steal, push for the space).
	head atomic.Uint64
	_    [cacheLine - 8]byte
	// tail is where the owner pushes next. Its store publishes the slots before
	// it; partner: the loads in steal, size and stealable. A sequentially
	// consistent store, because the owner looks for waiting workers next.
	tail atomic.Uint32
	// The owner's: tail as it stored it, the end of what it added since, a
	// position steal has reached, and that its last claim emptied what was
	// published.
	told, next, seen uint32
	drained          bool
	// since is no later than the ready time of the oldest handle; for Depths.
	since atomic.Int64
	_     [cacheLine - 32]byte
	slots [laneSlots]item
}

func unpack(h uint64) (steal, real uint32) { return uint32(h >> 32), uint32(h) }
func pack(steal, real uint32) uint64       { return uint64(steal)<<32 | uint64(real) }

// push appends as many of xs as fit, publishes them and returns how many.
// Owner only.
func (l *lane) push(xs []item) int {
	n := min(len(xs), l.room(len(xs)))
	if n == 1 {
		l.slots[l.next%laneSlots] = xs[0]
	} else {
		k := copy(l.slots[l.next%laneSlots:], xs[:n])
		copy(l.slots[:], xs[k:n])
	}
	l.next += uint32(n)
	l.publish()
	return n
}

// add appends x unpublished; false when the lane is full. Owner only.
func (l *lane) add(x item) bool {
	if l.next-l.seen >= laneSlots && l.room(1) == 0 {
		return false
	}
	l.slots[l.next%laneSlots] = x
	l.next++
	return true
}

// room says how many slots are free, at least want if there are so many.
func (l *lane) room(want int) int {
	if laneSlots-int(l.next-l.seen) < want {
		l.seen, _ = unpack(l.head.Load())
	}
	return laneSlots - int(l.next-l.seen)
}

// publish lets thieves see what was added. Owner only.
func (l *lane) publish() {
	if l.next == l.told {
		return
	}
	if l.drained {
		l.drained = false
		l.noteSince(l.slots[l.told%laneSlots].millis)
	}
	l.told = l.next
	l.tail.Store(l.next)
}

// unpublished says that the owner added what nobody else can see.
func (l *lane) unpublished() bool { return l.next != l.told }

// claim takes up to len(buf) handles, those published first. Owner only: it
// reads what it claimed before it can push over it.
func (l *lane) claim(buf []Handle) int {
	for {
		h := l.head.Load()
		steal, real := unpack(h)
		n := min(int(l.told-real), len(buf))
		if n == 0 {
			return l.claimAdded(buf)
		}
		to := real + uint32(n)
		if steal == real {
			steal = to
		}
		if !l.head.CompareAndSwap(h, pack(steal, to)) {
			continue
		}
		for i := range buf[:n] {
			buf[i] = l.slots[(real+uint32(i))%laneSlots].handle
		}
		if l.drained = to == l.told; !l.drained {
			l.noteSince(l.slots[to%laneSlots].millis)
		}
		return n
	}
}

// claimAdded takes what was never published, which costs no atomic operation,
// if buf has room for all of it; else it publishes it.
func (l *lane) claimAdded(buf []Handle) int {
	n := int(l.next - l.told)
	if n == 0 || len(buf) == 0 {
		return 0
	}
	if n > len(buf) {
		l.publish()
		return l.claim(buf)
	}
	for i := range buf[:n] {
		buf[i] = l.slots[(l.told+uint32(i))%laneSlots].handle
	}
	l.next = l.told
	return n
}

// oldest peeks at the ready time of the oldest handle. Owner only: nobody else
// writes slots. A thief may take the handle meanwhile.
func (l *lane) oldest() (millis int64, ok bool) {
	_, real := unpack(l.head.Load())
	if real == l.next {
		return 0, false
	}
	return l.slots[real%laneSlots].millis, true
}

func (l *lane) noteSince(millis int64) {
	if l.since.Load() != millis {
		l.since.Store(millis)
	}
}

// steal takes up to halves/2 of what is there, at least one, and says whether
// some may be left that nobody is taking. Anyone. (Positions wrap after 2³²
// handles: a thief would have to stand between its load and its claim for
// exactly so many.)
func (l *lane) steal(out []item, halves uint32) (n int, left bool) {
	h := l.head.Load()
	steal, real := unpack(h)
	if steal != real {
		return 0, false // that thief looks after the rest
	}
	size := l.tail.Load() - real
	n = min(len(out), max(int(size*halves/2), min(int(size), 1)))
	if n == 0 || size > laneSlots {
		return 0, size > laneSlots // head was old: others are at it
	}
	to := real + uint32(n)
	if !l.head.CompareAndSwap(h, pack(steal, to)) {
		return 0, true
	}
	k := copy(out[:n], l.slots[real%laneSlots:])
	copy(out[k:n], l.slots[:])
	for {
		h = l.head.Load()
		_, real = unpack(h) // the owner may have claimed behind us
		if l.head.CompareAndSwap(h, pack(real, real)) {
			return n, l.tail.Load() != real
		}
	}
}

// size counts what is published and nobody claimed; exact when nothing moves.
func (l *lane) size() int {
	_, real := unpack(l.head.Load())
	return int(min(l.tail.Load()-real, laneSlots))
}

func newLane() *lane { return &lane{drained: true} }

// stealable says that a thief would find something now. A lane another thief
// is at does not count: that one looks for waiting workers when it is done.
func (l *lane) stealable() bool {
	steal, real := unpack(l.head.Load())
	return steal == real && l.tail.Load() != real
}
