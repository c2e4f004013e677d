package sched

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// account counts how often each handle came out.
type account struct {
	seen []atomic.Int32
	left atomic.Int64
	done chan struct{}
}

func newAccount(n int) *account {
	a := &account{seen: make([]atomic.Int32, n), done: make(chan struct{})}
	a.left.Store(int64(n))
	return a
}

func (a *account) got(hs []Handle) {
	for _, h := range hs {
		if a.seen[h].Add(1) == 1 && a.left.Add(-1) == 0 {
			close(a.done)
		}
	}
}

// check names the first handles that did not come out exactly once.
func (a *account) check() error {
	for h := range a.seen {
		if n := a.seen[h].Load(); n != 1 {
			return fmt.Errorf("handle %d came out %d times (%d missing in all)", h, n, a.left.Load())
		}
	}
	return nil
}

var testCaps = []string{"vet:go", "lint:go", "build:go", "vet:c"}

// capSets are what the workers of the stress tests can do; together all.
var capSets = [][]string{{"vet:*"}, {"*:go"}, {"lint:go", "vet:c"}, {"*:*"}, {"build:go"}}

// TestExactlyOnce lets pushers, parked and polling workers, workers that push
// to their own lanes, peers, wakers and closers at it, and counts.
func TestExactlyOnce(t *testing.T) {
	const pushers, perPusher, workers = 4, 6000, 10
	for _, procs := range []int{2, 4} {
		t.Run(fmt.Sprintf("procs=%d", procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			s := New(Config{NowMillis: func() int64 { return 1 << 40 }})
			acc := newAccount(pushers * perPusher)
			ctx, cancel := context.WithCancel(t.Context())
			var push, take sync.WaitGroup
			for p := range pushers {
				push.Go(func() { pushSome(s, p*perPusher, perPusher) })
			}
			for i := range workers {
				take.Go(func() { workerLife(ctx, s, i, acc) })
			}
			take.Go(func() {
				buf := make([]Handle, 40)
				for ctx.Err() == nil {
					acc.got(buf[:s.TakeFor(capSets[rand.IntN(len(capSets))], buf)])
					s.Depths()
					s.Workers()
					runtime.Gosched()
				}
			})
			push.Wait()
			<-acc.done
			cancel()
			take.Wait()
			if err := acc.check(); err != nil {
				t.Fatal(err)
			}
			for _, d := range s.Depths() {
				if d.Queued != 0 || d.OldestMillis != 0 {
					t.Errorf("left over: %+v", d)
				}
			}
		})
	}
}

func pushSome(s *Scheduler, from, n int) {
	var batch []Item
	for h := from; h < from+n; {
		k := min(1+rand.IntN(3)*rand.IntN(30), from+n-h)
		batch = batch[:0]
		for range k {
			c := s.Class(testCaps[rand.IntN(len(testCaps))])
			batch = append(batch, Item{Handle(h), c, Band(rand.IntN(5)), int64(rand.IntN(1 << 20))})
			h++
		}
		if k == 1 {
			s.Push(batch[0].Handle, batch[0].Class, batch[0].Band, batch[0].ReadyMillis)
		} else {
			s.PushBatch(batch)
		}
	}
}

// workerLife is one goroutine's succession of workers: each takes and now and
// then puts what it took into its own lanes, until somebody closes it.
func workerLife(ctx context.Context, s *Scheduler, i int, acc *account) {
	buf := make([]Handle, 1+i*7)
	for ctx.Err() == nil {
		w := s.AddWorker(WorkerConfig{Name: fmt.Sprint(i), Capabilities: capSets[i%len(capSets)], Success: rand.Float64()})
		var closer sync.WaitGroup
		for turn := 0; ctx.Err() == nil && turn < 400; turn++ {
			var n int
			var err error
			if rand.IntN(4) == 0 {
				n = w.TryTake(buf)
			} else if n, err = w.Take(ctx, buf); n == 0 && err == nil {
				break // closed or woken
			}
			if n > 0 && rand.IntN(3) == 0 {
				own := make([]Item, n)
				for j, h := range buf[:n] {
					own[j] = Item{h, s.Class(testCaps[rand.IntN(len(testCaps))]), Band(rand.IntN(4)), 5}
				}
				if rand.IntN(2) == 0 {
					w.PushBatch(own)
				} else {
					for _, x := range own {
						w.PushLater(x.Handle, x.Class, x.Band, x.ReadyMillis)
					}
				}
				if rand.IntN(10) == 0 {
					closer.Go(w.Close)
				}
				continue
			}
			acc.got(buf[:n])
			switch rand.IntN(40) {
			case 0:
				closer.Go(w.Close)
			case 1:
				closer.Go(w.Wake)
			case 2:
				w.Update(rand.Float64(), rand.Float64(), 0)
			case 3:
				w.UpdateCapabilities(capSets[rand.IntN(len(capSets))])
			}
		}
		w.Close()
		w.Close()
		w.Flush() // what it left unpublished when ctx ended
		closer.Wait()
	}
}
