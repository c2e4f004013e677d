package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
)

// At is where in the log a command stands, and when it was proposed.
type At struct {
	Index, Term uint64
	TimeMillis  int64
}

// KV is one key of the shard's checkpointed state and its value.
type KV struct{ Key, Value []byte }

// Cold reads the shard's checkpointed state; it must be safe for concurrent
// use, and change only between Freeze and Thaw.
type Cold interface {
	Get(key []byte) (value []byte, found bool, err error)
	Scan(from, to []byte, fn func(key, value []byte) bool) error
}

// Keys of the checkpointed state, by first byte.
const (
	keyLive byte = 'l' // task ID: a task that has not ended
	keyDone byte = 'd' // task ID: a task that has
	keyIdem byte = 'k' // hash of fleet and idempotency key: task ID and request hash
)

// Tasks is the state machine of one task shard.
//
// Open tasks, and those that ended since the last state checkpoint, are rows in
// memory; older ones are read from Cold. Apply never writes to Cold: Freeze
// hands out what changed, and Thaw lets go of what is safely there.
//
// Apply, Freeze, Thaw and Restore need exclusive access; everything else may
// run concurrently with itself.
type Tasks struct {
	shard uint32
	cold  Cold
	chain chain

	now    int64 // ledger time: the largest stamp seen
	counts Counts

	rows   [][]row // slabs of slabRows
	free   []uint32
	ids    map[TaskID]uint32
	idem   map[idemKey]uint32 // keys of the rows
	oldKey bloom              // keys in Cold
	names  map[string]string  // interned fleets and capabilities

	dirty  []uint32 // rows changed since the last Freeze
	frozen []uint32 // rows handed out by it, until Thaw

}

const (
	slabRows   = 1024
	maxInterns = 1 << 16
)

type idemKey [16]byte

// Counts are tasks by state, all that were ever submitted.
type Counts [stateEnd]uint64

// where a row is in Cold.
const (
	coldNowhere byte = iota
	coldLive
	coldDone
)

// row is one task in memory.
type row struct {
	id          TaskID
	idem        idemKey
	request     [32]byte
	state       State
	guarantee   Guarantee
	priority    Priority
	backoff     Backoff
	cold        byte
	dirty       bool
	used        bool
	attempts    uint32
	retries     uint32
	epoch       uint64
	created     int64
	updated     int64
	readyAt     int64
	ended       int64
	notBefore   int64
	deadline    int64
	lease       int64
	delay       int64
	maxDelay    int64
	fleet, capa string // interned
	agent       string
	err         string
	result      []byte
	spec        []byte // encoded
}

// NewTasks makes an empty task shard; Restore follows. Every audit record goes
// to appendRecord.
func NewTasks(shard uint32, cold Cold, appendRecord func([]byte)) *Tasks {
	return &Tasks{shard: shard, cold: cold, chain: newChain(shard, appendRecord), ids: map[TaskID]uint32{},
		idem: map[idemKey]uint32{}, names: map[string]string{}}
}

// Restore rebuilds the state from the checkpoint in Cold; nil meta is empty.
func (s *Tasks) Restore(meta []byte) error {
	*s = *NewTasks(s.shard, s.cold, s.chain.appendRecord)
	if meta == nil {
		return nil
	}
	d := decoder{b: meta}
	if v := d.byte(); v != metaVersion && d.err == nil {
		d.fail("meta version")
	}
	s.now = d.int()
	s.chain.restore(&d)
	for i := range s.counts {
		s.counts[i] = d.uint()
	}
	if err := d.end(); err != nil {
		return fmt.Errorf("ledger: shard %d: checkpoint meta: %w", s.shard, err)
	}
	var bad error
	err := s.cold.Scan([]byte{keyLive}, []byte{keyLive + 1}, func(k, v []byte) bool {
		var r row
		if bad = r.decode(k[1:], slices.Clone(v)); bad != nil {
			return false
		}
		r.cold = coldLive
		s.insert(r)
		return true
	})
	if err == nil && bad == nil {
		err = s.cold.Scan([]byte{keyIdem}, []byte{keyIdem + 1}, func(k, _ []byte) bool {
			s.oldKey.add(idemKey(k[1:]))
			return true
		})
	}
	if bad != nil {
		err = bad
	}
	if err != nil {
		return fmt.Errorf("ledger: shard %d: checkpoint: %w", s.shard, err)
	}
	return nil
}

const metaVersion = 1

