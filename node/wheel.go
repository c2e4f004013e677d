package node

// wheel keeps one due time per slot in two rings of buckets, intrusive lists:
// arming, re-arming and disarming are O(1) and allocate nothing, and a slot is
// looked at once more for each turn of the far ring (18 hours) and once when
// its turn of the near one begins, however many there are (Varghese, Lauck,
// SOSP '87). The zero wheel is ready. Not safe for concurrent use: its desk's
// lock covers it.
type wheel struct {
	near    [wheelBuckets]uint32 // slot number + 1; 0 = empty. One bucket a tick
	far     [wheelBuckets]uint32 // one a turn of near
	links   []wheelLink          // by slot
	fired   []uint32             // advance's own
	at      int64                // the last tick looked at
	pending int
}

type wheelLink struct {
	next, prev uint32 // slot number + 1; prev of a first element is 0
	due        int64  // milliseconds, a whole tick, plus isFar; 0 = not armed
}

const (
	wheelTickMillis = 64
	wheelBuckets    = 1024
	isFar           = 1 // in due, which is a multiple of the tick: where the slot is
)

func (l *wheelLink) tick() int64 { return l.due / wheelTickMillis }

// head is the bucket that an armed slot is in.
func (w *wheel) head(l *wheelLink) *uint32 {
	if l.due&isFar != 0 {
		return &w.far[l.tick()/wheelBuckets%wheelBuckets]
	}
	return &w.near[l.tick()%wheelBuckets]
}

// arm sets slot's due time, replacing the one it had.
func (w *wheel) arm(slot uint32, dueMillis int64) {
	w.disarm(slot)
	for int(slot) >= len(w.links) {
		w.links = append(w.links, wheelLink{})
	}
	// A due time in a tick already passed is put into the next one looked at.
	w.insert(slot, max((dueMillis+wheelTickMillis-1)/wheelTickMillis, w.at+1))
	w.pending++
}

func (w *wheel) insert(slot uint32, tick int64) {
	l := &w.links[slot]
	l.due = tick * wheelTickMillis
	if tick-w.at >= wheelBuckets {
		l.due |= isFar
	}
	head := w.head(l)
	l.next, l.prev = *head, 0
	if l.next != 0 {
		w.links[l.next-1].prev = slot + 1
	}
	*head = slot + 1
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
		*w.head(l) = l.next
	}
	if l.next != 0 {
		w.links[l.next-1].prev = l.prev
	}
	*l = wheelLink{}
	w.pending--
}

// advance disarms every slot due at nowMillis and calls due for each, which may
// arm it again.
func (w *wheel) advance(nowMillis int64, due func(slot uint32)) {
	now := nowMillis / wheelTickMillis
	switch {
	case w.pending == 0:
		w.at = max(w.at, now)
	case w.at == 0 || now-w.at > wheelBuckets: // the first time, or after a long pause
		w.rewind(now - 1)
	}
	fired := w.fired[:0]
	for w.at < now {
		if w.at++; w.at%wheelBuckets == 0 {
			w.nearer()
		}
		// Within a turn of near every slot of a bucket is due in the same tick.
		for s := w.near[w.at%wheelBuckets]; s != 0; s = w.links[s-1].next {
			fired = append(fired, s-1)
		}
	}
	for _, s := range fired {
		w.disarm(s)
	}
	for _, s := range fired {
		due(s)
	}
	w.fired = fired[:0]
}

// nearer moves what is due in the turn that begins to near.
func (w *wheel) nearer() {
	turn := w.at / wheelBuckets
	head := &w.far[turn%wheelBuckets]
	s := *head
	*head = 0
	for s != 0 {
		slot := s - 1
		s = w.links[slot].next
		w.insert(slot, w.links[slot].tick())
	}
}

// rewind sets every armed slot anew, as seen from a tick.
func (w *wheel) rewind(at int64) {
	clear(w.near[:])
	clear(w.far[:])
	w.at = at
	for i := range w.links {
		if l := &w.links[i]; l.due != 0 {
			w.insert(uint32(i), max(l.tick(), at+1))
		}
	}
}

// reset forgets every due time.
func (w *wheel) reset() {
	clear(w.near[:])
	clear(w.far[:])
	w.links, w.pending = w.links[:0], 0
}
