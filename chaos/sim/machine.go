package sim

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/raftstore"
)

// watched is a shard's state machine with the checker before it.
type watched struct {
	n       *node
	shard   uint32
	inner   raftstore.Machine
	applied uint64
	told    uint64 // who leads, as it was told last; 0: nobody
}

// Restore implements raftstore.Machine.
func (w *watched) Restore(r raftstore.Reader, meta []byte) error {
	w.applied = w.n.disk.states[w.shard].index
	return w.inner.Restore(r, meta)
}

// Apply implements raftstore.Machine.
func (w *watched) Apply(e raftstore.Entry) [][]byte {
	w.n.step("before apply")
	if e.Index <= w.applied {
		w.n.sim.failf("node %d shard %d applies index %d after %d", w.n.id, w.shard, e.Index, w.applied)
	}
	w.applied = e.Index
	outcomes := w.inner.Apply(e)
	w.n.sim.check.applied(w, e, outcomes)
	w.n.step("after apply")
	return outcomes
}

// Freeze implements raftstore.Machine.
func (w *watched) Freeze() raftstore.Changes { return w.inner.Freeze() }

// Thaw implements raftstore.Machine.
func (w *watched) Thaw() { w.inner.Thaw() }

// Lead implements raftstore.Machine.
func (w *watched) Lead(term uint64) {
	w.told = w.n.id
	w.n.sim.check.leads(w.n, w.shard, term)
}

// Follow implements raftstore.Machine.
func (w *watched) Follow(leader uint64) {
	if w.n.disk.plant == PlantLeaderUntold && leader != 0 && leader%2 == w.n.id%2 {
		leader = 0
	}
	w.told = leader
}

// Digest implements raftstore.Machine.
func (w *watched) Digest() uint64 { return w.inner.Digest() }

// write adds a record to the journal.
func (w *watched) write(record []byte) {
	b := w.n.disk.books[w.shard]
	b.records = append(b.records, append([]byte(nil), record...))
}

// list is a machine of registers that remembers every command ever applied, in
// order, in one number.
type list struct {
	write   func([]byte)
	rows    map[string]uint64
	dirty   map[string]bool
	frozen  bool
	chain   uint64
	count   uint64
	differs bool // planted
}

// Restore implements raftstore.Machine.
func (l *list) Restore(r raftstore.Reader, meta []byte) error {
	l.rows, l.dirty, l.frozen, l.chain, l.count = map[string]uint64{}, map[string]bool{}, false, 0, 0
	if meta != nil {
		l.chain, l.count = binary.BigEndian.Uint64(meta), binary.BigEndian.Uint64(meta[8:])
	}
	return r.Scan(nil, nil, func(k, v []byte) bool {
		l.rows[string(k)] = binary.BigEndian.Uint64(v)
		return true
	})
}

// Apply implements raftstore.Machine: a command is "key=anything".
func (l *list) Apply(e raftstore.Entry) [][]byte {
	out := make([][]byte, len(e.Commands))
	for i, c := range e.Commands {
		h := fnv.New64a()
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, l.chain)) // never fails
		_, _ = h.Write(c)
		l.chain = h.Sum64()
		l.count++
		key := string(c[:1])
		out[i] = binary.BigEndian.AppendUint64(nil, l.rows[key])
		if c[1] == '-' {
			delete(l.rows, key)
		} else {
			l.rows[key] = l.chain
		}
		l.dirty[key] = true
		if l.differs && l.count%16 == 0 {
			l.rows[key] = l.count
		}
		l.write(binary.BigEndian.AppendUint64(nil, l.chain))
	}
	return out
}

// Freeze implements raftstore.Machine.
func (l *list) Freeze() raftstore.Changes {
	if l.frozen {
		panic("frozen twice")
	}
	l.frozen = true
	c := raftstore.Changes{Meta: binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, l.chain), l.count)}
	for _, k := range sorted(l.dirty) {
		if v, ok := l.rows[k]; ok {
			c.Puts = append(c.Puts, raftstore.KV{Key: []byte(k), Value: binary.BigEndian.AppendUint64(nil, v)})
		} else {
			c.Deletes = append(c.Deletes, []byte(k))
		}
	}
	clear(l.dirty)
	return c
}

