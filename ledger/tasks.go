package ledger

import (
	"crypto/sha256"
	"fmt"
)

// Tasks is the state machine of one task shard: a deterministic fold over the
// shard's log. Everything that has not ended is in memory; what has ended
// stays there until it is in the checkpoint, and is read from it afterwards.
//
// Restore, Apply, Freeze and Thaw change it and need exclusion; all other
// methods only read, and any number of them may run at once.
type Tasks struct {
	shard uint32
	cold  Cold

	now      int64 // ledger time
	counts   [NumStates]uint64
	endedSum uint64 // of every ended task: see entry.sum
	journal  journal

	slab  slab
	byID  table
	byKey table
	order order
	names *names

	dirty   []uint32 // places changed since the last Freeze
	frozen  []uint32 // places the last Freeze covers; until Thaw
	freeze  uint32   // Freezes begun, and 1: what entries say that are listed in dirty
	encoded int      // of frozen: how many FreezeSome went through
	thawed  int      // of frozen: how many ThawSome went through
	rows    rows     // encoded ahead of FreezeSome, because a command came for them

	// What memory does not have may be in the checkpoint. Keys: oldKeys has
	// every key row's, eras how many rows there are in each. IDs: one made after restoredMillis is there only if
	// oldIDs has it; reading the IDs of all ended tasks at Restore would cost
	// more than a read for each late one.
	oldKeys        bloom
	eras           eras
	oldIDs         bloom
	restoredMillis int64 // greatest ID time among rows of ended tasks, at Restore
	coldMillis     int64 // the same, now

	outbox outbox   // letters to other shards, until acknowledged
	stuck  []TaskID // whose rollback failed, until somebody settles them; ascending
	extras []extra  // rows of the two changed since the last Freeze
	todo   []TaskID // ended by this command: who hears of it is still to be told

	changed []uint32 // places that this command changed
	changes uint64   // see Changed
	row     []byte   // scratch

	index   uint64 // of the entry being applied
	term    uint64 // its
	events  []Event
	scratch entry // an ended task read from the checkpoint
	rec     Record
}

// Limits of text in commands, far above what a node lets in: they keep a
// record within a page or so of memory whatever is proposed.
const (
	maxNameBytes        = 1 << 10  // fleet, action, target, session, agent, node, who
	maxKeyBytes         = 4 << 10  // idempotency key
	maxDescriptionBytes = 64 << 10 // description
	maxErrorBytes       = 64 << 10 // error, reason
	maxDetailBytes      = 512      // of an error that go into its record
)

// NewTasks makes the state machine of a shard. appendRecord gets every audit
// record with its chain hash, in order; it must copy it. Restore comes before
// anything else.
func NewTasks(shard uint32, cold Cold, appendRecord func([]byte)) *Tasks {
	t := &Tasks{shard: shard, cold: cold, journal: newJournal(shard, appendRecord), names: new(names)}
	t.reset()
	return t
}

func (t *Tasks) reset() {
	t.now, t.counts, t.endedSum = 0, [NumStates]uint64{}, 0
	t.journal.restore(recordVersion1, NewChain(t.shard))
	t.slab = slab{}
	t.byID, t.byKey, t.order = newTable(&t.slab, false), newTable(&t.slab, true), order{}
	t.dirty, t.frozen, t.freeze, t.encoded, t.thawed, t.rows = nil, nil, 1, 0, 0, rows{}
	t.oldKeys, t.eras, t.oldIDs, t.restoredMillis, t.coldMillis = bloom{}, nil, bloom{}, 0, 0
	t.outbox, t.stuck, t.extras = outbox{}, nil, nil
	t.changed, t.changes = nil, 0
}

// Apply decides about one command of the log and changes the state. Events
// are appended to events. A command that can't be decoded, or a checkpoint
// that can't be read, is a panic: this replica can't go on.
func (t *Tasks) Apply(at At, cmd []byte, events []Event) (Outcome, []Event) {
	t.now, t.index, t.term, t.events = max(t.now, at.TimeMillis), at.Index, at.Term, events
	r := reader{b: cmd, size: len(cmd), alias: true, names: t.names}
	o := t.decide(&r)
	for len(t.todo) > 0 {
		id := t.todo[0]
		t.todo = t.todo[1:]
		t.ended(id)
	}
	t.todo = t.todo[:0]
	t.noteChanged()
	events, t.events = t.events, nil
	return o, events
}

