package ledger

import (
	"encoding/binary"
	"fmt"
)

// Task reads one task, from memory or from the checkpoint.
func (t *Tasks) Task(id TaskID) (Task, bool, error) {
	if i := t.byID.find((*[16]byte)(&id)); i != 0 {
		if t.slab.at(i).evicted() {
			return Task{}, false, nil
		}
		return t.inMemory(t.slab.at(i)), true, nil
	}
	if !t.mayBeCold(&id) {
		return Task{}, false, nil
	}
	b, ok, err := t.cold.Get(endedKey(id))
	if err != nil || !ok {
		return Task{}, false, wrapCold(t.shard, err)
	}
	var w row
	if err := w.decode(id, b); err != nil {
		return Task{}, false, wrapCold(t.shard, err)
	}
	return w.task(), true, nil
}

func wrapCold(shard uint32, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ledger: shard %d: checkpoint: %w", shard, err)
}

func (t *Tasks) inMemory(e *entry) Task {
	s, err := decodeSpec(e.spec)
	if err != nil {
		panic(fmt.Sprintf("ledger: invariant: task %s in memory: %v", e.id, err))
	}
	return e.task(s)
}

// LiveKey is the task in memory that a fleet's key names, or is the ID of;
// zero when there is none, or it has left memory.
func (t *Tasks) LiveKey(fleet, key string) TaskID {
	k := keyHash([]byte(fleet), []byte(key))
	if i := t.byKey.find(&k); i != 0 {
		return t.slab.at(i).id
	}
	if id, ok := idInKey([]byte(key)); ok {
		if i := t.byID.find((*[16]byte)(&id)); i != 0 && t.slab.at(i).class.fleet == fleet {
			return id
		}
	}
	return TaskID{}
}

// Live calls fn with every open task in ID order until it returns false.
func (t *Tasks) Live(fn func(Brief) bool) {
	for w := t.order.from(TaskID{}); ; w.next() {
		it, ok := w.peek()
		if !ok {
			return
		}
		if e := t.slab.at(it.place); !e.state.Terminal() && !fn(e.brief()) {
			return
		}
	}
}

// List returns the tasks that q selects, in ID order, however many it has to
// look at; a caller that holds a lock should [Tasks.Scan] instead.
func (t *Tasks) List(q Query) ([]Task, error) {
	var out []Task
	limit := q.Limit
	for {
		p, err := t.Scan(q)
		if err != nil {
			return nil, err
		}
		out = append(out, p.Tasks...)
		if q.Limit = limit - len(out); !p.More || limit > 0 && q.Limit <= 0 {
			return out, nil
		}
		q.Limit = max(q.Limit, 0)
		q.After = p.Next
	}
}

// scanTasks bounds the tasks one Scan looks at: a few milliseconds.
const scanTasks = 4096

// Scan is one step of listing the tasks that q selects, in ID order. It looks
// at a bounded number of tasks and says where to go on.
func (t *Tasks) Scan(q Query) (Page, error) {
	s := scan{t: t, q: &q, mem: t.order.from(q.After), page: Page{Next: q.After}}
	from := endedKey(q.After)
	_, to := prefixRange(prefixEnded)
	if !q.After.IsZero() {
		from = append(from, 0) // the first key behind
	}
	var w row
	err := t.cold.Scan(from, to, func(key, value []byte) bool {
		if s.bad = checkRowKey(key); s.bad != nil {
			return false
		}
		id := TaskID(key[1:])
		if !s.memory(&id) {
			return false
		}
		if t.byID.find((*[16]byte)(&id)) != 0 {
			return true // memory knows better
		}
		if s.full() {
			return false
		}
		if s.bad = w.decode(id, value); s.bad != nil {
			return false
		}
		s.page.Next = id
		s.seen++
		if q.selectsRow(&w) {
			s.page.Tasks = append(s.page.Tasks, w.task())
		}
		return true
	})
	if err = firstError(err, s.bad); err != nil {
		return Page{}, wrapCold(t.shard, err)
	}
	if !s.page.More {
		s.memory(nil)
	}
	return s.page, nil
}

// scan merges memory into what comes from the checkpoint.
type scan struct {
	t    *Tasks
	q    *Query
	mem  walk
	page Page
	seen int
	bad  error
}

// full says that the page is done with more to come.
func (s *scan) full() bool {
	s.page.More = s.seen >= scanTasks || s.q.Limit > 0 && len(s.page.Tasks) >= s.q.Limit
	return s.page.More
}

