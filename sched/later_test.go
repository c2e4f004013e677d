package sched

import (
	"testing"
)

// TestPushLater: what is unpublished is the owner's alone until it takes
// something, adds publishRun, flushes or is closed, or somebody waits.
func TestPushLater(t *testing.T) {
	s := New(Config{})
	c, caps := s.Class("a:x"), []string{"a:x"}
	owner := s.AddWorker(WorkerConfig{Capabilities: caps})
	thief := s.AddWorker(WorkerConfig{Capabilities: caps})
	defer owner.Close()
	defer thief.Close()
	buf := make([]Handle, 2*publishRun)
	steals := func(want int, when string) {
		t.Helper()
		if n := thief.TryTake(buf); n != want {
			t.Fatalf("%s: the thief took %d, want %d", when, n, want)
		}
	}
	for range publishRun - 1 {
		owner.PushLater(1, c, 1, 0)
	}
	steals(0, "one less than a run")
	owner.PushLater(1, c, 1, 0)
	steals(publishRun/2, "a run")
	if n := owner.TryTake(buf); n != publishRun/2 {
		t.Fatalf("the owner took %d", n)
	}
	owner.PushLater(1, c, 1, 0)
	owner.PushLater(2, c, 1, 0)
	if n := owner.TryTake(buf[:1]); n != 1 || buf[0] != 1 {
		t.Fatalf("the owner took %d: %d", n, buf[0])
	}
	steals(1, "before the body of what was taken")
	owner.PushLater(3, c, 1, 0)
	owner.PushLater(4, c, 2, 0) // another lane
	steals(1, "the first band")
	owner.Flush()
	steals(1, "flushed")
	out := make(chan taken)
	parked(t, t.Context(), thief, 4, out)
	owner.PushLater(5, c, 2, 0)
	if x := <-out; len(x.hs) != 1 || x.hs[0] != 5 {
		t.Fatalf("the waiting thief got %+v", x)
	}
	owner.PushLater(6, c, 2, 0)
	owner.Close()
	owner.PushLater(7, c, 2, 0)
	steals(2, "closed")
}

// TestNoStarvation floods a class with critical tasks, as fast as its workers
// take them, and follows low ones: each is taken when AgingMillis times the
// bands between them have passed, give or take what is taken at once.
func TestNoStarvation(t *testing.T) {
	now := int64(1 << 40)
	s := New(Config{AgingMillis: 100, NowMillis: func() int64 { return now }})
	c := s.Class("a:x")
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	defer w.Close()
	const low = Handle(1) << 32
	const perMilli = 20 // critical tasks, and handles taken
	pushed := map[Handle]int64{}
	var longest, shortest int64 = 0, 1 << 40
	buf := make([]Handle, perMilli)
	for i := range 3000 {
		for range perMilli {
			s.Push(1, c, 3, now)
		}
		if i%10 == 0 {
			h := low + Handle(i)
			pushed[h] = now
			s.Push(h, c, 0, now)
		}
		n := w.TryTake(buf)
		for _, h := range buf[:n] {
			if at, ok := pushed[h]; ok {
				longest, shortest = max(longest, now-at), min(shortest, now-at)
				delete(pushed, h)
			}
		}
		now++
	}
	t.Logf("low tasks waited %d to %d ms", shortest, longest)
	// Each low task takes the place of a critical one, so that a backlog of
	// those grows by 0.1 a millisecond: 300 in all, 15 ms more to wait.
	// Younger ones go along with the oldest, takeRun in a row.
	if longest > 3*100+20 || shortest < 100 {
		t.Errorf("low tasks waited %d to %d ms, want at most about 300", shortest, longest)
	}
	if len(pushed) > 35 {
		t.Errorf("%d low tasks wait still", len(pushed))
	}
}
