package sched

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// taken is what a Take that ran on a goroutine of its own returned.
type taken struct {
	who string
	hs  []Handle
	err error
}

// parked starts a Take and returns when it waits.
func parked(t *testing.T, ctx context.Context, w *Worker, room int, out chan<- taken) {
	t.Helper()
	go func() {
		buf := make([]Handle, room)
		n, err := w.Take(ctx, buf)
		out <- taken{w.Name(), buf[:n], err}
	}()
	deadline := time.Now().Add(10 * time.Second)
	for !w.s.waiting.has(w.index) {
		if time.Now().After(deadline) {
			t.Fatal("the worker does not wait")
		}
		time.Sleep(50 * time.Microsecond) // there is no event: parking is the absence of one
	}
}

func TestMatches(t *testing.T) {
	for _, x := range []struct {
		caps []string
		want []string
		not  []string
	}{
		{[]string{"vet:go"}, []string{"vet:go"}, []string{"vet:c", "lint:go", "vet", "vet:go2"}},
		{[]string{"vet:*"}, []string{"vet:go", "vet:a:b", "vet:"}, []string{"lint:go", "vets:go"}},
		{[]string{"*:go"}, []string{"vet:go", "lint:go"}, []string{"vet:c"}},
		{[]string{"*:*"}, []string{"vet:go", "x:y"}, nil},
		{[]string{"a:b", "vet:*"}, []string{"a:b", "vet:x"}, []string{"a:c"}},
		{nil, nil, []string{"vet:go", ""}},
	} {
		for _, c := range x.want {
			if !Matches(x.caps, c) {
				t.Errorf("%v cannot do %q", x.caps, c)
			}
		}
		for _, c := range x.not {
			if Matches(x.caps, c) {
				t.Errorf("%v can do %q", x.caps, c)
			}
		}
	}
}

// TestRanking gives each task to the best worker that waits.
func TestRanking(t *testing.T) {
	s := New(Config{WeightSuccess: 1, WeightLoad: 0.5, WeightTrust: 0.5})
	c := s.Class("vet:go")
	out := make(chan taken, 4)
	caps := []string{"vet:go"}
	ws := []*Worker{
		s.AddWorker(WorkerConfig{Name: "loaded", Capabilities: caps, Success: 0.9, Load: 1}),
		s.AddWorker(WorkerConfig{Name: "best", Capabilities: caps, Success: 0.9, Trust: 0.4}),
		s.AddWorker(WorkerConfig{Name: "good", Capabilities: caps, Success: 0.9}),
		s.AddWorker(WorkerConfig{Name: "unable", Capabilities: []string{"vet:c"}, Success: 1, Trust: 1}),
	}
	for _, w := range ws {
		parked(t, t.Context(), w, 1, out)
	}
	for i, want := range []string{"best", "good", "loaded"} {
		s.Push(Handle(i), c, 1, 0)
		if got := <-out; got.who != want || len(got.hs) != 1 || got.hs[0] != Handle(i) {
			t.Errorf("task %d: %+v, want %s", i, got, want)
		}
	}
	ws[0].Update(0.99, 0, 0) // a measurement changes the order
	parked(t, t.Context(), ws[0], 1, out)
	parked(t, t.Context(), ws[2], 1, out)
	s.Push(9, c, 1, 0)
	if got := <-out; got.who != "loaded" {
		t.Errorf("after the update: %+v", got)
	}
	ws[2].Close()
	ws[3].Close()
	if a, b := <-out, <-out; len(a.hs)+len(b.hs) != 0 || a.err != nil || b.err != nil {
		t.Errorf("closed: %+v %+v", a, b)
	}
}

// TestTiesSpread gives equals equal shares.
func TestTiesSpread(t *testing.T) {
	const workers, rounds = 70, 5 // more than a word, more than rankChoices
	s := New(Config{})
	c := s.Class("vet:go")
	out := make(chan taken)
	got := map[string]int{}
	ws := map[string]*Worker{}
	for i := range workers {
		w := s.AddWorker(WorkerConfig{Name: fmt.Sprint(i), Capabilities: []string{"vet:go"}, Success: 0.5})
		ws[w.Name()] = w
		parked(t, t.Context(), w, 1, out)
	}
	for i := range rounds * workers {
		s.Push(Handle(i), c, 1, 0)
		x := <-out
		got[x.who]++
		parked(t, t.Context(), ws[x.who], 1, out)
	}
	for name, n := range got {
		if n != rounds {
			t.Errorf("worker %s got %d of %d", name, n, rounds*workers)
		}
	}
	if len(got) != workers {
		t.Errorf("%d of %d workers got any", len(got), workers)
	}
	for _, w := range ws {
		w.Close()
		<-out
	}
}

