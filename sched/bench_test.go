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

func benchScheduler() (*Scheduler, Class) {
	s := New(Config{})
	return s, s.Class("vet:go")
}

func (s *Scheduler) benchWorker() *Worker {
	return s.AddWorker(WorkerConfig{Capabilities: []string{"vet:go"}})
}

// BenchmarkOwner is one worker that pushes to its lane and takes from it.
func BenchmarkOwner(b *testing.B) {
	for _, k := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("batch=%d", k), func(b *testing.B) {
			s, c := benchScheduler()
			w := s.benchWorker()
			buf, list := make([]Handle, k), make([]Item, k)
			for i := range list {
				list[i].Class = c
			}
			b.ReportAllocs()
			for i := 0; i < b.N; i += k {
				if k == 1 {
					w.Push(Handle(i), c, 1, 1)
				} else {
					w.PushBatch(list)
				}
				w.TryTake(buf)
			}
		})
	}
}

// BenchmarkLane is the bare lane: what the worker's path adds is the
// difference to BenchmarkOwner.
func BenchmarkLane(b *testing.B) {
	for _, k := range []int{1, 32} {
		b.Run(fmt.Sprintf("batch=%d", k), func(b *testing.B) {
			l := newLane()
			xs, buf := make([]item, k), make([]Handle, k)
			b.ReportAllocs()
			for i := 0; i < b.N; i += k {
				l.push(xs)
				l.claim(buf)
			}
		})
	}
}

// BenchmarkHandOff is one worker that pushes single handles to its lane, and
// another that steals up to so many at a time.
func BenchmarkHandOff(b *testing.B) {
	for _, k := range []int{1, 32} {
		b.Run(fmt.Sprintf("steal=%d", k), func(b *testing.B) {
			s, c := benchScheduler()
			owner, thief := s.benchWorker(), s.benchWorker()
			var wg sync.WaitGroup
			b.ReportAllocs()
			wg.Go(func() {
				buf := make([]Handle, k)
				for n := 0; n < b.N; {
					got := thief.TryTake(buf)
					if n += got; got < k {
						runtime.Gosched()
					}
				}
			})
			for i := range b.N {
				owner.Push(Handle(i), c, 1, 1)
			}
			wg.Wait()
		})
	}
}

// BenchmarkOwnerUnderThieves is what a push and take costs an owner that
// thieves are after.
func BenchmarkOwnerUnderThieves(b *testing.B) {
	for _, thieves := range []int{1, 3} {
		b.Run(fmt.Sprint(thieves), func(b *testing.B) {
			s, c := benchScheduler()
			owner := s.benchWorker()
			var stop atomic.Bool
			var wg sync.WaitGroup
			for range thieves {
				w := s.benchWorker()
				wg.Go(func() {
					buf := make([]Handle, 32)
					for !stop.Load() {
						if w.TryTake(buf) < 32 {
							runtime.Gosched()
						}
					}
				})
			}
			buf := make([]Handle, 1)
			b.ReportAllocs()
			for i := range b.N {
				owner.Push(Handle(i), c, 1, 1)
				owner.TryTake(buf)
			}
			stop.Store(true)
			wg.Wait()
		})
	}
}

// BenchmarkSteal is a push of 32 and a steal of 32 from a lane of 64, per pair.
func BenchmarkSteal(b *testing.B) {
	l := newLane()
	xs, out := make([]item, 32), make([]item, 32)
	l.push(xs)
	b.ReportAllocs()
	for range b.N {
		l.push(xs)
		if n, _ := l.steal(out, 1); n != 32 {
			b.Fatal(n)
		}
	}
}

// BenchmarkStealAlone is a steal of 32 of 64 and nothing else: lanes are filled
// while no clock runs.
func BenchmarkStealAlone(b *testing.B) {
	const lanes = 64
	var ls [lanes]*lane
	xs, out := make([]item, 64), make([]item, 32)
	for i := range ls {
		ls[i] = newLane()
	}
	full := make([]Handle, laneSlots)
	var spent time.Duration
	calls := 0
	for calls < b.N {
		for _, l := range ls {
			for l.claim(full) > 0 {
				continue
			}
			l.push(xs)
		}
		began := time.Now()
		for _, l := range ls {
			if n, _ := l.steal(out, 1); n != 32 {
				b.Fatal(n)
			}
		}
		spent += time.Since(began)
		calls += lanes
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(calls), "ns/steal")
}

