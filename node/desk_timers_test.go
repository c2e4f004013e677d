package node

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// Every kind of timer of a desk fires when it is due, at most a turn of the
// loop and a tick late, by the clock of a bubble; and a hundred thousand that
// are pending have no goroutine.
func TestDeskTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		now := func() int64 { return time.Now().UnixMilli() }
		fired := map[string]time.Duration{}
		seen := func(what string) {
			if _, ok := fired[what]; !ok {
				fired[what] = time.Since(begin)
			}
		}
		handles := map[ledger.TaskID]sched.Handle{}
		names := map[ledger.TaskID]string{}
		d := newDesk(1, func(list []ready) {
			for _, r := range list {
				id := ledger.NewTaskID(1, 0, uint64(uint32(r.handle)))
				handles[id] = r.handle
				if r.band > 1 {
					seen("raised")
				}
			}
		})
		d.now = now
		d.lead(1, func(func(ledger.Brief) bool) {})
		d.open(1, nil, now())
		// Slots are numbered as they come: the handle says whose it is.
		slot := uint64(0)
		task := func(name string, change func(*ledger.Brief)) ledger.TaskID {
			b := ledger.Brief{ID: ledger.NewTaskID(1, 0, slot), Fleet: "f", Capability: "do:it", State: ledger.StateReady, Priority: ledger.PriorityNormal,
				LeaseMillis: 30_000, CreatedMillis: now(), ReadyMillis: now()}
			slot++
			change(&b)
			names[b.ID] = name
			d.applied([]ledger.Event{{Brief: b}})
			return b.ID
		}
		in := func(x time.Duration) int64 { return now() + x.Milliseconds() }
		leased := task("lease", func(*ledger.Brief) {})
		task("delay", func(b *ledger.Brief) { b.State, b.NotBeforeMillis = ledger.StateSubmitted, in(45*time.Second) })
		task("backoff", func(b *ledger.Brief) {
			b.State, b.NotBeforeMillis, b.Attempts = ledger.StateSubmitted, in(3*time.Hour), 2
		})
		task("deadline", func(b *ledger.Brief) { b.DeadlineMillis = in(5 * time.Hour) })
		task("raised", func(b *ledger.Brief) { b.DeadlineMillis = in(40 * time.Minute) })
		if len(d.leaseTo([]sched.Handle{handles[leased]}, "a", 1, now(), nil)) != 1 {
			t.Fatal("not leased")
		}
		d.confirm(leased, d.mu.slots[0].epoch)
		goroutines := runtime.NumGoroutine()
		for range 100_000 {
			task("", func(b *ledger.Brief) { b.State, b.NotBeforeMillis = ledger.StateSubmitted, in(90*24*time.Hour) })
		}
		if runtime.NumGoroutine() > goroutines || d.mu.wheel.pending < 100_000 {
			t.Errorf("%d goroutines for %d timers", runtime.NumGoroutine()-goroutines, d.mu.wheel.pending)
		}
		turnDesk(d, func() bool { return len(fired) < 5 && time.Since(begin) < 6*time.Hour }, func(id ledger.TaskID) {
			if names[id] != "raised" {
				seen(names[id])
			}
		})
		for what, want := range map[string]time.Duration{"lease": 30*time.Second + leaseSlackMs*time.Millisecond, "delay": 45 * time.Second,
			"backoff": 3 * time.Hour, "deadline": 5 * time.Hour, "raised": 20 * time.Minute} {
			if late := fired[what] - want; late < 0 || late > deskInterval+2*wheelTickMillis*time.Millisecond {
				t.Errorf("%s fired after %v, due after %v", what, fired[what], want)
			}
		}
	})
}

// turnDesk does what deskLoop does while more says so, and tells which tasks
// commands are proposed for.
func turnDesk(d *desk, more func() bool, proposed func(ledger.TaskID)) {
	turn := time.NewTicker(deskInterval)
	defer turn.Stop()
	for more() {
		now := <-turn.C
		cmds, _ := d.due(now.UnixMilli())
		for _, c := range cmds {
			switch c := c.(type) {
			case *ledger.Expire:
				proposed(c.ID)
			case *ledger.Due:
				proposed(c.ID)
			case *ledger.Timeout:
				proposed(c.ID)
			}
		}
	}
}
