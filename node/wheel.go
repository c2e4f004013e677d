package node

// wheel keeps one due time per slot in hashed buckets of intrusive lists:
// arming, re-arming and disarming are O(1) and allocate nothing. A slot whose
// due time lies further ahead than one turn stays in its bucket and is looked
// at once a turn (about 65 s), which costs less than a second level would at a
// million timers. The zero wheel is ready. Not safe for concurrent use: its
// desk's lock covers it.
type wheel struct {
	heads   [wheelBuckets]uint32 // slot number + 1; 0 = empty
	links   []wheelLink          // by slot
	at      int64                // the last tick looked at
	pending int
}

type wheelLink struct {
	next, prev uint32 // slot number + 1; prev of a first element is 0
	due        int64  // milliseconds; 0 = not armed
}

const (
	wheelTickMillis = 64
	wheelBuckets    = 1024
)

// arm sets slot's due time, replacing the one it had.
func (w *wheel) arm(slot uint32, dueMillis int64) {
	w.disarm(slot)
	for int(slot) >= len(w.links) {
		w.links = append(w.links, wheelLink{})
	}
	// A due time in a tick already passed is put into the next one looked at.
	tick := max((dueMillis+wheelTickMillis-1)/wheelTickMillis, w.at+1)
	b := tick % wheelBuckets
	l := &w.links[slot]
	*l = wheelLink{next: w.heads[b], due: tick * wheelTickMillis}
	if l.next != 0 {
		w.links[l.next-1].prev = slot + 1
	}
	w.heads[b] = slot + 1
	w.pending++
}

// disarm forgets slot's due time, if it has one.
func (w *wheel) disarm(slot uint32) {
	if int(slot) >= len(w.links) || w.links[slot].due == 0 {
		return
	}
	l := &w.links[slot]
	if l.prev != 0 {
		w.links[l.prev-1].next = l.next
	} else {
		w.heads[(l.due/wheelTickMillis)%wheelBuckets] = l.next
	}
	if l.next != 0 {
		w.links[l.next-1].prev = l.prev
	}
	*l = wheelLink{}
	w.pending--
}

// advance disarms every slot due at nowMillis and calls due for each.
func (w *wheel) advance(nowMillis int64, due func(slot uint32)) {
	now := nowMillis / wheelTickMillis
	if w.at == 0 || w.pending == 0 {
		// Nothing armed before the first advance may be skipped: look at a
		// whole turn once, then go on tick by tick.
		if w.pending == 0 {
			w.at = now
			return
		}
		w.at = now - wheelBuckets
	}
	if now-w.at > wheelBuckets {
		w.at = now - wheelBuckets
	}
	var fired []uint32
	for w.at < now {
		w.at++
		for s := w.heads[w.at%wheelBuckets]; s != 0; s = w.links[s-1].next {
			if w.links[s-1].due/wheelTickMillis <= now {
				fired = append(fired, s-1)
			}
		}
	}
	for _, s := range fired {
		w.disarm(s)
		due(s)
	}
}

// reset forgets every due time.
func (w *wheel) reset() {
	clear(w.heads[:])
	w.links, w.pending = w.links[:0], 0
}
