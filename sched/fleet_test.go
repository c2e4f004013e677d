package sched

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

func mustClass(t testing.TB, s *Scheduler, fleet, capability string) Class {
	t.Helper()
	c, err := s.ClassOf(fleet, capability)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// flood queues n handles of a class from first on, all ready at millis.
func flood(s *Scheduler, c Class, b Band, first, n int, millis int64) {
	list := make([]Item, n)
	for i := range list {
		list[i] = Item{Handle(first + i), c, b, millis}
	}
	s.PushBatch(list)
}

// TestFairShare has one fleet flood 100 k tasks before another comes with
// 2,000, and says what share of the service the second has while it has work,
// and how many tasks are served before its first. Takers take one or many at a
// time, one worker or sixteen in turn.
func TestFairShare(t *testing.T) {
	const many, few = 100_000, 2_000
	for _, x := range []struct {
		flooder, other int // weights
		workers, room  int
	}{{1, 1, 1, 1}, {1, 1, 16, 64}, {3, 1, 1, 1}, {3, 1, 16, 64}, {1, 3, 1, 1}, {1, 3, 16, 64}} {
		t.Run(fmt.Sprintf("weights=%d:%d/workers=%d", x.flooder, x.other, x.workers), func(t *testing.T) {
			s := New(Config{FleetWeights: map[string]int{"flooder": x.flooder, "other": x.other}})
			flood(s, mustClass(t, s, "flooder", "vet:go"), 1, few, many, 1)
			ws := make([]*Worker, x.workers)
			for i := range ws {
				ws[i] = s.AddWorker(WorkerConfig{Capabilities: []string{"vet:*"}})
			}
			buf := make([]Handle, x.room)
			for i := range 1000 { // the flooder alone: that saves nothing up, and owes nothing
				ws[i%len(ws)].TryTake(buf[:1])
			}
			flood(s, mustClass(t, s, "other", "vet:go"), 1, 0, few, 2)
			served, others, first := 0, 0, -1
			for turn := 0; others < few; turn++ {
				n := ws[turn%len(ws)].TryTake(buf)
				if n == 0 {
					t.Fatal("nothing, with work queued")
				}
				for _, h := range buf[:n] {
					if h < few {
						if others++; first < 0 {
							first = served
						}
					}
					served++
				}
			}
			share, want := float64(few)/float64(served), float64(x.other)/float64(x.other+x.flooder)
			t.Logf("the second fleet has %.3f of the service (its due: %.3f); its first task is served after %d others", share, want, first)
			if math.Abs(share-want) > 0.03 {
				t.Errorf("share %.3f, due %.3f", share, want)
			}
			if limit := 2 * fairRun * x.workers * (x.flooder + x.other); first > limit {
				t.Errorf("the first waited for %d tasks, at most %d are due", first, limit)
			}
		})
	}
}

// TestFairToMany: takers that take once each, as a thousand agents do or the
// peers for theirs, share themselves out by weight as well.
func TestFairToMany(t *testing.T) {
	for _, peers := range []bool{false, true} {
		s := New(Config{FleetWeights: map[string]int{"a": 3}})
		flood(s, mustClass(t, s, "a", "vet:go"), 1, 0, 10_000, 1)
		flood(s, mustClass(t, s, "b", "vet:go"), 3, 10_000, 10_000, 1)
		buf, of := make([]Handle, 1), [2]int{}
		const takers = 4000
		for range takers {
			if peers {
				s.TakeFor([]string{"*:go"}, buf)
			} else {
				w := s.AddWorker(WorkerConfig{Capabilities: []string{"vet:go"}})
				w.TryTake(buf)
				w.Close()
			}
			of[buf[0]/10_000]++
		}
		// ±5 standard deviations of a drawing with replacement.
		if dev := math.Abs(float64(of[0]) - 0.75*takers); dev > 5*math.Sqrt(takers*0.75*0.25) {
			t.Errorf("peers %t: %v of %d, due 3:1", peers, of, takers)
		}
	}
}

// TestNobodyStarves: 40 fleets keep flooding with critical tasks; the one low
// task of another fleet is served within a round of the fleets, on every kind
// of worker; and inside one fleet within the aging bound.
func TestNobodyStarves(t *testing.T) {
	const fleets = 40
	now := int64(1_000_000)
	s := New(Config{NowMillis: func() int64 { return now }, AgingMillis: 1000})
	classes := make([]Class, fleets)
	for i := range classes {
		classes[i] = mustClass(t, s, fmt.Sprint("flood", i), fmt.Sprintf("vet:%d", i%3))
	}
	quiet := mustClass(t, s, "quiet", "vet:1")
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"vet:*"}})
	buf, rng := make([]Handle, 4), rand.New(rand.NewPCG(3, 3))
	for round := range 200 {
		now += int64(rng.IntN(50))
		for _, c := range classes {
			flood(s, c, 3, 2, 4+rng.IntN(8), now)
		}
		if round%20 != 10 {
			w.TryTake(buf)
			continue
		}
		s.Push(1, quiet, 0, now)
		takes := 1
		for !slices.Contains(buf[:w.TryTake(buf)], 1) {
			// Each fleet is served once before any twice; fleets met for the first
			// time begin at random places.
			if takes++; takes > 4*fleets {
				t.Fatalf("round %d: not served by the %dth take", round, takes)
			}
		}
	}
	// Low tasks of a flooding fleet: as TestAging, beside the others.
	s.Push(1, classes[0], 0, now)
	start := now
	for !slices.Contains(buf[:w.TryTake(buf)], 1) {
		now++
		flood(s, classes[0], 3, 2, 1, now)
		flood(s, classes[1], 3, 2, 1, now)
		if now > start+200_000 {
			t.Fatal("starved by its own fleet")
		}
	}
}

