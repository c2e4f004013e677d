package node

import (
	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// A ready task is raised a band whenever the time left to its deadline has
// halved since it could have been done: at a half of it, a quarter, an eighth.
// So whatever its priority, it is critical for its last eighth.

// raiseAt is when a task that was raised so often is raised again; 0: never.
func raiseAt(b *ledger.Brief, raised uint8) int64 {
	if b.DeadlineMillis == 0 || raised >= uint8(ledger.PriorityCritical-b.Priority) {
		return 0
	}
	patience := max(b.DeadlineMillis-max(b.CreatedMillis, b.NotBeforeMillis), 0)
	return b.DeadlineMillis - patience>>(raised+1)
}

// raises is by how many bands a task comes before its priority at nowMillis.
func raises(b *ledger.Brief, nowMillis int64) (n uint8) {
	for at := raiseAt(b, 0); at > 0 && at <= nowMillis; at = raiseAt(b, n) {
		n++
	}
	return n
}

// band is where the scheduler queues slot s.
func (s *slot) band() sched.Band { return sched.Band(uint8(s.brief.Priority) + s.raised) }

// waits says that slot s is in the scheduler's hands, or on the shelf.
func (s *slot) waits() bool {
	return s.brief.State == ledger.StateReady && s.lease.agent == "" && !s.leasing && !s.brief.Self
}

// raise raises slot i, if it is time; it returns what the scheduler must be
// told: the handle it has is void. Call with the lock held.
func (d *desk) raise(i uint32, nowMillis int64) (ready, bool) {
	s := d.mu.slots[i]
	n := raises(&s.brief, nowMillis)
	if n <= s.raised || !s.waits() {
		return ready{}, false
	}
	s.raised = n
	if s.shelved {
		return ready{}, false // it is offered later
	}
	s.gen++
	return d.ready(i), true
}
