package node

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/raftstore"
)

// taskMachine is one task shard's state machine as the replica drives it: the
// ledger under a lock for readers, with its events handed on in log order.
type taskMachine struct {
	shard  uint32
	desk   *desk
	notify func(shard uint32, events []ledger.Event) // every replica: waiters, holders
	mail   chan<- struct{}                           // told when letters wait for delivery
	lead   func(shard uint32, term uint64)           // this node leads; the desk waits to be opened
	follow func(shard uint32, leader uint64)
	waits  prometheus.Observer // of Apply, for the lock

	mu struct {
		sync.RWMutex
		tasks    *ledger.Tasks
		progress chan struct{} // closed when an entry was applied; nil when nobody waits
	}
	events []ledger.Event // Apply's, reused
	held   atomic.Int64   // bytes that the tasks in memory take, about; set with mu held
}

// taskBytes is what a task in memory takes beside its payload, here and with
// the scheduler.
const taskBytes = 1 << 10

// weigh notes what the tasks in memory take. Call with the lock held.
func (m *taskMachine) weigh() {
	tasks, specs := m.mu.tasks.InMemory()
	m.held.Store(int64(tasks)*taskBytes + int64(specs))
}

var (
	_ raftstore.Machine = (*taskMachine)(nil)
	_ raftstore.Summary = (*taskMachine)(nil)
)

func (m *taskMachine) Restore(_ raftstore.Reader, meta []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.weigh()
	return m.mu.tasks.Restore(meta)
}

func (m *taskMachine) Apply(e raftstore.Entry) [][]byte {
	var outcomes [][]byte
	var arena []byte
	if e.Local {
		outcomes = make([][]byte, len(e.Commands))
		arena = make([]byte, 0, 64*len(e.Commands))
	}
	at := ledger.At{Index: e.Index, Term: e.Term, TimeMillis: e.TimeMillis}
	events := m.events[:0]
	m.lockToApply()
	for i, c := range e.Commands {
		var o ledger.Outcome
		o, events = m.mu.tasks.Apply(at, c, events)
		if e.Local {
			start := len(arena)
			arena = o.Append(arena)
			outcomes[i] = arena[start:len(arena):len(arena)]
		}
	}
	if m.mu.progress != nil {
		close(m.mu.progress)
		m.mu.progress = nil
	}
	mail := m.hasMail()
	m.weigh()
	m.mu.Unlock()
	if mail {
		select {
		case m.mail <- struct{}{}:
		default:
		}
	}
	if len(events) > 0 {
		m.desk.applied(events)
		m.notify(m.shard, events)
	}
	m.events = events
	return outcomes
}

// lockToApply takes the lock, and notes how long that took unless it was free.
func (m *taskMachine) lockToApply() {
	if m.mu.TryLock() {
		return
	}
	began := time.Now()
	m.mu.Lock()
	m.waits.Observe(time.Since(began).Seconds())
}

// freezeStep is how many tasks are encoded, or let go, at a time while Apply
// waits: some 60 µs. With 512 a busy machine now and then took the processor
// away in the middle of a step: 1 to 3 waits of 20 to 50 ms in ten seconds of
// saturation, where 64 has none over 20.
const freezeStep = 64

func (m *taskMachine) Freeze() raftstore.Changes {
	m.mu.Lock()
	defer m.mu.Unlock()
	return raftstore.Changes{Meta: m.mu.tasks.BeginFreeze(), More: m.freezeSome, Durable: m.thawSome}
}

func (m *taskMachine) freezeSome() ([]raftstore.KV, [][]byte, bool) {
	m.mu.Lock()
	puts, deletes, more := m.mu.tasks.FreezeSome(freezeStep)
	m.mu.Unlock()
	c := changes(puts, deletes, nil)
	return c.Puts, c.Deletes, more
}

func (m *taskMachine) thawSome() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.weigh()
	return m.mu.tasks.ThawSome(freezeStep)
}

func changes(puts []ledger.KV, deletes [][]byte, meta []byte) raftstore.Changes {
	c := raftstore.Changes{Puts: make([]raftstore.KV, len(puts)), Deletes: deletes, Meta: meta}
	for i, kv := range puts {
		c.Puts[i] = raftstore.KV(kv)
	}
	return c
}

func (m *taskMachine) Thaw() {} // thawSome did it

func (m *taskMachine) Lead(term uint64) {
	m.mu.RLock()
	m.desk.lead(term, m.mu.tasks.Live)
	m.mu.RUnlock()
	m.lead(m.shard, term)
}

func (m *taskMachine) Follow(leader uint64) {
	m.desk.follow()
	m.follow(m.shard, leader)
}

func (m *taskMachine) Digest() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.tasks.Digest()
}

// Summary implements raftstore.Summary.
func (m *taskMachine) Summary() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.tasks.Summary()
}

// Changed implements raftstore.Summary.
func (m *taskMachine) Changed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.tasks.Changed()
}

// task reads one task.
func (m *taskMachine) task(id ledger.TaskID) (ledger.Task, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.tasks.Task(id)
}

// progress is closed when the next entry was applied.
func (m *taskMachine) progress() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.progress == nil {
		m.mu.progress = make(chan struct{})
	}
	return m.mu.progress
}

// view runs fn with the shard's state, which must not be kept or changed.
func (m *taskMachine) view(fn func(*ledger.Tasks)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	fn(m.mu.tasks)
}

// controlMachine is the control shard's state machine: nodes and agents.
type controlMachine struct {
	notify func(events []ledger.AgentEvent)
	lead   func(shard uint32, term uint64)
	follow func(shard uint32, leader uint64)
	mu     struct {
		sync.RWMutex
		control *ledger.Control
	}
}

var (
	_ raftstore.Machine = (*controlMachine)(nil)
	_ raftstore.Summary = (*controlMachine)(nil)
)

const controlShard = 0

// reset gives the machine its replica; before that it is empty.
func (m *controlMachine) reset(r raftstore.Reader, j raftstore.Journal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.control = ledger.NewControl(r, j.Append)
}

func (m *controlMachine) Restore(_ raftstore.Reader, meta []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.control.Restore(meta)
}

func (m *controlMachine) Apply(e raftstore.Entry) [][]byte {
	outcomes := make([][]byte, len(e.Commands))
	at := ledger.At{Index: e.Index, Term: e.Term, TimeMillis: e.TimeMillis}
	var events []ledger.AgentEvent
	m.mu.Lock()
	for i, c := range e.Commands {
		var o ledger.Outcome
		o, events = m.mu.control.Apply(at, c, events)
		if e.Local {
			outcomes[i] = o.Append(nil)
		}
	}
	m.mu.Unlock()
	if len(events) > 0 {
		m.notify(events)
	}
	return outcomes
}

func (m *controlMachine) Freeze() raftstore.Changes {
	m.mu.Lock()
	defer m.mu.Unlock()
	return changes(m.mu.control.Freeze())
}

func (m *controlMachine) Thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.control.Thaw()
}

func (m *controlMachine) Lead(term uint64)     { m.lead(controlShard, term) }
func (m *controlMachine) Follow(leader uint64) { m.follow(controlShard, leader) }

func (m *controlMachine) Digest() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.control.Digest()
}

// Summary implements raftstore.Summary.
func (m *controlMachine) Summary() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.control.Summary()
}

// Changed implements raftstore.Summary.
func (m *controlMachine) Changed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.control.Changed()
}

// view runs fn with the control state, which must not be kept or changed.
func (m *controlMachine) view(fn func(*ledger.Control)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	fn(m.mu.control)
}
