package node

import (
	"testing"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// Under a flood of high tasks that are older by hours, a low task is given
// before its deadline, though aging alone would not bring it there; its old
// handles are passed over. Without a deadline it waits for its age.
func TestDeadlinePromotes(t *testing.T) {
	const aging, deadline = 3_600_000, 20_000
	for _, with := range []bool{true, false} {
		now := int64(scriptStart)
		s := sched.New(sched.Config{NowMillis: func() int64 { return now }, AgingMillis: aging})
		w := s.AddWorker(sched.WorkerConfig{Capabilities: []string{"do:it"}})
		d := newDesk(1, func(list []ready) {
			for _, r := range list {
				s.Push(r.handle, s.Class(r.capability), r.band, r.millis)
			}
		})
		d.lead(1, func(func(ledger.Brief) bool) {})
		d.open(1, nil, now)
		seq := uint64(0)
		task := func(p ledger.Priority, deadline int64) ledger.TaskID {
			seq++
			b := ledger.Brief{ID: ledger.NewTaskID(1, now, seq), Fleet: "f", Capability: "do:it", State: ledger.StateReady, Priority: p,
				LeaseMillis: 60_000, CreatedMillis: now, ReadyMillis: now, DeadlineMillis: deadline}
			d.applied([]ledger.Event{{Brief: b}})
			return b.ID
		}
		for range 2000 {
			task(ledger.PriorityHigh, 0)
		}
		now += 100
		x := int64(0)
		if with {
			x = now + deadline
		}
		low, begin := task(ledger.PriorityLow, x), now
		buf, given := make([]sched.Handle, 1), int64(0)
		for given == 0 && now < begin+deadline { // 50 are done a second: the flood lasts 40
			now += 20
			task(ledger.PriorityHigh, 0)
			d.due(now)
			for n := w.TryTake(buf); n > 0; n = w.TryTake(buf) {
				if got := d.leaseTo(buf, "a", 1, now, nil); len(got) == 1 {
					if got[0].id == low {
						given = now
					}
					break
				}
			}
		}
		if !with {
			if given != 0 {
				t.Errorf("without a deadline it was given after %d ms", given-begin)
			}
			continue
		}
		// A half of its time makes it normal, a quarter high, an eighth critical.
		if waited := given - begin; given == 0 || waited > deadline*7/8+3*wheelTickMillis {
			t.Errorf("given after %d ms of %d", waited, deadline)
		}
	}
}

func TestRaises(t *testing.T) {
	b := ledger.Brief{Priority: ledger.PriorityLow, CreatedMillis: 1000, DeadlineMillis: 9000}
	for _, x := range []struct {
		now  int64
		want uint8
	}{{0, 0}, {4999, 0}, {5000, 1}, {6999, 1}, {7000, 2}, {7999, 2}, {8000, 3}, {8999, 3}, {20_000, 3}} {
		if got := raises(&b, x.now); got != x.want {
			t.Errorf("at %d: %d, want %d", x.now, got, x.want)
		}
	}
	b.Priority = ledger.PriorityHigh
	if raises(&b, 8500) != 1 || raiseAt(&b, 1) != 0 {
		t.Error("beyond critical")
	}
	b.DeadlineMillis = 0
	if raises(&b, 8500) != 0 || raiseAt(&b, 0) != 0 {
		t.Error("raised without a deadline")
	}
	b.DeadlineMillis, b.CreatedMillis = 500, 1000
	if raises(&b, 499) != 0 {
		t.Error("a deadline before its beginning")
	}
}