func (t *Tasks) decide(r *reader) Outcome {
	switch k := readHead(r); k {
	case kindSubmit:
		return t.submit(r)
	case kindComplete:
		var c Complete
		c.read(r)
		t.whole(r)
		return t.complete(&c)
	case kindFail:
		var c Fail
		c.read(r)
		t.whole(r)
		return t.fail(&c)
	case kindExpire:
		var c Expire
		c.read(r)
		t.whole(r)
		return t.expire(&c)
	case kindDue:
		var c Due
		c.read(r)
		t.whole(r)
		return t.due(c.ID)
	case kindTimeout:
		var c Timeout
		c.read(r)
		t.whole(r)
		return t.timeout(c.ID)
	case kindCancel:
		var c Cancel
		c.read(r)
		t.whole(r)
		return t.cancel(&c)
	case kindRetry:
		var c Retry
		c.read(r)
		t.whole(r)
		return t.retry(&c)
	case kindRefused:
		var c Refused
		c.read(r)
		t.whole(r)
		return t.refused(&c)
	case kindClusterRestored:
		var c ClusterRestored
		c.read(r)
		t.whole(r)
		return t.restored(&c)
	case kindAuditFormat, kindErase, kindEvict, kindEvictSettled:
		return t.decideAudit(k, r)
	default:
		if r.err == nil && (newTxnCommand(k) != nil || k == kindRuled) {
			return t.decideTxn(k, r)
		}
		if r.err == nil && newCommand(k) != nil {
			return Outcome{Code: Invalid, Detail: "not a command of a task shard"}
		}
		if r.err == nil {
			r.fail(fmt.Sprintf("command kind %d is not known", k))
		}
		t.whole(r)
		return Outcome{}
	}
}

// whole panics unless the command was read to its end.
func (t *Tasks) whole(r *reader) {
	if err := r.end(); err != nil {
		panic(fmt.Sprintf("ledger: shard %d entry %d: %v", t.shard, t.index, err))
	}
}

// find looks a task up: its place, 0 if it is in the checkpoint only (the
// entry is then good until the next find), and nil if it is nowhere.
func (t *Tasks) find(id TaskID) (uint32, *entry) {
	if i := t.byID.find((*[16]byte)(&id)); i != 0 {
		if e := t.held(i); !e.evicted() {
			return i, e
		}
		return 0, nil
	}
	if !t.mayBeCold(&id) {
		return 0, nil
	}
	b, ok, err := t.cold.Get(endedKey(id))
	if err != nil {
		panic(fmt.Sprintf("ledger: shard %d task %s: reading the checkpoint: %v", t.shard, id, err))
	}
	if !ok {
		return 0, nil
	}
	var w row
	if err := w.decode(id, b); err != nil {
		panic(fmt.Sprintf("ledger: shard %d: %v", t.shard, err))
	}
	t.scratch = w.entry(t.names)
	return 0, &t.scratch
}

func (t *Tasks) mayBeCold(id *TaskID) bool {
	return id.Millis() <= t.restoredMillis || t.oldIDs.mayHave((*[16]byte)(id))
}

// named is the task that a fleet's key names: the one stored under it, or else
// the one whose ID it is, which is the key that a task without one is given.
func (t *Tasks) named(fleet, key []byte, hash *[16]byte) *entry {
	if e := t.findKey(hash); e != nil {
		return e
	}
	if id, ok := idInKey(key); ok {
		if _, e := t.find(id); e != nil && e.class.fleet == string(fleet) {
			return e
		}
	}
	return nil
}

// findKey looks the task of an idempotency key up.
func (t *Tasks) findKey(key *[16]byte) *entry {
	if i := t.byKey.find(key); i != 0 {
		return t.held(i)
	}
	if !t.oldKeys.mayHave(key) {
		return nil
	}
	for i := len(t.eras) - 1; i >= 0; i-- {
		if id, ok := t.keyRow(t.eras[i].era, key); ok {
			_, e := t.find(id)
			if t.byID.find((*[16]byte)(&id)) != 0 && (e == nil || e.key != *key) {
				continue // evicted: the row of its key goes with the next checkpoint
			}
			if e == nil {
				panic(fmt.Sprintf("ledger: shard %d: a key's task %s is not there", t.shard, id))
			}
			return e
		}
	}
	return nil
}

