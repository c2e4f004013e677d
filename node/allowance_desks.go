package node

// The desks know of every lease, through whichever node it was given: they say
// what an agent holds when its node can't.

// hands are the leases of one agent at a desk: a list through its slots.
type hands struct {
	first uint32 // slot + 1; 0: none
	count int
}

// inHands is a slot's place in the list of its holder.
type inHands struct {
	by         *hands // nil: in nobody's hands
	prev, next uint32 // slot + 1; 0: none
}

// holdersKept is how many agents a desk remembers at least before it forgets
// those that hold nothing.
const holdersKept = 1024

// hand enters that agent holds slot i, or will once its lease is in the log.
// What an agent declares and performs for itself is nobody's to limit. Call
// with the lock held.
func (d *desk) hand(i uint32, agent string) {
	s := d.mu.slots[i]
	d.unhand(i)
	if s.brief.Self {
		return
	}
	h := d.mu.holders[agent]
	if h == nil {
		if len(d.mu.holders) >= max(d.mu.prune, holdersKept) {
			for a, x := range d.mu.holders {
				if x.count == 0 {
					delete(d.mu.holders, a)
				}
			}
			d.mu.prune = 2 * len(d.mu.holders)
		}
		h = &hands{}
		d.mu.holders[agent] = h
	}
	if s.inHands = (inHands{by: h, next: h.first}); h.first != 0 {
		d.mu.slots[h.first-1].prev = i + 1
	}
	h.first = i + 1
	h.count++
}

// unhand takes slot i out of its holder's list, if it is in one. Call with the
// lock held.
func (d *desk) unhand(i uint32) {
	x := &d.mu.slots[i].inHands
	if x.by == nil {
		return
	}
	if x.prev != 0 {
		d.mu.slots[x.prev-1].next = x.next
	} else {
		x.by.first = x.next
	}
	if x.next != 0 {
		d.mu.slots[x.next-1].prev = x.prev
	}
	x.by.count--
	*x = inHands{}
}

// heldBy lists what an agent holds of the shard, at most MaxLeases, and counts
// the rest; false while the desk does not know every lease.
func (d *desk) heldBy(agent string) (list []heldElsewhere, more int, knows bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.term == 0 || !d.mu.opened {
		return nil, 0, false
	}
	h := d.mu.holders[agent]
	if h == nil {
		return nil, 0, true
	}
	for at := h.first; at != 0 && len(list) < MaxLeases; {
		s := d.mu.slots[at-1]
		list = append(list, heldElsewhere{ID: s.brief.ID, Capability: s.brief.Capability})
		at = s.next
	}
	return list, h.count - len(list), true
}

// addDesks adds to an answer what the desks here have of an agent.
func (n *core) addDesks(x *elsewhere, agent string) {
	for shard, r := range *n.replicas.of.Load() {
		if r.desk == nil {
			continue
		}
		list, more, knows := r.desk.heldBy(agent)
		if !knows {
			continue
		}
		x.Led = append(x.Led, shard)
		x.Held = append(x.Held, list...)
		x.More += more
	}
}

// allLed says that the desk of every shard has answered.
func (n *core) allLed(led map[uint32]bool) bool {
	for shard := range n.shards {
		if shard != controlShard && !led[shard] {
			return false
		}
	}
	return true
}