// memory takes the tasks in memory up to upTo (nil: all); false when the page
// is full.
func (s *scan) memory(upTo *TaskID) bool {
	for ; ; s.mem.next() {
		it, ok := s.mem.peek()
		if !ok || upTo != nil && it.id.Compare(*upTo) > 0 {
			return true
		}
		if s.full() {
			return false
		}
		s.page.Next = it.id
		s.seen++
		if e := s.t.slab.at(it.place); !e.evicted() && s.q.selects(e) {
			s.page.Tasks = append(s.page.Tasks, s.t.inMemory(e))
		}
	}
}

func (q *Query) selects(e *entry) bool {
	if !q.selectsState(e.state) || q.Fleet != "" && q.Fleet != e.class.fleet || q.Action != "" && q.Action != e.class.action ||
		q.Target != "" && q.Target != e.class.target || q.Agent != "" && q.Agent != e.agent {
		return false
	}
	if q.Session == "" {
		return true
	}
	var v specView
	r := newReader(e.spec)
	v.read(&r)
	return string(v.session) == q.Session
}

func (q *Query) selectsRow(w *row) bool {
	is := func(want string, have []byte) bool { return want == "" || want == string(have) }
	return q.selectsState(w.e.state) && is(q.Fleet, w.v.fleet) && is(q.Action, w.v.action) && is(q.Target, w.v.target) &&
		is(q.Agent, w.agent) && is(q.Session, w.v.session)
}

func (q *Query) selectsState(s State) bool {
	if len(q.States) == 0 {
		return true
	}
	for _, x := range q.States {
		if x == s {
			return true
		}
	}
	return false
}

// Counts is how many tasks are in each state, indexed by State, ended ones
// since the shard's beginning included.
func (t *Tasks) Counts() [NumStates]uint64 { return t.counts }

// InMemory is how many tasks memory holds, those that ended since the last
// checkpoint among them, and how long their specs are together.
func (t *Tasks) InMemory() (tasks, specBytes int) { return t.slab.used, t.slab.bytes }

// Head is the end of the shard's audit chain.
func (t *Tasks) Head() Head { return t.journal.head }

// NowMillis is the ledger's time: the latest that any applied command was
// stamped with.
func (t *Tasks) NowMillis() int64 { return t.now }

// Summary is a digest that reads no task: it covers ledger time, the audit
// chain (so every decision that was ever recorded), the counts of states and
// what has ended. It is equal on all replicas that have applied the same log.
func (t *Tasks) Summary() uint64 {
	h := hashBytes(uint64(t.now), t.journal.head.Hash[:])
	h = mix(mix(h, t.journal.head.Seq), t.endedSum)
	for _, c := range t.counts {
		h = mix(h, c)
	}
	return t.digestExtras(h)
}

// Changed is a digest of every task that commands changed since it was last
// called (or since the shard was restored), as each of them left it: what the
// audit chain does not say of a task is in it. Equal on all replicas that
// asked, and were restored, at equal indexes.
func (t *Tasks) Changed() uint64 {
	h := t.changes
	t.changes = 0
	return h
}

// noteChanged adds what a command changed to Changed.
func (t *Tasks) noteChanged() {
	for _, i := range t.changed {
		h := t.slab.at(i).hash(t.changes)
		if x := t.slab.at(i).x; x != nil {
			t.row = x.append(t.row[:0])
			h = hashBytes(h, t.row)
		}
		t.changes = h
	}
	t.changed = t.changed[:0]
}

// hash is of what an entry's row says, texts by their lengths: the audit chain
// has their digests.
func (e *entry) hash(h uint64) uint64 {
	h = mix(h^binary.BigEndian.Uint64(e.id[:8]), binary.BigEndian.Uint64(e.id[8:]))
	h = mix(h^binary.BigEndian.Uint64(e.key[:8]), binary.BigEndian.Uint64(e.request[:8]))
	h = mix(h^uint64(e.state)^uint64(e.ended)<<8^uint64(e.guarantee)<<16^uint64(e.priority)<<24^uint64(e.attempts)<<32, e.epoch)
	h = mix(h^uint64(e.created), uint64(e.updated))
	h = mix(h^uint64(e.completed), uint64(e.notBefore))
	h = mix(h^uint64(e.ready), uint64(e.deadline))
	h = mix(h^uint64(e.leaseMs), uint64(len(e.agent))^uint64(len(e.err))<<32)
	return mix(h^uint64(len(e.result)), uint64(len(e.spec)))
}

// Digest hashes the logical state: equal on all replicas that have applied
// the same log, whatever of it is in the checkpoint. It reads every open task.
func (t *Tasks) Digest() uint64 {
	h := t.Summary()
	var buf []byte
	for w := t.order.from(TaskID{}); ; w.next() {
		it, ok := w.peek()
		if !ok {
			return h
		}
		if e := t.slab.at(it.place); !e.state.Terminal() {
			buf = e.appendRow(buf[:0])
			h = hashBytes(mix(h, binary.BigEndian.Uint64(e.id[8:])), buf)
		}
	}
}
