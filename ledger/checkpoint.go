package ledger

import "fmt"

// Freeze returns what changed since the last Freeze: rows to write, keys to
// delete, and the meta that goes with them. Everything stays readable in
// memory until Thaw.
func (t *Tasks) Freeze() (puts []KV, deletes [][]byte, meta []byte) {
	meta = t.BeginFreeze()
	puts, deletes, _ = t.FreezeSome(len(t.frozen))
	return puts, deletes, meta
}

// BeginFreeze fixes what the next checkpoint holds, the state as it is now,
// and returns its meta. It costs the same however much changed; FreezeSome
// gives the rows.
func (t *Tasks) BeginFreeze() (meta []byte) {
	if t.encoded < len(t.frozen) {
		panic("ledger: invariant: a Freeze begins while the last one is not taken whole")
	}
	t.freezeExtras()
	if len(t.frozen) == 0 {
		t.frozen, t.dirty = t.dirty, t.frozen
	} else { // the Freeze before was never thawed
		t.frozen, t.dirty = append(t.frozen, t.dirty...), t.dirty[:0]
	}
	t.freeze++
	return t.appendMeta(nil)
}

// FreezeSome encodes up to n further tasks of the last BeginFreeze, and says
// whether there are more. Apply may run between two calls: a task it is about
// to change is encoded first, see held.
func (t *Tasks) FreezeSome(n int) (puts []KV, deletes [][]byte, more bool) {
	from, to := t.encoded, min(t.encoded+n, len(t.frozen))
	size := 0
	for _, i := range t.frozen[from:to] {
		size += t.slab.at(i).rowSize() + rowKeysSize
	}
	t.rows.arena = make([]byte, 0, size)
	if t.rows.puts == nil {
		t.rows.puts = make([]KV, 0, 2*(to-from))
	}
	for _, i := range t.frozen[from:to] {
		if e := t.slab.at(i); e.listed == t.freeze-1 {
			t.encode(e)
		}
	}
	t.encoded = to
	puts, deletes = t.rows.puts, t.rows.deletes
	t.rows = rows{}
	return puts, deletes, to < len(t.frozen)
}

// rows are encoded and not yet taken.
type rows struct {
	puts    []KV
	deletes [][]byte
	arena   []byte
}

func (w *rows) key(prefix byte, name *[16]byte) []byte {
	start := len(w.arena)
	w.arena = appendRowKey(w.arena, prefix, name)
	return w.arena[start:len(w.arena):len(w.arena)]
}

// encode writes a frozen task's rows.
func (t *Tasks) encode(e *entry) {
	w := &t.rows
	if e.evicted() {
		t.encodeGone(e)
		return
	}
	if need := e.rowSize() + rowKeysSize; cap(w.arena)-len(w.arena) < need {
		w.arena = make([]byte, 0, need)
	}
	id := (*[16]byte)(&e.id)
	here, there := entryFlags(flagOpenRow), entryFlags(flagEndedRow)
	prefix, other := byte(prefixOpen), byte(prefixEnded)
	if e.state.Terminal() {
		here, there, prefix, other = there, here, other, prefix
	}
	k := w.key(prefix, id)
	start := len(w.arena)
	w.arena = e.appendRow(w.arena)
	w.puts = append(w.puts, KV{k, w.arena[start:len(w.arena):len(w.arena)]})
	if e.flags&there != 0 {
		w.deletes = append(w.deletes, w.key(other, id))
	}
	if e.flags&flagKeyRow == 0 && e.key != ([16]byte{}) {
		k := len(w.arena)
		w.arena = appendKeyKey(w.arena, e.era, &e.key)
		v := len(w.arena)
		w.arena = append(w.arena, e.id[:]...)
		w.puts = append(w.puts, KV{w.arena[k:v:v], w.arena[v:len(w.arena):len(w.arena)]})
		t.eras.add(e.era, 1)
	}
	e.flags = e.flags&^there | here | flagKeyRow
	e.listed = 0
}

// held is the entry at a place for a command that may change it: every path
// from a command to an entry in memory goes through here. What a checkpoint
// still needs of it is encoded first.
func (t *Tasks) held(i uint32) *entry {
	e := t.slab.at(i)
	if t.encoded < len(t.frozen) && e.listed == t.freeze-1 {
		t.encode(e)
	}
	return e
}

// Thaw says that the last Freeze can be read from Cold: the ended tasks it
// covered leave memory, save for those that changed since.
func (t *Tasks) Thaw() {
	for t.ThawSome(len(t.frozen)) {
	}
}

// ThawSome is Thaw for up to n tasks at a time; true means that there are
// more. Apply may run between two calls.
func (t *Tasks) ThawSome(n int) (more bool) {
	if t.encoded < len(t.frozen) {
		panic("ledger: invariant: thawed while the Freeze is not taken whole")
	}
	to := min(t.thawed+n, len(t.frozen))
	for _, i := range t.frozen[t.thawed:to] {
		e := t.slab.at(i)
		if !e.state.Terminal() || e.listed != 0 || e.flags&flagUnused != 0 {
			continue
		}
		t.byID.remove(i)
		t.oldIDs.add((*[16]byte)(&e.id))
		if e.key != ([16]byte{}) {
			t.byKey.remove(i)
			t.oldKeys.add(&e.key)
		}
		t.order.drop(e.id)
		t.slab.put(i)
	}
	t.order.sweep(func(place uint32, _ TaskID) bool { return t.slab.at(place).flags&flagUnused == 0 })
	if t.thawed = to; to < len(t.frozen) {
		return true
	}
	t.frozen, t.encoded, t.thawed = t.frozen[:0], 0, 0
	return false
}

// Restore rebuilds the state from the checkpoint in Cold; meta is what the
// Freeze it came from returned, nil if there never was one.
func (t *Tasks) Restore(meta []byte) error {
	t.reset()
	if meta == nil {
		return nil
	}
	if err := t.restore(meta); err != nil {
		t.reset()
		return fmt.Errorf("ledger: shard %d: checkpoint: %w", t.shard, err)
	}
	return nil
}

func (t *Tasks) restore(meta []byte) error {
	if err := t.readMeta(meta); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	t.restoredMillis = t.coldMillis
	var bad error
	var open [NumStates]uint64
	var w row
	from, to := prefixRange(prefixOpen)
	err := t.cold.Scan(from, to, func(key, value []byte) bool {
		if bad = checkRowKey(key); bad != nil {
			return false
		}
		if bad = w.decode(TaskID(key[1:]), value); bad != nil {
			return false
		}
		e := w.entry(t.names)
		if e.state.Terminal() || e.id.Shard() != t.shard {
			bad = fmt.Errorf("task %s is no open task of this shard: %w", e.id, ErrMalformed)
			return false
		}
		open[e.state]++
		t.keep(&e)
		return true
	})
	if err = firstError(err, bad); err != nil {
		return err
	}
	for s, n := range open {
		if !State(s).Terminal() && n != t.counts[s] {
			return fmt.Errorf("%d tasks are %s, meta says %d: %w", n, State(s), t.counts[s], ErrMalformed)
		}
	}
	if err := t.restoreKeys(); err != nil {
		return err
	}
	return t.restoreExtras()
}

func checkRowKey(key []byte) error {
	if len(key) != rowKeySize {
		return fmt.Errorf("key of %d bytes: %w", len(key), ErrMalformed)
	}
	return nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
