package sched

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestNoLostWakeup plays ping-pong with parking: a push after which nothing
// else happens must bring a parked worker back, whatever it raced with.
func TestNoLostWakeup(t *testing.T) {
	for _, procs := range []int{2, 4} {
		t.Run(fmt.Sprintf("procs=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			const rounds, workers = 6000, 3
			s := New(Config{})
			c := s.Class("vet:go")
			took := make(chan int, workers)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					w := s.AddWorker(WorkerConfig{Capabilities: []string{"vet:*"}})
					defer w.Close()
					buf := make([]Handle, 1)
					for {
						n, err := w.Take(ctx, buf)
						if err != nil {
							return
						}
						took <- n
					}
				})
			}
			own := s.AddWorker(WorkerConfig{Capabilities: []string{"nothing:here"}})
			for i := range rounds {
				k := 1 + i%2
				for j := range k {
					if i%3 == 0 {
						own.Push(Handle(i), c, Band(j), 0) // only thieves can take it
					} else {
						s.Push(Handle(i), c, Band(j), 0)
					}
				}
				for k > 0 { // a lost wake-up hangs here, and the test times out
					k -= <-took
				}
			}
			cancel()
			wg.Wait()
			own.Close()
		})
	}
}

// TestWakeupSweep lets a push fall on every point of a worker's way from a
// Take to the next one's park: the pusher, which is running and not waiting
// for anything, waits a little longer each time.
func TestWakeupSweep(t *testing.T) {
	const rounds, longest = 30_000, 1000
	s := New(Config{NowMillis: func() int64 { return 1 }})
	s.maxSpinners = 0 // the shortest way
	c := s.Class("a:x")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	var took atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		defer w.Close()
		buf := make([]Handle, 1)
		for {
			if _, err := w.Take(ctx, buf); err != nil {
				return
			}
			took.Add(1)
		}
	})
	start, sink := time.Now(), 0
	for i := range rounds {
		for k := range i % longest {
			sink += k * i
		}
		s.Push(Handle(i), c, 1, 0)
		for spins := 1; took.Load() <= int64(i); spins++ {
			if spins%(1<<16) == 0 {
				runtime.Gosched()
				if time.Since(start) > 30*time.Second {
					t.Fatalf("round %d: the worker waits (%t) while %d are queued", i, s.waiting.has(w.index), s.Depths()[0].Queued)
				}
			}
		}
	}
	cancel()
	wg.Wait()
	_ = sink
}

// TestDuty: a worker roused for one class that takes more urgent work of
// another rouses the next for what it left.
func TestDuty(t *testing.T) {
	s := New(Config{})
	a, b := s.class(s.Class("a:x")), s.class(s.Class("b:x"))
	both := s.AddWorker(WorkerConfig{Name: "both", Capabilities: []string{"*:x"}, Success: 1})
	one := s.AddWorker(WorkerConfig{Name: "one", Capabilities: []string{"a:x"}})
	defer both.Close()
	defer one.Close()
	out := make(chan taken)
	parked(t, t.Context(), both, 1, out)
	parked(t, t.Context(), one, 1, out)
	a.bands[0].push([]item{{handle: 1}}) // published, and nobody looked for takers yet
	b.bands[3].push([]item{{handle: 2}})
	s.ready.set(uint32(a.id))
	s.ready.set(uint32(b.id))
	s.rouse(a)
	x, y := <-out, <-out
	if x.who == "one" {
		x, y = y, x
	}
	if x.who != "both" || len(x.hs) != 1 || x.hs[0] != 2 || y.who != "one" || len(y.hs) != 1 || y.hs[0] != 1 {
		t.Errorf("%+v, %+v", x, y)
	}
}

// TestSettleRouses: who clears a class's bit wrongly does what a pusher does.
func TestSettleRouses(t *testing.T) {
	s := New(Config{})
	a := s.class(s.Class("a:x"))
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	defer w.Close()
	out := make(chan taken)
	parked(t, t.Context(), w, 1, out)
	s.ready.set(uint32(a.id))
	a.bands[1].push([]item{{handle: 1}}) // its pusher saw the bit set, and nobody waiting
	s.unready(a)
	if x := <-out; len(x.hs) != 1 || !s.ready.has(uint32(a.id)) {
		t.Errorf("%+v", x)
	}
}

// TestThiefRouses: a thief that leaves something looks for another, who may
// have parked because the lane was pinned.
func TestThiefRouses(t *testing.T) {
	s := New(Config{})
	id := s.Class("a:x")
	caps := []string{"a:x"}
	owner := s.AddWorker(WorkerConfig{Capabilities: caps})
	thief := s.AddWorker(WorkerConfig{Capabilities: caps})
	idle := s.AddWorker(WorkerConfig{Capabilities: caps})
	defer owner.Close()
	defer thief.Close()
	defer idle.Close()
	owner.Push(1, id, 1, 0)
	owner.TryTake(make([]Handle, 1))
	out := make(chan taken)
	parked(t, t.Context(), idle, 8, out)
	owner.last.bands[1].Load().push(make([]item, 4))
	if n := thief.TryTake(make([]Handle, 8)); n != 2 {
		t.Errorf("the thief took %d", n)
	}
	if x := <-out; len(x.hs) != 1 {
		t.Errorf("%+v", x)
	}
}

// TestClaimOfChangedIndex: a worker that is claimed for a class it can't do
// (its index belonged to another a moment ago) is not given it, and waits on.
func TestClaimOfChangedIndex(t *testing.T) {
	s := New(Config{})
	a, b := s.class(s.Class("a:x")), s.Class("b:x")
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"b:x"}})
	defer w.Close()
	out := make(chan taken)
	parked(t, t.Context(), w, 1, out)
	if got := s.claimAt(a, w.index); got != nil {
		t.Error("claimed what can't do it")
	}
	s.Push(7, b, 1, 0)
	if x := <-out; x.err != nil || len(x.hs) != 1 || x.hs[0] != 7 {
		t.Errorf("%+v", x)
	}
}