// Freeze hands out what changed since the last Freeze, as keys to put and
// delete, and the meta that Restore wants back.
func (s *Tasks) Freeze() (puts []KV, deletes [][]byte, meta []byte) {
	puts = make([]KV, 0, len(s.dirty)*2)
	for _, i := range s.dirty {
		r := s.row(i)
		r.dirty = false
		at := keyLive
		if r.state.Terminal() {
			at = keyDone
		}
		if r.cold == coldLive && at == keyDone {
			deletes = append(deletes, append([]byte{keyLive}, r.id[:]...))
		} else if r.cold == coldDone && at == keyLive {
			deletes = append(deletes, append([]byte{keyDone}, r.id[:]...))
		}
		if r.cold == coldNowhere {
			puts = append(puts, KV{append([]byte{keyIdem}, r.idem[:]...), append(r.id[:len(r.id):len(r.id)], r.request[:]...)})
		}
		puts = append(puts, KV{append([]byte{at}, r.id[:]...), r.encode(nil)})
		r.cold = coldLive
		if at == keyDone {
			r.cold = coldDone
		}
	}
	s.frozen, s.dirty = append(s.frozen, s.dirty...), s.dirty[:0:0]
	meta = putInt([]byte{metaVersion}, s.now)
	meta = s.chain.append(meta)
	for _, c := range s.counts {
		meta = putUint(meta, c)
	}
	return puts, deletes, meta
}

// Thaw says that the last Freeze is readable in Cold: rows of ended tasks that
// did not change since leave memory.
func (s *Tasks) Thaw() {
	for _, i := range s.frozen {
		r := s.row(i)
		if !r.used {
			continue
		}
		if !s.oldKey.mayHave(r.idem) {
			s.oldKey.add(r.idem)
		}
		if r.dirty || !r.state.Terminal() {
			continue
		}
		delete(s.ids, r.id)
		delete(s.idem, r.idem)
		*r = row{}
		s.free = append(s.free, i)
	}
	s.frozen = s.frozen[:0]
}

func (s *Tasks) row(i uint32) *row { return &s.rows[i/slabRows][i%slabRows] }

func (s *Tasks) insert(r row) uint32 {
	var i uint32
	if n := len(s.free); n > 0 {
		i, s.free = s.free[n-1], s.free[:n-1]
	} else {
		n := len(s.rows)
		if n == 0 || len(s.rows[n-1]) == slabRows {
			s.rows = append(s.rows, make([]row, 0, slabRows))
			n++
		}
		s.rows[n-1] = append(s.rows[n-1], row{})
		i = uint32((n-1)*slabRows + len(s.rows[n-1]) - 1)
	}
	r.used = true
	r.fleet, r.capa = s.intern(r.fleet), s.intern(r.capa)
	*s.row(i) = r
	s.ids[r.id] = i
	s.idem[r.idem] = i
	return i
}

// intern keeps one copy of a name; past the limit names are kept apart.
func (s *Tasks) intern(name string) string {
	if n, ok := s.names[name]; ok {
		return n
	}
	if len(s.names) < maxInterns {
		s.names[name] = name
	}
	return name
}

func (s *Tasks) touch(i uint32) {
	if r := s.row(i); !r.dirty {
		r.dirty = true
		s.dirty = append(s.dirty, i)
	}
}

// find gets a task's row: in memory at i, or a copy from Cold with i < 0.
func (s *Tasks) find(id TaskID) (r *row, i int, err error) {
	if i, ok := s.ids[id]; ok {
		return s.row(i), int(i), nil
	}
	v, ok, err := s.cold.Get(append([]byte{keyDone}, id[:]...))
	if err != nil || !ok {
		return nil, -1, err
	}
	r = &row{cold: coldDone}
	if err := r.decode(id[:], v); err != nil {
		return nil, -1, err
	}
	return r, -1, nil
}

func idemHash(fleet, key string) (k idemKey) {
	var buf [256]byte
	b := putBytes(buf[:0], fleet)
	h := sha256.Sum256(append(b, key...))
	copy(k[:], h[:])
	return k
}

const rowVersion = 1

// encode is the row's value in Cold; its key carries the ID.
func (r *row) encode(b []byte) []byte {
	b = append(b, rowVersion, byte(r.state))
	b = append(append(b, r.idem[:]...), r.request[:]...)
	b = putUint(putUint(b, uint64(r.attempts)), r.epoch)
	for _, t := range []int64{r.created, r.updated, r.readyAt, r.ended, r.notBefore, r.deadline} {
		b = putInt(b, t)
	}
	b = putBytes(putBytes(b, r.agent), r.err)
	return putBytes(putBytes(b, r.result), r.spec)
}

