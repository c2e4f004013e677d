package node

import (
	"sync"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// desk is the volatile side of one task shard, alive while this node leads it:
// which tasks are open, who holds a lease on which, and when something is due.
// The ledger never learns of an assignment before the task ends, so a desk is
// lost with its leader; the next one rebuilds it from the replicated state and
// from what the nodes say their agents hold ([desk.open]).
//
// Leases of exactly_once and self-leased tasks are in the log: the desk learns
// of them from events, and only watches when they end.
//
// Epochs: raft term << epochTermShift | a counter per task within the term. A
// later term's epochs are above every earlier one's, and within the term the
// desk is alone, so they increase strictly per task.
type desk struct {
	shard uint32
	push  func([]ready)                          // hands ready tasks to the scheduler; called without the lock
	now   func() int64                           // for leases that are in the log
	why   func(capability, agent string) *choice // called with the lock held

	mu struct {
		sync.Mutex
		term     uint64  // 0: this node does not lead the shard
		fresh    bool    // leases may be given on what came in this term: nobody can hold it
		opened   bool    // and on the rest: the nodes have reported what they hold
		slots    []*slot // pieces of chunks: growing copies pointers, not tasks
		chunk    []slot  // of slots: the rest of the last chunk
		free     []uint32
		byID     map[ledger.TaskID]uint32
		wheel    wheel
		leased   int
		queued   uint64 // counts what the scheduler was told of
		holders  map[string]*hands
		prune    int                      // of holders: at so many, those with nothing are forgotten
		lastSeen map[ledger.TaskID]uint64 // epochs of leases cut off by cancel or time-out, should the task be retried
	}
}

const epochTermShift = ledger.EpochTermShift

// handleBits of a scheduler handle: shard, generation, slot.
const (
	handleSlotBits  = 32
	handleGenBits   = 20
	handleShardBits = 12
)

// ready is one task for the scheduler.
type ready struct {
	handle     sched.Handle
	fleet      string
	capability string
	band       sched.Band
	millis     int64
}

// slot is one open task.
type slot struct {
	gen     uint32
	brief   ledger.Brief
	epoch   uint64  // the newest lease's
	last    string  // the agent it was given to
	old     bool    // open since before the term: an earlier leader may have leased it
	lease   lease   // agent == "" when nobody holds it
	ending  bool    // a completion is on its way through the log: hands off
	nextTry int64   // do not propose what is due again before
	leasing bool    // a lease is on its way through the log
	why     *choice // of the newest lease's agent; nil: not known
	raised  uint8   // by so many bands, since its deadline is near
	shelved bool    // refused to who asked: offered again at nextTry
	passed  uint8   // by so many approvers, since it was shelved last
	queued  uint64  // its turn among what the scheduler was told of
	inHands         // who holds it, or is about to
}

// lease is who works on a task and until when.
type lease struct {
	agent     string
	node      uint64 // the raft ID of the node the agent is connected to
	epoch     uint64
	expires   int64 // ms
	assigned  int64
	started   int64  // 0: assigned, not yet started
	confirmed bool   // its node said that it arrived
	confirmBy int64  // or is asked
	theft     *theft // nil: it was not stolen
	progress  []byte
}

// Timings of the desk, in milliseconds.
const (
	confirmMillis  = 5_000 // a node is asked about a lease it did not confirm
	proposeAgainMs = 2_000 // what is due and was proposed is not proposed again before
	leaseSlackMs   = 200   // an expiry is proposed this much late, so that a renewal in flight wins
)

func newDesk(shard uint32, push func([]ready)) *desk {
	d := &desk{shard: shard, push: push, now: func() int64 { return 0 }, why: func(string, string) *choice { return nil }}
	d.mu.byID = map[ledger.TaskID]uint32{}
	d.mu.holders = map[string]*hands{}
	d.mu.lastSeen = map[ledger.TaskID]uint64{}
	return d
}

func (d *desk) handle(i, gen uint32) sched.Handle {
	return sched.Handle(uint64(d.shard)<<(handleSlotBits+handleGenBits) |
		uint64(gen&(1<<handleGenBits-1))<<handleSlotBits | uint64(i))
}

// handleShard is the shard a handle belongs to.
func handleShard(h sched.Handle) uint32 { return uint32(h >> (handleSlotBits + handleGenBits)) }

// lead takes the desk up for a term, closed: tasks are known but no lease is
// given until open. It runs on the shard's goroutine, after everything
// committed before the term was applied.
func (d *desk) lead(term uint64, live func(func(ledger.Brief) bool)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clear()
	d.mu.term = term
	live(func(b ledger.Brief) bool {
		i := d.put(b)
		d.mu.slots[i].old = true
		d.watch(i)
		return true
	})
}

// follow puts the desk down.
func (d *desk) follow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clear()
}

