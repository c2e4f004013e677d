package sched

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

func TestInjectorModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q injector
		var model []item
		next := Handle(0)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				xs := make([]item, rapid.IntRange(1, 700).Draw(t, "n"))
				for i := range xs {
					xs[i] = item{next, int64(next%7) - 3}
					next++
				}
				q.push(xs)
				model = append(model, xs...)
			},
			"take": func(t *rapid.T) {
				buf := make([]Handle, rapid.IntRange(0, 700).Draw(t, "n"))
				n := q.take(buf)
				if n > len(model) || n == 0 && len(model) > 0 && len(buf) > 0 {
					t.Fatalf("took %d of %d", n, len(model))
				}
				for i, h := range buf[:n] {
					if h != model[i].handle {
						t.Fatalf("handle %d, want %d", h, model[i].handle)
					}
				}
				model = model[n:]
			},
			"": func(t *rapid.T) {
				if q.len() != len(model) {
					t.Fatalf("len %d, want %d", q.len(), len(model))
				}
				_, _, millis, ok := q.front()
				if ok != (len(model) > 0) || ok && millis != model[0].millis {
					t.Fatalf("front %d %t", millis, ok)
				}
			},
		})
	})
}

// TestInjectorVoids stops a pusher between its claim and its stamp: the last
// slot is waited for, one with a successor is given up, and the pusher then
// pushes again.
func TestInjectorVoids(t *testing.T) {
	var q injector
	q.push([]item{{handle: 1}})
	b := q.tail.Load()
	b.enq.Add(1) // the slow pusher's claim
	buf := make([]Handle, 8)
	if n := q.take(buf); n != 1 || buf[0] != 1 {
		t.Fatalf("took %d", n)
	}
	if n := q.take(buf); n != 0 || b.slots[1].stamp.Load() != slotEmpty {
		t.Fatal("the last slot was given up: a pusher could be kept busy for ever")
	}
	q.push([]item{{handle: 3}, {handle: 4}})
	if n := q.take(buf); n != 2 || buf[0] != 3 || buf[1] != 4 {
		t.Fatalf("took %v", buf[:n])
	}
	if b.slots[1].stamp.CompareAndSwap(slotEmpty, slotFull) {
		t.Fatal("the slow pusher would publish where nobody looks any more")
	}
	if q.len() != 0 {
		t.Fatalf("len %d", q.len())
	}
}

// TestInjectorVoidsAcrossBlocks is the same with the slow slot the last of its
// block.
func TestInjectorVoidsAcrossBlocks(t *testing.T) {
	var q injector
	xs := make([]item, blockSlots-1)
	q.push(xs)
	buf := make([]Handle, blockSlots)
	for n := 0; n < len(xs); {
		n += q.take(buf)
	}
	q.tail.Load().enq.Add(1)
	q.push([]item{{handle: 9}})
	if n := q.take(buf); n != 1 || buf[0] != 9 {
		t.Fatalf("took %v", buf[:n])
	}
}

// TestInjectorVoidedPush is the other end: what a pusher finds voided it pushes
// again.
func TestInjectorVoidedPush(t *testing.T) {
	var q injector
	q.push([]item{{handle: 1}})
	b := q.tail.Load()
	b.slots[1].stamp.Store(slotVoided)
	b.slots[3].stamp.Store(slotVoided)
	q.push([]item{{handle: 2}, {handle: 3}, {handle: 4}})
	buf := make([]Handle, 8)
	n := q.take(buf)
	slices.Sort(buf[:n])
	if !slices.Equal(buf[:n], []Handle{1, 2, 3, 4}) {
		t.Errorf("took %v", buf[:n])
	}
}

// TestInjectorStress counts what takers got from pushers of single handles and
// of runs, on more threads than cores: a thread taken off between claim and
// stamp has its slots given up.
func TestInjectorStress(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	const pushers, each = 4, 20_000
	var q injector
	acc := newAccount(pushers * each)
	var wg sync.WaitGroup
	for p := range pushers {
		wg.Go(func() {
			for i := 0; i < each; {
				k := min(1+i%3*5, each-i)
				xs := make([]item, k)
				for j := range xs {
					xs[j].handle = Handle(p*each + i + j)
				}
				q.push(xs)
				i += k
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			buf := make([]Handle, 50)
			for acc.left.Load() > 0 {
				n := q.take(buf)
				acc.got(buf[:n])
				if n == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	if err := acc.check(); err != nil {
		t.Fatal(err)
	}
}

func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(block{}); n != 8192 {
		t.Errorf("a block is %d bytes, not a size class", n)
	}
	for name, off := range map[string]uintptr{
		"lane.tail": unsafe.Offsetof(lane{}.tail), "lane.slots": unsafe.Offsetof(lane{}.slots),
		"block.deq": unsafe.Offsetof(block{}.deq), "block.slots": unsafe.Offsetof(block{}.slots),
		"injector.tail": unsafe.Offsetof(injector{}.tail), "bitPage.words": unsafe.Offsetof(bitPage{}.words),
	} {
		if off%cacheLine != 0 {
			t.Errorf("%s is at %d", name, off)
		}
	}
}

// TestMillionQueuedBytes is the limit on what a backlog costs.
func TestMillionQueuedBytes(t *testing.T) {
	const tasks, limit = 1 << 20, 64
	s := New(Config{})
	c := s.Class("vet:go")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for h := range Handle(tasks) {
		s.Push(h, c, Band(h&3), 1)
	}
	per := float64(heap()-before) / tasks
	t.Logf("%.1f bytes a queued task", per)
	if per > limit {
		t.Errorf("%.1f bytes a queued task, limit %d", per, limit)
	}
	if d := s.Depths()[0]; d.Queued != tasks {
		t.Errorf("%d queued", d.Queued)
	}
}
