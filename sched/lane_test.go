package sched

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// laneModel is a lane beside the slice it should be like.
type laneModel struct {
	l      *lane
	model  []item
	next   Handle
	hidden int // of the model's end, not published
}

// TestLaneModel compares a lane with a slice, step by step.
func TestLaneModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &laneModel{l: newLane(), next: 1}
		drawStart(t, m.l)
		t.Repeat(rapid.StateMachineActions(m))
	})
}

func (m *laneModel) expect(t *rapid.T, got []Handle) {
	for i, h := range got {
		if h != m.model[i].handle {
			t.Fatalf("handle %d is %d, want %d", i, h, m.model[i].handle)
		}
	}
	m.model = m.model[len(got):]
}

func (m *laneModel) Push(t *rapid.T) {
	xs := make([]item, rapid.IntRange(0, 100).Draw(t, "n"))
	for i := range xs {
		xs[i] = item{m.next, int64(m.next)}
		m.next++
	}
	n := m.l.push(xs)
	if want := min(len(xs), laneSlots-len(m.model)); n != want {
		t.Fatalf("push took %d, want %d", n, want)
	}
	m.model = append(m.model, xs[:n]...)
	m.hidden = 0
}

func (m *laneModel) Add(t *rapid.T) {
	if got, want := m.l.add(item{m.next, int64(m.next)}), len(m.model) < laneSlots; got != want {
		t.Fatalf("add is %t", got)
	} else if got {
		m.model = append(m.model, item{m.next, int64(m.next)})
		m.next++
		m.hidden++
	}
}

func (m *laneModel) Publish(*rapid.T) {
	m.l.publish()
	m.hidden = 0
}

func (m *laneModel) Claim(t *rapid.T) {
	buf := make([]Handle, rapid.IntRange(0, 300).Draw(t, "n"))
	n := m.l.claim(buf)
	seen := len(m.model) - m.hidden
	switch want := min(len(buf), seen); {
	case seen > 0 && n != want:
		t.Fatalf("claim took %d, want %d", n, want)
	case seen == 0 && n != min(len(buf), m.hidden):
		t.Fatalf("claim took %d of %d unpublished", n, m.hidden)
	case seen == 0 && n > 0:
		m.hidden = 0
	}
	m.expect(t, buf[:n])
}

func (m *laneModel) Steal(t *rapid.T) {
	out := make([]item, rapid.IntRange(0, 200).Draw(t, "n"))
	halves := rapid.Uint32Range(1, 2).Draw(t, "halves")
	n, left := m.l.steal(out, halves)
	size := len(m.model) - m.hidden
	if want := min(len(out), max(size*int(halves)/2, min(size, 1))); n != want {
		t.Fatalf("steal of %d took %d, want %d", size, n, want)
	}
	if n > 0 && left != (n < size) {
		t.Fatalf("left is %t after %d of %d", left, n, size)
	}
	hs := make([]Handle, n)
	for i := range hs {
		hs[i] = out[i].handle
	}
	m.expect(t, hs)
}

func (m *laneModel) Check(t *rapid.T) {
	seen := len(m.model) - m.hidden
	if m.l.size() != seen || m.l.stealable() != (seen > 0) || m.l.unpublished() != (m.hidden > 0) {
		t.Fatalf("size %d, stealable %t, want %d", m.l.size(), m.l.stealable(), seen)
	}
	millis, ok := m.l.oldest()
	if ok != (len(m.model) > 0) || ok && millis != m.model[0].millis {
		t.Fatalf("oldest %d %t", millis, ok)
	}
	if seen > 0 && m.l.since.Load() > millis {
		t.Fatalf("since %d is later than the oldest, %d", m.l.since.Load(), millis)
	}
}

// drawStart has some lanes begin just before their positions wrap at 2³².
func drawStart(t *rapid.T, l *lane) {
	if start := uint32(0) - uint32(rapid.IntRange(0, 600).Draw(t, "before wrap")); rapid.Bool().Draw(t, "wrap") {
		l.tail.Store(start)
		l.head.Store(pack(start, start))
		l.seen, l.told, l.next = start, start, start
	}
}

// queue is what the accounting checker drives: the lane, and lanes with
// planted bugs.
type queue interface {
	push(xs []item) int
	claim(buf []Handle) int
	steal(out []item, halves uint32) (int, bool)
}