// decode reads encode's bytes and keeps views into them.
func (r *row) decode(id, b []byte) error {
	d := decoder{b: b}
	if v := d.byte(); v != rowVersion && d.err == nil {
		d.fail("task version")
	}
	copy(r.id[:], id)
	r.state = State(d.byte())
	copy(r.idem[:], d.fixed(len(r.idem)))
	copy(r.request[:], d.fixed(len(r.request)))
	r.attempts, r.epoch = d.uint32(), d.uint()
	for _, t := range []*int64{&r.created, &r.updated, &r.readyAt, &r.ended, &r.notBefore, &r.deadline} {
		*t = d.int()
	}
	r.agent, r.err = d.string(), d.string()
	r.result, r.spec = d.bytes(), d.bytes()
	if err := d.end(); err != nil {
		return fmt.Errorf("task %s: %w", r.id, err)
	}
	var sp Spec
	sd := decoder{b: r.spec}
	sp.decode(&sd)
	if err := sd.end(); err != nil {
		return fmt.Errorf("task %s: spec: %w", r.id, err)
	}
	r.fromSpec(&sp)
	return nil
}

// fromSpec takes over what is read often.
func (r *row) fromSpec(sp *Spec) {
	r.guarantee, r.priority, r.backoff = sp.Guarantee, sp.Priority, sp.Retry.Backoff
	r.retries, r.lease, r.delay, r.maxDelay = sp.Retry.MaxRetries, sp.LeaseMillis, sp.Retry.InitialDelayMillis, sp.Retry.MaxDelayMillis
	r.fleet, r.capa = sp.Fleet, sp.Capability()
}

// Task is one task, whole.
type Task struct {
	ID                                                                          TaskID
	Spec                                                                        Spec
	State                                                                       State
	Epoch                                                                       uint64 // the highest that ended
	Attempts                                                                    uint32 // that ended
	Agent                                                                       string // who ended the last
	Result                                                                      []byte
	Error                                                                       string
	CreatedMillis, UpdatedMillis, ReadyMillis, CompletedMillis, NotBeforeMillis int64
}

// Task reads one task; byte fields must not be changed.
func (s *Tasks) Task(id TaskID) (Task, bool, error) {
	r, _, err := s.find(id)
	if err != nil || r == nil {
		return Task{}, false, err
	}
	return r.task(), true, nil
}

func (r *row) task() Task {
	t := Task{ID: r.id, State: r.state, Epoch: r.epoch, Attempts: r.attempts, Agent: r.agent, Result: r.result, Error: r.err,
		CreatedMillis: r.created, UpdatedMillis: r.updated, ReadyMillis: r.readyAt, CompletedMillis: r.ended, NotBeforeMillis: r.notBefore}
	d := decoder{b: r.spec}
	t.Spec.decode(&d)
	if d.end() != nil {
		panic("ledger: a spec that was encoded here does not decode")
	}
	t.Spec.DeadlineMillis = r.deadline // a retry may have lifted it
	return t
}

// Brief is what the scheduler needs of a task.
type Brief struct {
	ID                                                                       TaskID
	Fleet, Capability                                                        string
	State                                                                    State
	Priority                                                                 Priority
	Guarantee                                                                Guarantee
	Attempts                                                                 uint32
	Epoch                                                                    uint64 // the highest that ended
	LeaseMillis, NotBeforeMillis, DeadlineMillis, CreatedMillis, ReadyMillis int64
}

func (r *row) brief() Brief {
	return Brief{ID: r.id, Fleet: r.fleet, Capability: r.capa, State: r.state, Priority: r.priority, Guarantee: r.guarantee,
		Attempts: r.attempts, Epoch: r.epoch, LeaseMillis: r.lease, NotBeforeMillis: r.notBefore, DeadlineMillis: r.deadline,
		CreatedMillis: r.created, ReadyMillis: r.readyAt}
}

// Live calls fn with every task that has not ended, in ID order.
func (s *Tasks) Live(fn func(Brief) bool) {
	for _, id := range s.sortedIDs() {
		if r := s.row(s.ids[id]); !r.state.Terminal() && !fn(r.brief()) {
			return
		}
	}
}

func (s *Tasks) sortedIDs() []TaskID {
	ids := make([]TaskID, 0, len(s.ids))
	for id := range s.ids { // sorted below: the order of the map does not show
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b TaskID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// Counts are the tasks by state.
func (s *Tasks) Counts() Counts { return s.counts }

// Head is where the audit chain ends.
func (s *Tasks) Head() Head { return s.chain.head }

// Digest is equal on all replicas at equal index: the audit chain stands for
// everything that happened, and every open task is hashed on top.
func (s *Tasks) Digest() uint64 {
	h := fnv.New64a()
	h.Write(s.chain.head.Hash[:])
	b := binary.BigEndian.AppendUint64(nil, uint64(s.now))
	h.Write(b)
	for _, id := range s.sortedIDs() {
		if r := s.row(s.ids[id]); !r.state.Terminal() {
			h.Write(id[:])
			h.Write(r.encode(b[:0]))
		}
	}
	return h.Sum64()
}
