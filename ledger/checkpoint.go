package ledger

import "fmt"

// Freeze returns what changed since the last Freeze: rows to write, keys to
// delete, and the meta that goes with them. Everything stays readable in
// memory until Thaw.
func (t *Tasks) Freeze() (puts []KV, deletes [][]byte, meta []byte) {
	size := 0
	for _, i := range t.dirty {
		size += t.slab.at(i).rowSize() + 3*rowKeySize
	}
	arena := make([]byte, 0, size)
	puts = make([]KV, 0, 2*len(t.dirty))
	key := func(prefix byte, name *[16]byte) []byte {
		start := len(arena)
		arena = appendRowKey(arena, prefix, name)
		return arena[start:len(arena):len(arena)]
	}
	for _, i := range t.dirty {
		e := t.slab.at(i)
		id := (*[16]byte)(&e.id)
		here, there := entryFlags(flagOpenRow), entryFlags(flagEndedRow)
		prefix, other := byte(prefixOpen), byte(prefixEnded)
		if e.state.Terminal() {
			here, there, prefix, other = there, here, other, prefix
			t.coldMillis = max(t.coldMillis, e.id.Millis())
		}
		k := key(prefix, id)
		start := len(arena)
		arena = e.appendRow(arena)
		puts = append(puts, KV{k, arena[start:len(arena):len(arena)]})
		if e.flags&there != 0 {
			deletes = append(deletes, key(other, id))
		}
		if e.flags&flagKeyRow == 0 && e.key != ([16]byte{}) {
			k, v := key(prefixKey, &e.key), len(arena)
			arena = append(arena, e.id[:]...)
			puts = append(puts, KV{k, arena[v:len(arena):len(arena)]})
		}
		e.flags = e.flags&^(flagDirty|there) | here | flagKeyRow
	}
	if len(t.frozen) == 0 {
		t.frozen, t.dirty = t.dirty, t.frozen
	} else { // the Freeze before was never thawed
		t.frozen, t.dirty = append(t.frozen, t.dirty...), t.dirty[:0]
	}
	return puts, deletes, t.appendMeta(nil)
}

// Thaw says that the last Freeze can be read from Cold: the ended tasks it
// covered leave memory, save for those that changed since.
func (t *Tasks) Thaw() {
	for _, i := range t.frozen {
		e := t.slab.at(i)
		if !e.state.Terminal() || e.flags&(flagDirty|flagUnused) != 0 {
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
	t.frozen = t.frozen[:0]
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
	from, to = prefixRange(prefixKey)
	err = t.cold.Scan(from, to, func(key, _ []byte) bool {
		if bad = checkRowKey(key); bad == nil {
			t.oldKeys.add((*[16]byte)(key[1:]))
		}
		return bad == nil
	})
	return firstError(err, bad)
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