// runLane has an owner push and take while thieves steal; what a push does not
// take goes where keepRest says. It returns what the account says.
func runLane(q queue, handles, thieves int, keepRest bool) error {
	acc := newAccount(handles)
	var rest injector
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range thieves {
		wg.Go(func() {
			out := make([]item, stealRun)
			for !stop.Load() {
				n, _ := q.steal(out, 1)
				for _, x := range out[:n] {
					if int(x.handle) >= handles {
						continue // a slot never written
					}
					acc.got([]Handle{x.handle})
				}
				runtime.Gosched()
			}
		})
	}
	buf := make([]Handle, 3)
	xs := make([]item, 0, 50)
	for h := 0; h < handles; {
		xs = xs[:0]
		for range min(1+h%50, handles-h) {
			xs = append(xs, item{handle: Handle(h)})
			h++
		}
		if n := q.push(xs); n < len(xs) && keepRest {
			rest.push(xs[n:])
		}
		acc.got(buf[:q.claim(buf)])
	}
	for n := 1; n > 0; {
		n = q.claim(buf)
		acc.got(buf[:n])
	}
	stop.Store(true)
	wg.Wait()
	for n := 1; n > 0; {
		n = rest.take(buf)
		acc.got(buf[:n])
	}
	return acc.check()
}

func TestLaneExactlyOnce(t *testing.T) {
	for _, procs := range []int{2, 4} {
		t.Run(fmt.Sprintf("procs=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			if err := runLane(newLane(), 60_000, 3, true); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// earlyReader is a ring whose takers read before they claim, which is right
// as long as the claim notices that the position moved. Its slots are atomic,
// so that of the bugs that can be planted the race detector says nothing and
// the account has to.
type earlyReader struct {
	head, tail atomic.Uint32
	slots      [8]atomic.Uint64
	unchecked  bool // the claim does not look whether the position moved
	late       bool // the claim frees the slots before they are read
}

func (l *earlyReader) push(xs []item) int {
	t := l.tail.Load()
	n := max(0, min(len(xs), len(l.slots)-int(int32(t-l.head.Load()))))
	for i, x := range xs[:n] {
		l.slots[(t+uint32(i))%8].Store(uint64(x.handle))
	}
	l.tail.Store(t + uint32(n))
	return n
}

func (l *earlyReader) claim(buf []Handle) int {
	for {
		h := l.head.Load()
		if int32(l.tail.Load()-h) <= 0 {
			return 0
		}
		buf[0] = Handle(l.slots[h%8].Load())
		if l.head.CompareAndSwap(h, h+1) {
			return 1
		}
	}
}

func (l *earlyReader) steal(out []item, _ uint32) (int, bool) {
	h := l.head.Load()
	if int32(l.tail.Load()-h) <= 0 {
		return 0, false
	}
	if l.late {
		if !l.head.CompareAndSwap(h, h+1) {
			return 0, true
		}
		for try := 0; try < 1000 && l.tail.Load()-h <= 8; try++ {
			runtime.Gosched() // until the owner has pushed over it
		}
		out[0].handle = Handle(l.slots[h%8].Load())
		return 1, false
	}
	out[0].handle = Handle(l.slots[h%8].Load())
	runtime.Gosched()
	if l.unchecked {
		l.head.Store(h + 1)
		return 1, false
	}
	if !l.head.CompareAndSwap(h, h+1) {
		return 0, true
	}
	return 1, false
}

// TestPlantedBugs shows that the account would notice.
func TestPlantedBugs(t *testing.T) {
	if err := runLane(&earlyReader{}, 20_000, 3, true); err != nil {
		t.Errorf("the queue without a planted bug: %v", err)
	}
	caught := func(name string, run func() error) {
		t.Run(name, func(t *testing.T) {
			// On an idle machine the first run shows it; on a busy one, where
			// owner and thieves seldom run at once, it may take some.
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
				if err := run(); err != nil {
					t.Log("caught: ", err)
					return
				}
			}
			t.Fatal("not caught")
		})
	}
	caught("partial push ignored", func() error { return runLane(newLane(), 20_000, 1, false) })
	caught("freed before read", func() error { return runLane(&earlyReader{late: true}, 20_000, 3, true) })
	caught("claim unchecked", func() error { return runLane(&earlyReader{unchecked: true}, 20_000, 3, true) })
}

// TestLanePinned stops a thief in the middle of its copy: the owner goes on,
// other thieves find nothing, and the space is not reused.
func TestLanePinned(t *testing.T) {
	l := newLane()
	xs := make([]item, laneSlots)
	for i := range xs {
		xs[i].handle = Handle(i)
	}
	l.push(xs)
	l.head.Store(pack(0, 100)) // a thief claimed 100 and copies
	if n, left := l.steal(make([]item, 10), 1); n != 0 || left {
		t.Errorf("a second thief took %d, left %t", n, left)
	}
	if l.stealable() {
		t.Error("stealable while pinned: a parking worker would turn round for ever")
	}
	buf := make([]Handle, 1)
	if l.claim(buf) != 1 || buf[0] != 100 {
		t.Errorf("the owner took %d", buf[0])
	}
	if n := l.push(xs[:5]); n != 0 {
		t.Errorf("%d pushed over what the thief reads", n)
	}
	_, real := unpack(l.head.Load())
	l.head.Store(pack(real, real)) // it is done
	if n := l.push(xs[:200]); n != 101 {
		t.Errorf("%d pushed, want 101", n)
	}
}