func (d *desk) clear() {
	m := &d.mu
	m.term, m.fresh, m.opened, m.leased = 0, false, false, 0
	m.wheel.reset()
	m.free = m.free[:0]
	for i := range m.slots {
		*m.slots[i] = slot{gen: m.slots[i].gen + 1} // handles still queued are stale now
		m.free = append(m.free, uint32(i))
	}
	clear(m.byID)
	clear(m.lastSeen)
	clear(m.holders)
}

// report is a lease that a node says one of its agents holds.
type report struct {
	id    ledger.TaskID
	agent string
	node  uint64
	epoch uint64
	theft *theft
}

// begin lets the desk give leases on tasks that came in its own term; those
// from before wait for open.
func (d *desk) begin(term uint64) {
	d.mu.Lock()
	if d.mu.term != term || d.mu.opened || d.mu.fresh {
		d.mu.Unlock()
		return
	}
	d.mu.fresh = true
	out := d.unleased(func(s *slot) bool { return !s.old })
	d.mu.Unlock()
	d.push(out)
}

// open ends a leader change: leases reported by the nodes stand again, every
// other ready task goes to the scheduler. A report of an epoch this term could
// have given is made up. Nothing happens if term is over.
func (d *desk) open(term uint64, reports []report, nowMillis int64) {
	d.mu.Lock()
	if d.mu.term != term || d.mu.opened {
		d.mu.Unlock()
		return
	}
	d.mu.opened = true
	for _, r := range reports {
		if r.epoch>>epochTermShift < term {
			d.restore(r, nowMillis)
		}
	}
	out := d.unleased(func(s *slot) bool { return s.old || !d.mu.fresh })
	d.mu.Unlock()
	d.push(out)
}

// unleased lists the ready tasks that nobody holds, if which says so. Call with
// the lock held.
func (d *desk) unleased(which func(*slot) bool) (out []ready) {
	for i := range d.mu.slots {
		s := d.mu.slots[i]
		if s.brief.State == ledger.StateReady && s.lease.agent == "" && !s.brief.ID.IsZero() && !s.brief.Self && which(s) {
			out = append(out, d.ready(uint32(i)))
		}
	}
	return out
}

// restore puts a reported lease back, unless the task moved on.
func (d *desk) restore(r report, nowMillis int64) {
	i, ok := d.mu.byID[r.id]
	if !ok {
		return
	}
	s := d.mu.slots[i]
	if s.brief.State != ledger.StateReady || r.epoch <= s.brief.Epoch || r.epoch < s.lease.epoch {
		return
	}
	if s.lease.agent == "" {
		d.mu.leased++
	}
	s.epoch, s.last = max(s.epoch, r.epoch), r.agent
	s.lease = lease{agent: r.agent, node: r.node, epoch: r.epoch, assigned: nowMillis, confirmed: true,
		expires: nowMillis + s.brief.LeaseMillis, theft: r.theft}
	d.hand(i, r.agent)
	d.rearm(i)
}

func (d *desk) ready(i uint32) ready {
	s := d.mu.slots[i]
	b := &s.brief
	if b.DeadlineMillis > 0 {
		s.raised = max(s.raised, raises(b, d.now()))
		d.rearm(i)
	}
	d.mu.queued++
	s.queued = d.mu.queued
	return ready{handle: d.handle(i, s.gen), fleet: b.Fleet, capability: b.Capability, band: s.band(), millis: b.ReadyMillis}
}

// put makes or refreshes the slot of an open task.
func (d *desk) put(b ledger.Brief) uint32 {
	m := &d.mu
	i, ok := m.byID[b.ID]
	if !ok {
		if n := len(m.free); n > 0 {
			i, m.free = m.free[n-1], m.free[:n-1]
		} else {
			i = uint32(len(m.slots))
			m.slots = append(m.slots, d.slot())
		}
		m.byID[b.ID] = i
		m.slots[i].epoch = b.Epoch
		if e, ok := m.lastSeen[b.ID]; ok {
			m.slots[i].epoch = max(e, b.Epoch)
			delete(m.lastSeen, b.ID)
		}
	}
	m.slots[i].brief = b
	d.rearm(i)
	return i
}

const slotChunk = 256

// slot is a fresh one.
func (d *desk) slot() *slot {
	if len(d.mu.chunk) == 0 {
		d.mu.chunk = make([]slot, slotChunk)
	}
	s := &d.mu.chunk[0]
	d.mu.chunk = d.mu.chunk[1:]
	return s
}

// drop forgets an ended task.
func (d *desk) drop(i uint32) {
	m := &d.mu
	s := m.slots[i]
	if s.lease.agent != "" {
		m.leased--
	}
	d.unhand(i)
	delete(m.byID, s.brief.ID)
	m.wheel.disarm(i)
	*s = slot{gen: s.gen + 1}
	m.free = append(m.free, i)
}

