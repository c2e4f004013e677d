//go:build !race

// The race detector allocates, too.

package node

import (
	"testing"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// deskObjects is what the desk may allocate for a task from ready to completed,
// in batches of 256: measured 0.04, the maps' growth and what a batch needs once.
const deskObjects = 0.1

// BenchmarkDesk is the desk alone: tasks become ready, are leased, and end.
func BenchmarkDesk(b *testing.B) {
	x := newDeskRound()
	b.ReportAllocs()
	for i := 0; i < b.N; i += deskRound {
		x.round(b)
	}
}

func TestDeskAllocations(t *testing.T) {
	x := newDeskRound()
	for range 64 { // until slots and maps have their size
		x.round(t)
	}
	if n := testing.AllocsPerRun(100, func() { x.round(t) }) / deskRound; n > deskObjects {
		t.Errorf("%.2f objects a task, want at most %.2f", n, deskObjects)
	} else {
		t.Logf("%.2f objects a task", n)
	}
}

const deskRound = 256

// deskRounds takes tasks through the desk, 256 at a time.
type deskRounds struct {
	d       *desk
	events  []ledger.Event
	handles []sched.Handle
	grants  []grant
	seq     uint64
}

func newDeskRound() *deskRounds {
	x := &deskRounds{events: make([]ledger.Event, deskRound)}
	x.d = newDesk(1, func(list []ready) {
		for _, r := range list {
			x.handles = append(x.handles, r.handle)
		}
	})
	x.d.now = func() int64 { return scriptStart }
	x.d.lead(1, func(func(ledger.Brief) bool) {})
	x.d.open(1, nil, scriptStart)
	return x
}

func (x *deskRounds) round(t testing.TB) {
	for i := range x.events {
		x.seq++
		x.events[i] = ledger.Event{Brief: ledger.Brief{ID: ledger.NewTaskID(1, scriptStart, x.seq), Fleet: "f", Capability: "do:it", State: ledger.StateReady,
			Priority: ledger.PriorityNormal, LeaseMillis: 60_000, CreatedMillis: scriptStart, ReadyMillis: scriptStart}}
	}
	x.handles = x.handles[:0]
	x.d.applied(x.events)
	x.grants = x.d.leaseTo(x.handles, "a", 1, scriptStart, x.grants[:0])
	if len(x.grants) != deskRound {
		t.Fatalf("%d of %d were leased", len(x.grants), deskRound)
	}
	for i := range x.grants {
		if _, _, _, v := x.d.settling(x.grants[i].id, "a", x.grants[i].epoch, scriptStart); v != claimHolds {
			t.Fatal(v)
		}
	}
	for i := range x.events {
		x.events[i].From, x.events[i].State, x.events[i].Settled = ledger.StateReady, ledger.StateCompleted, true
	}
	x.d.applied(x.events)
}