// TestBatchDivided spreads a batch over the waiting, each to its credit, and
// queues the rest.
func TestBatchDivided(t *testing.T) {
	s := New(Config{})
	c := s.Class("vet:go")
	out := make(chan taken, 3)
	for i, room := range []int{2, 100, 100} {
		w := s.AddWorker(WorkerConfig{Name: fmt.Sprint(i), Capabilities: []string{"vet:*"}})
		defer w.Close()
		parked(t, t.Context(), w, room, out)
	}
	list := make([]Item, 30)
	for i := range list {
		list[i] = Item{Handle: Handle(i), Class: c}
	}
	s.PushBatch(list)
	var all []Handle
	for range 3 {
		x := <-out
		if x.who == "0" && len(x.hs) != 2 || x.who != "0" && len(x.hs) < 10 {
			t.Errorf("worker %s got %d", x.who, len(x.hs))
		}
		all = append(all, x.hs...)
	}
	last := s.AddWorker(WorkerConfig{Name: "last", Capabilities: []string{"vet:*"}})
	defer last.Close()
	rest := make([]Handle, 30) // who woke before the rest was queued did not see it
	all = append(all, rest[:last.TryTake(rest)]...)
	slices.Sort(all)
	if len(slices.Compact(all)) != 30 {
		t.Errorf("got %v", all)
	}
}

// TestWildcards has classes interned before and after the worker came, and
// while it waits.
func TestWildcards(t *testing.T) {
	s := New(Config{})
	before := s.Class("vet:before")
	w := s.AddWorker(WorkerConfig{Name: "w", Capabilities: []string{"vet:*"}})
	defer w.Close()
	after, other := s.Class("vet:after"), s.Class("lint:after")
	s.Push(1, before, 1, 1)
	s.Push(2, after, 1, 2)
	s.Push(3, other, 1, 3)
	buf := make([]Handle, 4)
	if n := w.TryTake(buf); n != 2 || buf[0] != 1 || buf[1] != 2 {
		t.Errorf("took %v", buf[:n])
	}
	out := make(chan taken, 1)
	parked(t, t.Context(), w, 4, out)
	for i := range 5000 { // across pages of the masks
		s.Class(fmt.Sprintf("no:%d", i))
	}
	s.Push(4, s.Class("vet:while"), 1, 4)
	if x := <-out; len(x.hs) != 1 || x.hs[0] != 4 {
		t.Errorf("took %+v", x)
	}
	parked(t, t.Context(), w, 4, out)
	w.UpdateCapabilities([]string{"lint:*", "no:4999"}) // finds what is queued
	if x := <-out; len(x.hs) != 1 || x.hs[0] != 3 {
		t.Errorf("took %+v", x)
	}
	s.Push(5, after, 1, 5)
	s.Push(6, s.Class("no:4999"), 1, 6)
	if n := w.TryTake(buf); n != 1 || buf[0] != 6 {
		t.Errorf("took %v", buf[:n])
	}
	if again := s.Class("vet:before"); again != before {
		t.Error("interned twice")
	}
}

// TestPriority: bands first, in a band the oldest, over classes.
func TestPriority(t *testing.T) {
	now := int64(1000)
	s := New(Config{NowMillis: func() int64 { return now }})
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"*:*"}})
	defer w.Close()
	a, b := s.Class("a:x"), s.Class("b:x")
	s.Push(1, a, 0, 100)
	s.Push(2, a, 1, 300)
	s.Push(3, b, 1, 200)
	s.Push(4, b, 3, 900)
	s.Push(5, a, 9, 901) // beyond critical is critical
	w.Push(6, b, 2, 950)
	var got []Handle
	buf := make([]Handle, 1)
	for w.TryTake(buf) == 1 {
		got = append(got, buf[0])
	}
	if want := []Handle{4, 5, 6, 3, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("took %v, want %v", got, want)
	}
}