// TestFairConcurrently counts both fleets' service under four takers at once,
// each with a run of its own.
func TestFairConcurrently(t *testing.T) {
	const each = 60_000
	s := New(Config{})
	flood(s, mustClass(t, s, "a", "vet:go"), 1, 0, each, 1)
	flood(s, mustClass(t, s, "b", "vet:go"), 1, each, each, 2)
	var mu sync.Mutex
	var of [2]int
	var wg sync.WaitGroup
	for range 4 {
		w := s.AddWorker(WorkerConfig{Capabilities: []string{"vet:go"}})
		wg.Go(func() {
			buf := make([]Handle, 16)
			for range each / 4 / 16 {
				n := w.TryTake(buf)
				mu.Lock()
				for _, h := range buf[:n] {
					of[h/each]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if sum := of[0] + of[1]; sum != each/64*64 || math.Abs(float64(of[0]-of[1])) > 0.02*each {
		t.Errorf("served %v of %d", of, each)
	}
}

// TestDepthsOfFleets: a capability is listed once, whoever asks for it.
func TestDepthsOfFleets(t *testing.T) {
	s := New(Config{})
	s.Push(1, mustClass(t, s, "a", "x:y"), 1, 50)
	s.Push(2, mustClass(t, s, "a", "z:y"), 1, 60)
	s.Push(3, mustClass(t, s, "b", "x:y"), 1, 40)
	if d := s.Depths(); !slices.Equal(d, []Depth{{"x:y", 2, 40}, {"z:y", 1, 60}}) {
		t.Errorf("%+v", d)
	}
}

func TestClassLimit(t *testing.T) {
	s := New(Config{})
	for i := range MaxClasses {
		if _, err := s.ClassOf(fmt.Sprint("f", i%3), fmt.Sprint("a:", i)); err != nil {
			t.Fatalf("class %d: %v", i, err)
		}
	}
	if _, err := s.ClassOf("f", "a:new"); !errors.Is(err, ErrTooManyClasses) {
		t.Errorf("one over: %v", err)
	}
	if c, err := s.ClassOf("f1", "a:1"); err != nil || c != 1 {
		t.Errorf("a known one at the limit: %d %v", c, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Class beyond the limit")
		}
	}()
	s.Class("a:new")
}

// TestFleetLimit: fleets beyond MaxFleets have one share together.
func TestFleetLimit(t *testing.T) {
	s := New(Config{FleetWeights: map[string]int{"big": MaxFleetWeight}})
	index := func(i int) uint32 { return s.class(mustClass(t, s, fmt.Sprint(i), "a:b")).front.fleet }
	for i := range MaxFleets {
		if got := index(i); got != uint32(i) {
			t.Fatalf("fleet %d is %d", i, got)
		}
	}
	if a, b := index(MaxFleets), index(MaxFleets+1); a != MaxFleets || b != MaxFleets {
		t.Errorf("beyond the limit: %d and %d", a, b)
	}
	if err := (Config{FleetWeights: map[string]int{"big": MaxFleetWeight + 1}}).Validate(); err == nil {
		t.Error("a weight one over")
	}
	if err := (Config{FleetWeights: map[string]int{"big": MaxFleetWeight}}).Validate(); err != nil {
		t.Error(err)
	}
	if err := (Config{FleetWeights: map[string]int{"none": 0}}).Validate(); err == nil {
		t.Error("a weight of 0")
	}
}