// applied follows the ledger: events come in log order from the shard's
// goroutine.
func (d *desk) applied(events []ledger.Event) {
	d.mu.Lock()
	if d.mu.term == 0 {
		d.mu.Unlock()
		return
	}
	var out []ready
	for k := range events {
		e := &events[k]
		if e.State.Terminal() {
			if i, ok := d.mu.byID[e.ID]; ok {
				if s := d.mu.slots[i]; s.epoch > e.Epoch {
					d.mu.lastSeen[e.ID] = s.epoch
				}
				d.drop(i)
			}
			continue
		}
		i := d.put(e.Brief)
		s := d.mu.slots[i]
		if s.lease.agent != "" { // the attempt it stood for has ended
			d.mu.leased--
			s.lease = lease{}
			d.rearm(i)
		}
		d.unhand(i)
		s.gen++ // a handle from an earlier turn is stale
		s.ending, s.nextTry, s.leasing, s.shelved, s.raised, s.passed = false, 0, false, false, 0, 0
		d.watch(i)
		if e.State == ledger.StateReady && (d.mu.opened || d.mu.fresh) && !e.Self {
			out = append(out, d.ready(i))
		}
	}
	d.mu.Unlock()
	if len(out) > 0 {
		d.push(out)
	}
}

// watch enters the lease that the log has on a task.
func (d *desk) watch(i uint32) {
	s := d.mu.slots[i]
	b := &s.brief
	if b.State != ledger.StateRunning || b.Holder == "" {
		return
	}
	now := d.now()
	s.epoch, s.last = b.Epoch, b.Holder
	s.lease = lease{agent: b.Holder, epoch: b.Epoch, assigned: now, started: now, confirmed: true, expires: now + b.LeaseMillis}
	d.hand(i, b.Holder)
	d.mu.leased++
	d.rearm(i)
}

// unlease takes a task back whose lease the log refused: it is offered again,
// after a while, since the same agent may be the next to ask.
func (d *desk) unlease(id ledger.TaskID, nowMillis int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.mu.byID[id]; ok && d.mu.slots[i].leasing {
		s := d.mu.slots[i]
		s.leasing, s.shelved, s.nextTry = false, true, nowMillis+proposeAgainMs/4
		d.unhand(i)
		s.gen++
		d.rearm(i)
	}
}

// passOn offers a task again at once that was about to be leased to one of its
// approvers, who does not wait meanwhile: the next best gets it. When nobody
// else comes for it either, it is shelved.
func (d *desk) passOn(id ledger.TaskID, nowMillis int64) {
	d.mu.Lock()
	i, ok := d.mu.byID[id]
	if !ok || !d.mu.slots[i].leasing || d.mu.slots[i].passed == passesMost {
		d.mu.Unlock()
		d.unlease(id, nowMillis)
		return
	}
	s := d.mu.slots[i]
	s.leasing = false
	s.passed++
	d.unhand(i)
	s.gen++
	r := d.ready(i)
	d.mu.Unlock()
	d.push([]ready{r})
}

// passesMost bounds the lease calls of approvers that a task is passed on by in
// a row.
const passesMost = 8

// shelve offers a ready task again at a time, instead of now.
func (d *desk) shelve(h sched.Handle, atMillis int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.slotOf(h); ok && d.mu.slots[i].lease.agent == "" {
		s := d.mu.slots[i]
		s.shelved, s.nextTry = true, atMillis
		s.gen++
		d.rearm(i)
	}
}

// rearm sets slot i's one due time: the soonest of lease end, delay,
// deadline and its nearing.
func (d *desk) rearm(i uint32) {
	s := d.mu.slots[i]
	due := int64(0)
	sooner := func(t int64) {
		if t > 0 && (due == 0 || t < due) {
			due = t
		}
	}
	if s.lease.agent != "" {
		sooner(s.lease.expires + leaseSlackMs)
		if !s.lease.confirmed {
			sooner(s.lease.confirmBy)
		}
	} else if s.brief.State == ledger.StateSubmitted {
		sooner(s.brief.NotBeforeMillis)
	}
	sooner(s.brief.DeadlineMillis)
	if s.waits() {
		sooner(raiseAt(&s.brief, s.raised))
	}
	if s.shelved {
		sooner(s.nextTry)
	}
	if due == 0 {
		d.mu.wheel.disarm(i)
		return
	}
	d.mu.wheel.arm(i, max(due, s.nextTry))
}

// slotOf finds what a handle stands for, if it still does.
func (d *desk) slotOf(h sched.Handle) (uint32, bool) {
	i, gen := uint32(h), uint32(h>>handleSlotBits)&(1<<handleGenBits-1)
	if int(i) >= len(d.mu.slots) || d.mu.slots[i].gen&(1<<handleGenBits-1) != gen {
		return 0, false
	}
	return i, true
}