// TestAging floods one band and waits for the task below it: taken as soon as
// it is AgingMillis older than what comes, at the very millisecond, and a task
// two bands below after twice that.
func TestAging(t *testing.T) {
	for below := 1; below <= 3; below++ {
		now := int64(50_000)
		s := New(Config{NowMillis: func() int64 { return now }, AgingMillis: 1000})
		w := s.AddWorker(WorkerConfig{Capabilities: []string{"*:*"}})
		old, flood := s.Class("old:x"), s.Class("flood:x")
		s.Push(1, old, Band(3-below), now)
		start, buf := now, make([]Handle, 1)
		for {
			s.Push(2, flood, 3, now)
			if w.TryTake(buf) != 1 {
				t.Fatal("nothing")
			}
			if buf[0] == 1 {
				break
			}
			if now++; now > start+10_000 {
				t.Fatal("starved")
			}
		}
		if waited := now - start; waited != int64(below)*1000+1 {
			t.Errorf("%d below waited %d ms", below, waited)
		}
		w.Close()
	}
}

// TestFutureIsNow: a ready time of a clock that is ahead does not push a task
// behind all others.
func TestFutureIsNow(t *testing.T) {
	s := New(Config{NowMillis: func() int64 { return 1000 }})
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"*:*"}})
	defer w.Close()
	s.Push(1, s.Class("a:x"), 1, 900_000_000)
	s.Push(2, s.Class("b:x"), 0, 900)
	buf := make([]Handle, 2)
	if w.TryTake(buf); buf[0] != 1 {
		t.Errorf("took %v", buf)
	}
}

func TestStealing(t *testing.T) {
	s := New(Config{})
	c := s.Class("a:x")
	a := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	b := s.AddWorker(WorkerConfig{Capabilities: []string{"a:*"}})
	unable := s.AddWorker(WorkerConfig{Capabilities: []string{"b:x"}})
	for h := range Handle(10) {
		a.Push(h, c, 1, int64(h))
	}
	a.Push(99, c, 3, 0)
	buf := make([]Handle, 100)
	if n := unable.TryTake(buf); n != 0 {
		t.Errorf("the unable took %v", buf[:n])
	}
	if n := b.TryTake(buf); n != 1 || buf[0] != 99 {
		t.Errorf("highest band: took %v", buf[:n])
	}
	if n := b.TryTake(buf); n != 5 || buf[0] != 0 || buf[4] != 4 {
		t.Errorf("half, the oldest: took %v", buf[:n])
	}
	if n := s.TakeFor([]string{"*:x"}, buf[:1]); n != 1 || buf[0] != 5 {
		t.Errorf("for a peer: took %v", buf[:n])
	}
	if d := s.Depths()[0]; d.Queued != 4 || d.OldestMillis > 6 {
		t.Errorf("depth %+v", d)
	}
	a.Close() // what is left goes to the injector, and a closed worker's pushes too
	a.Push(10, c, 1, 10)
	if n := b.TryTake(buf); n != 5 || buf[0] != 6 || buf[4] != 10 {
		t.Errorf("after close: took %v", buf[:n])
	}
	b.Close()
	unable.Close()
}

// TestLaneOverflow pushes more than a lane holds.
func TestLaneOverflow(t *testing.T) {
	s := New(Config{})
	c := s.Class("a:x")
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	defer w.Close()
	list := make([]Item, 3*laneSlots)
	for i := range list {
		list[i] = Item{Handle: Handle(i), Class: c}
	}
	w.PushBatch(list)
	if d := s.Depths()[0].Queued; d != len(list) {
		t.Errorf("%d queued", d)
	}
	buf := make([]Handle, 4*laneSlots)
	n := w.TryTake(buf)
	slices.Sort(buf[:n])
	if n != len(list) || len(slices.Compact(buf[:n])) != n {
		t.Errorf("took %d", n)
	}
}