// keyRow reads the row of a key in one era.
func (t *Tasks) keyRow(era uint32, key *[16]byte) (id TaskID, ok bool) {
	b, ok, err := t.cold.Get(appendKeyKey(nil, era, key))
	if err != nil {
		panic(fmt.Sprintf("ledger: shard %d: reading a key from the checkpoint: %v", t.shard, err))
	}
	if ok && len(b) != len(id) {
		panic(fmt.Sprintf("ledger: shard %d: a key's row has %d bytes", t.shard, len(b)))
	}
	if ok {
		id = TaskID(b)
	}
	return id, ok
}

// keyHash names an idempotency key within a fleet: the first half of SHA-256
// over the fleet's length as a number, fleet and key. Half a digest is enough:
// who makes two keys collide harms only the fleet that both are in.
func keyHash(fleet, key []byte) [16]byte {
	var buf [256]byte
	h := sha256.Sum256(append(appendBytes(buf[:0], fleet), key...))
	return [16]byte(h[:16])
}

// keep enters a task in memory.
func (t *Tasks) keep(e *entry) (uint32, *entry) {
	if i, p := t.revive(e); i != 0 {
		return i, p
	}
	i, p := t.slab.take()
	*p = *e
	t.slab.bytes += len(p.spec)
	t.byID.add(i)
	t.keepKey(i, p)
	t.order.add(p.id, i)
	return i, p
}

// touch lists a task for the next Freeze, and for Changed.
func (t *Tasks) touch(i uint32, e *entry) {
	if n := len(t.changed); n == 0 || t.changed[n-1] != i {
		t.changed = append(t.changed, i)
	}
	if e.listed == t.freeze {
		return
	}
	if e.listed != 0 {
		panic(fmt.Sprintf("ledger: invariant: task %s was changed and not held: the checkpoint being taken lacks it as it was", e.id))
	}
	e.listed = t.freeze
	t.dirty = append(t.dirty, i)
}

// move takes a task to a state, records it and tells of it. The verb's own
// fields of rec are set; so are the entry's, save for the state.
func (t *Tasks) move(i uint32, e *entry, to State, settled bool) {
	from := e.state
	if from != 0 {
		t.counts[from]--
		if from.Terminal() {
			t.endedSum -= e.sum()
		}
	}
	e.state, e.updated, e.completed = to, t.now, 0
	t.counts[to]++
	if to.Terminal() {
		e.completed = t.now
		t.endedSum += e.sum()
		t.coldMillis = max(t.coldMillis, e.id.Millis())
	}
	t.touch(i, e)
	t.record(e, from, to)
	if e.x != nil && to.Terminal() {
		t.todo = append(t.todo, e.id)
	}
	t.events = append(t.events, Event{Brief: e.brief(), From: from, Index: t.index, Agent: t.rec.Agent, Settled: settled})
}

// record completes rec with what is the task's and writes it.
func (t *Tasks) record(e *entry, from, to State) {
	r := &t.rec
	r.Index, r.TimeMillis = t.index, t.now
	r.Task, r.Guarantee, r.From, r.To, r.Attempt = e.id, e.guarantee, from, to, e.attempts
	r.Fleet, r.Capability = e.class.fleet, e.class.capability
	if t.journal.format != recordVersion1 {
		t.relate(e, r)
	}
	t.journal.write(r)
}

// sum stands for an ended task in the shard's digest; it is added up over all
// of them, which no longer fit in memory.
func (e *entry) sum() uint64 {
	return mix(mix(hashBytes(uint64(e.state), e.id[:]), e.epoch), uint64(e.completed))
}

func (e *entry) brief() Brief {
	b := Brief{ID: e.id, Fleet: e.class.fleet, Capability: e.class.capability, State: e.state, Priority: e.priority,
		Guarantee: e.guarantee, Attempts: e.attempts, Epoch: e.epoch, LeaseMillis: e.leaseMs, NotBeforeMillis: e.notBefore,
		DeadlineMillis: e.deadline, CreatedMillis: e.created, ReadyMillis: e.ready}
	if e.x != nil {
		b.Self, b.Logged = e.x.Terms.Self, e.logged()
		if e.open() {
			b.Holder = e.agent
		}
		if e.state == StateUnknown || e.state == StateRollingBack {
			b.DeadlineMillis = 0 // it binds no more: what happened is still to be found out
		}
	}
	return b
}

func (e *entry) outcome(code Code, replayed bool) Outcome {
	return Outcome{Code: code, ID: e.id, State: e.state, Epoch: e.epoch, Replayed: replayed}
}