// Thaw implements raftstore.Machine.
func (l *list) Thaw() { l.frozen = false }

// Lead implements raftstore.Machine.
func (l *list) Lead(uint64) {}

// Follow implements raftstore.Machine.
func (l *list) Follow(uint64) {}

// Digest implements raftstore.Machine.
func (l *list) Digest() uint64 {
	sum := l.chain + l.count
	for k, v := range l.rows {
		sum += v * uint64(k[0]+1) // a sum has no order
	}
	return sum
}

// tasks is the ledger's task shard.
type tasks struct{ *ledger.Tasks }

func newTasks(shard uint32, r raftstore.Reader, write func([]byte)) raftstore.Machine {
	return tasks{ledger.NewTasks(shard, r, write)}
}

// Restore implements raftstore.Machine.
func (t tasks) Restore(_ raftstore.Reader, meta []byte) error { return t.Tasks.Restore(meta) }

// Apply implements raftstore.Machine.
func (t tasks) Apply(e raftstore.Entry) [][]byte {
	out := make([][]byte, len(e.Commands))
	at := ledger.At{Index: e.Index, Term: e.Term, TimeMillis: e.TimeMillis}
	for i, c := range e.Commands {
		o, _ := t.Tasks.Apply(at, c, nil)
		out[i] = o.Append(nil)
	}
	return out
}

// Freeze implements raftstore.Machine.
func (t tasks) Freeze() raftstore.Changes {
	return raftstore.Changes{Meta: t.BeginFreeze(), More: t.more, Durable: func() bool { return t.ThawSome(2) }}
}

func (t tasks) more() ([]raftstore.KV, [][]byte, bool) {
	puts, deletes, more := t.FreezeSome(2)
	var out []raftstore.KV
	for _, kv := range puts {
		out = append(out, raftstore.KV(kv))
	}
	return out, deletes, more
}

// Thaw implements raftstore.Machine.
func (tasks) Thaw() {} // Durable did it

// Lead implements raftstore.Machine.
func (tasks) Lead(uint64) {}

// Follow implements raftstore.Machine.
func (tasks) Follow(uint64) {}

// command makes the n-th command of a run, unlike every other.
func (s *sim) command(n int) []byte {
	if !s.ledger {
		sign := byte('=')
		if s.rng.IntN(5) == 0 {
			sign = '-'
		}
		return fmt.Appendf([]byte{byte('a' + s.rng.IntN(12)), sign}, "%d", n)
	}
	shard := uint32(s.shard)
	if len(s.ids) == 0 || s.rng.IntN(2) == 0 {
		spec := ledger.Spec{Fleet: "f", Action: "sim", Target: "t", Description: fmt.Sprint(n), SubmittedBy: "sim", LeaseMillis: 1000,
			Guarantee: ledger.AtLeastOnce, Key: fmt.Sprint("key", s.rng.IntN(40)), Retry: ledger.RetryPolicy{MaxRetries: 1}}
		id := ledger.NewTaskID(shard, s.millis(), uint64(n))
		s.ids = append(s.ids, id)
		return (&ledger.Submit{ID: id, RequestHash: ledger.RequestHash(&spec), Spec: spec}).Append(nil)
	}
	id, node := s.ids[s.rng.IntN(len(s.ids))], fmt.Sprint("op", n)
	switch s.rng.IntN(4) {
	case 0:
		return (&ledger.Cancel{ID: id, By: node}).Append(nil)
	case 1:
		return (&ledger.Fail{ID: id, Agent: "a", Epoch: 1 + s.rng.Uint64N(4), Error: "no", Retryable: true, Node: node}).Append(nil)
	case 2:
		return (&ledger.Retry{ID: id, By: node}).Append(nil)
	}
	return (&ledger.Complete{ID: id, Agent: "a", Epoch: 1 + s.rng.Uint64N(4), Result: []byte(`1`), Node: node}).Append(nil)
}