// BenchmarkSubmit is a push from outside, while one worker takes what comes.
func BenchmarkSubmit(b *testing.B) {
	for _, k := range []int{1, 32} {
		for _, taking := range []bool{false, true} {
			b.Run(fmt.Sprintf("batch=%d/taker=%t", k, taking), func(b *testing.B) {
				s, c := benchScheduler()
				w := s.benchWorker()
				var wg sync.WaitGroup
				if taking {
					wg.Go(func() {
						buf := make([]Handle, 256)
						for n := 0; n < b.N; {
							got := w.TryTake(buf)
							if n += got; got < len(buf) {
								runtime.Gosched()
							}
						}
					})
				}
				list := make([]Item, k)
				for i := range list {
					list[i] = Item{Class: c, Band: 1, ReadyMillis: 1}
				}
				b.ReportAllocs()
				for i := 0; i < b.N; i += k {
					if k == 1 {
						s.Push(Handle(i), c, 1, 1)
					} else {
						s.PushBatch(list)
					}
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkTake256 fills the class's queue and takes it, 256 handles a call;
// per handle, both ends.
func BenchmarkTake256(b *testing.B) {
	s, c := benchScheduler()
	w := s.benchWorker()
	list, buf := make([]Item, 256), make([]Handle, 256)
	for i := range list {
		list[i] = Item{Class: c, Band: 1, ReadyMillis: 1}
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i += 256 {
		s.PushBatch(list)
		for n := 0; n < 256; {
			n += w.TryTake(buf)
		}
	}
}

// BenchmarkMillion is 1 M tasks from outside in batches of 32 to two workers
// that park when there is nothing; per task.
func BenchmarkMillion(b *testing.B) {
	const tasks = 1 << 20
	for range b.N {
		million(b, tasks)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/tasks, "ns/task")
}

func million(b *testing.B, tasks int) {
	s, c := benchScheduler()
	var left atomic.Int64
	left.Store(int64(tasks))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 2 {
		w := s.benchWorker()
		wg.Go(func() {
			buf := make([]Handle, 64)
			for {
				n, err := w.Take(ctx, buf)
				if err != nil {
					return
				}
				if left.Add(-int64(n)) == 0 {
					cancel()
				}
			}
		})
	}
	list := make([]Item, 32)
	for i := 0; i < tasks; i += len(list) {
		for j := range list {
			list[j] = Item{Handle(i + j), c, Band(j & 3), 1}
		}
		s.PushBatch(list)
	}
	wg.Wait()
}

// BenchmarkMatch is a push to the best of parked workers and its return to
// waiting, with so many workers and 100 classes. The workers are claimed and
// registered as Take does it; nothing is woken.
func BenchmarkMatch(b *testing.B) {
	for _, workers := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			s := New(Config{})
			classes := make([]Class, 100)
			for i := range classes {
				classes[i] = s.Class(fmt.Sprintf("a%d:t", i))
			}
			for i := range workers {
				w := s.AddWorker(WorkerConfig{Capabilities: []string{fmt.Sprintf("a%d:t", i%100), "a7:t"}, Success: float64(i%17) / 17})
				w.buf = make([]Handle, 1)
				s.waiting.set(w.index)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				w := s.claimWaiter(s.class(classes[i*37%min(workers, 100)]))
				if w == nil {
					b.Fatal("nobody waits")
				}
				w.send(0, nil)
				<-w.token
				s.waiting.set(w.index)
			}
		})
	}
}

// BenchmarkParked is a whole hand-off: push, wake a parked worker, and hear
// from it.
func BenchmarkParked(b *testing.B) {
	s, c := benchScheduler()
	w := s.benchWorker()
	ctx, cancel := context.WithCancel(b.Context())
	took := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]Handle, 1)
		for {
			if _, err := w.Take(ctx, buf); err != nil {
				return
			}
			took <- struct{}{}
		}
	})
	b.ReportAllocs()
	for i := range b.N {
		s.Push(Handle(i), c, 1, 1)
		<-took
	}
	cancel()
	wg.Wait()
}
