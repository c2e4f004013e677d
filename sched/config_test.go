package sched

import "testing"

func TestConfig(t *testing.T) {
	if err := (Config{AgingMillis: -1, WeightLoad: -1, WeightTrust: maxWeight + 1}).Validate(); err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 3 {
		t.Errorf("mistakes: %v", err)
	}
	if err := (Config{WeightTrust: maxWeight, AgingMillis: 1}).Validate(); err != nil {
		t.Error(err)
	}
}

// TestSteadyStateAllocates holds the queues to no allocation a task; blocks
// are one for every 496.
func TestSteadyStateAllocates(t *testing.T) {
	s := New(Config{})
	c := s.Class("a:x")
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	defer w.Close()
	list, buf := make([]Item, 32), make([]Handle, 64)
	for i := range list {
		list[i] = Item{Class: c, Band: Band(i & 3)}
	}
	if n := testing.AllocsPerRun(1000, func() { // 33 handles
		s.PushBatch(list)
		s.Push(1, s.Class("a:x"), 1, 0)
		w.PushBatch(list)
		for w.TryTake(buf) > 0 {
		}
	}); n > 1 {
		t.Errorf("%.1f allocations a round", n)
	}
}
