package node

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// A handle stands for one task in one turn: whatever the scheduler brings back
// late (from a lane that was robbed, from before a leader change, for a slot
// that another task has by now) gives no lease.

func TestHandlesOfOneTurn(t *testing.T) {
	seed := rand.Uint64()
	if err := accountForHandles(seed, func(*desk) {}); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
}

// TestLostGeneration shows that the account would notice.
func TestLostGeneration(t *testing.T) {
	for what, plant := range map[string]func(*slot){
		"generations are not counted": func(s *slot) { s.gen = 0 },
		"generations wrap at once":    func(s *slot) { s.gen &= 1 },
	} {
		if err := accountForHandles(1, func(d *desk) {
			for _, s := range d.mu.slots {
				plant(s)
			}
		}); err == nil {
			t.Errorf("%s: not noticed", what)
		}
	}
}

// accountForHandles has tasks come, be leased, fail and end at random, and
// brings back every handle that was ever handed out. plant is called after
// each step.
func accountForHandles(seed uint64, plant func(*desk)) error {
	type ticket struct {
		handle sched.Handle
		id     ledger.TaskID
		turn   int
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	var tickets []ticket
	turn, leased, open := map[ledger.TaskID]int{}, map[ledger.TaskID]uint64{}, []ledger.TaskID{}
	var d *desk
	d = newDesk(1, func(list []ready) {
		for _, r := range list {
			id := d.mu.slots[uint32(r.handle)].brief.ID
			turn[id]++
			tickets = append(tickets, ticket{r.handle, id, turn[id]})
		}
	})
	d.now = func() int64 { return scriptStart }
	brief := func(id ledger.TaskID, state ledger.State, epoch uint64) ledger.Brief {
		return ledger.Brief{ID: id, Fleet: "f", Capability: "do:it", State: state, LeaseMillis: 60_000, Epoch: epoch}
	}
	term := uint64(1)
	lead := func() {
		d.lead(term, func(fn func(ledger.Brief) bool) {
			for _, id := range open {
				fn(brief(id, ledger.StateReady, leased[id]))
			}
		})
		d.open(term, nil, scriptStart)
	}
	lead()
	held := func(id ledger.TaskID) bool { return d.mu.slots[d.mu.byID[id]].lease.agent != "" }
	for n := range 20_000 {
		switch k := rng.IntN(100); {
		case k < 30 && len(open) < 50:
			id := ledger.NewTaskID(1, scriptStart, uint64(n))
			open = append(open, id)
			d.applied([]ledger.Event{{Brief: brief(id, ledger.StateReady, 0)}})
		case k < 45 && len(open) > 0: // ends
			i := rng.IntN(len(open))
			id := open[i]
			open[i] = open[len(open)-1]
			open = open[:len(open)-1]
			d.applied([]ledger.Event{{Brief: brief(id, ledger.StateCompleted, d.mu.slots[d.mu.byID[id]].epoch)}})
			turn[id]++
		case k < 55 && len(open) > 0: // fails, and is ready again
			id := open[rng.IntN(len(open))]
			leased[id] = d.mu.slots[d.mu.byID[id]].epoch
			d.applied([]ledger.Event{{Brief: brief(id, ledger.StateReady, leased[id])}})
		case k == 99 && rng.IntN(10) == 0:
			term++
			lead()
		case len(tickets) > 0:
			x := tickets[rng.IntN(len(tickets))]
			wants := turn[x.id] == x.turn && !held(x.id)
			got := d.leaseTo([]sched.Handle{x.handle}, "a", 1, scriptStart, nil)
			switch {
			case len(got) > 0 && got[0].id != x.id:
				return fmt.Errorf("step %d: a handle of %s leased %s", n, x.id, got[0].id)
			case len(got) > 0 && !wants:
				return fmt.Errorf("step %d: %s was leased by a handle of turn %d, in turn %d", n, x.id, x.turn, turn[x.id])
			case len(got) == 0 && wants:
				return fmt.Errorf("step %d: %s was not leased by its handle", n, x.id)
			}
		}
		plant(d)
	}
	return nil
}