func TestTakeEnds(t *testing.T) {
	s := New(Config{})
	c := s.Class("a:x")
	w := s.AddWorker(WorkerConfig{Name: "w", Capabilities: []string{"a:x"}})
	out := make(chan taken, 1)

	ctx, cancel := context.WithCancel(t.Context())
	parked(t, ctx, w, 1, out)
	cancel()
	if x := <-out; !errors.Is(x.err, context.Canceled) {
		t.Errorf("cancelled: %+v", x)
	}
	if _, err := w.Take(ctx, make([]Handle, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	s.Push(1, c, 0, 0)
	if n, err := w.Take(ctx, make([]Handle, 1)); n != 1 || err != nil {
		t.Errorf("work goes before a cancelled context: %d %v", n, err)
	}

	parked(t, t.Context(), w, 1, out)
	w.Wake()
	if x := <-out; x.err != nil || len(x.hs) != 0 {
		t.Errorf("woken: %+v", x)
	}
	w.Wake() // before the Take
	if n, err := w.Take(t.Context(), make([]Handle, 1)); n != 0 || err != nil {
		t.Errorf("woken before: %d %v", n, err)
	}
	if n, err := w.Take(t.Context(), nil); n != 0 || err != nil {
		t.Errorf("no buffer: %d %v", n, err)
	}

	parked(t, t.Context(), w, 1, out)
	if ws := s.Workers(); len(ws) != 1 || ws[0].Name != "w" || ws[0].WaitingMillis == 0 {
		t.Errorf("workers: %+v", ws)
	}
	w.Close()
	if x := <-out; x.err != nil || len(x.hs) != 0 {
		t.Errorf("closed: %+v", x)
	}
	if n, err := w.Take(t.Context(), make([]Handle, 1)); n != 0 || err != nil {
		t.Errorf("closed before: %d %v", n, err)
	}
	w.Wake()
	w.UpdateCapabilities([]string{"a:*"})
	if ws := s.Workers(); len(ws) != 0 {
		t.Errorf("workers: %+v", ws)
	}
	s.Push(2, c, 0, 0) // nobody's
	if d := s.Depths()[0]; d.Queued != 1 {
		t.Errorf("depth %+v", d)
	}
}

// TestBacklogHint: once for much, again after Depths, not for what was taken.
func TestBacklogHint(t *testing.T) {
	var hints atomic.Int32
	var s *Scheduler
	s = New(Config{OnBacklog: func() {
		hints.Add(1)
		s.Class("b:new") // takes the lock: deadlocks if it were held
	}})
	c := s.Class("a:x")
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	out := make(chan taken, 1)
	parked(t, t.Context(), w, 1, out)
	expect := func(when string, want int32) {
		t.Helper()
		if n := hints.Load(); n != want {
			t.Errorf("%s: %d hints, want %d", when, n, want)
		}
	}
	s.Push(1, c, 1, 0)
	<-out
	expect("handed over", 0)
	for range 10 {
		s.Push(2, c, 1, 0)
	}
	expect("queued", 1)
	s.Depths()
	expect("depths", 1)
	w.Push(3, c, 1, 0)
	w.Push(3, c, 1, 0)
	expect("queued in a lane", 2)
	s.Depths()
	w.Close()
	expect("lanes given up", 3)
}

// TestPeersLeaveWanted: TakeFor keeps its hands off what a local worker waits
// for.
func TestPeersLeaveWanted(t *testing.T) {
	s := New(Config{})
	a, b := s.Class("a:x"), s.Class("b:x")
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	s.Push(1, b, 1, 0)
	out := make(chan taken, 1)
	parked(t, t.Context(), w, 1, out)
	s.class(a).bands[1].push([]item{{handle: 2}}) // as between publication and search
	s.ready.set(uint32(a))
	buf := make([]Handle, 4)
	if n := s.TakeFor([]string{"*:x"}, buf); n != 1 || buf[0] != 1 {
		t.Errorf("took %v", buf[:n])
	}
	s.announce(s.class(a), 1)
	if x := <-out; len(x.hs) != 1 || x.hs[0] != 2 {
		t.Errorf("%+v", x)
	}
	w.Close()
}

// TestIndexReuse closes and adds workers with other capabilities while tasks
// come: an index that changed hands never gets what its new worker can't do.
func TestIndexReuse(t *testing.T) {
	s := New(Config{})
	a, b := s.Class("a:x"), s.Class("b:x")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var got atomic.Int32
	const tasks = 4000
	for i := range 3 {
		wg.Go(func() {
			buf := make([]Handle, 1)
			for k := i; ctx.Err() == nil; k++ {
				w := s.AddWorker(WorkerConfig{Capabilities: []string{[]string{"a:x", "b:x"}[k%2]}})
				for range 3 {
					if n, _ := w.Take(ctx, buf); n == 1 {
						if buf[0]%2 != Handle(k%2) {
							t.Errorf("worker %d got %d", k, buf[0])
						}
						if got.Add(1) == tasks {
							cancel()
						}
					} else {
						break
					}
				}
				w.Close()
			}
		})
	}
	wg.Go(func() { // nobody may wait for one class for ever while the other is due
		for ctx.Err() == nil {
			s.mu.Lock()
			for w := range s.mu.all {
				s.nudge(w.index)
				w.Wake()
			}
			s.mu.Unlock()
			time.Sleep(time.Millisecond) // a pause between rounds, not a wait
		}
	})
	for i := range tasks {
		s.Push(Handle(i), []Class{a, b}[i%2], 1, 0)
	}
	<-ctx.Done()
	wg.Wait()
	if n := len(*s.workers.Load()); n != 16 {
		t.Errorf("%d indexes for 3 workers", n)
	}
}
