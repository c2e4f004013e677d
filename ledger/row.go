package ledger

import (
	"encoding/binary"
	"fmt"
)

// Rows of a task shard's checkpoint:
//
//	'o' task ID           an open task
//	'e' task ID           an ended one
//	'n' era u32, key hash task ID: the task of an idempotency key
//	'k' key hash          the same, of era 0: as it was written formerly
//
// A task's row, version 1: version u8, state u8, ending u8, has-key u8, the
// key hash if so, and its era behind it if has-key is 2, request hash 32
// bytes, epoch, attempts, then the times created, updated, completed,
// not-before, ready, deadline (signed numbers), agent, error (text), result,
// spec (byte strings). Version 2, of a task that is more than a plain one, has
// its transaction ([Txn]) behind that.
const (
	prefixOpen   = 'o'
	prefixEnded  = 'e'
	prefixKey    = 'n'
	prefixOldKey = 'k'

	keyNone = 0 // has-key
	keyOld  = 1
	keyEra  = 2

	rowVersion    = 1
	rowVersionTxn = 2 // followed by the transaction, a byte string
	rowKeySize    = 1 + 16
	keyKeySize    = 1 + 4 + 16
	// rowFixedBytes is no less than a row takes beside its text and byte
	// strings: 4 + 16 + 5 + 32 + 10 + 5 + 6×10 + 4×5.
	rowFixedBytes = 152
)

func appendRowKey(dst []byte, prefix byte, name *[16]byte) []byte {
	return append(append(dst, prefix), name[:]...)
}

func appendKeyKey(dst []byte, era uint32, key *[16]byte) []byte {
	if era == 0 {
		return appendRowKey(dst, prefixOldKey, key)
	}
	return append(binary.BigEndian.AppendUint32(append(dst, prefixKey), era), key[:]...)
}

func endedKey(id TaskID) []byte           { return appendRowKey(nil, prefixEnded, (*[16]byte)(&id)) }
func prefixRange(p byte) ([]byte, []byte) { return []byte{p}, []byte{p + 1} }

func (e *entry) rowSize() int {
	n := rowFixedBytes + len(e.agent) + len(e.err) + len(e.result) + len(e.spec)
	if x := e.x; x != nil {
		n += len(x.Saved.State) + len(x.Terms.Snapshot) + len(x.Terms.Verify.Input) + len(x.Terms.Rollback.Input) + 512
	}
	return n
}

func (e *entry) appendRow(dst []byte) []byte {
	version := uint8(rowVersion)
	if e.x != nil {
		version = rowVersionTxn
	}
	dst = append(dst, version, uint8(e.state), uint8(e.ended))
	switch {
	case e.key == [16]byte{}:
		dst = append(dst, keyNone)
	case e.era == 0:
		dst = append(append(dst, keyOld), e.key[:]...)
	default:
		dst = appendUint(append(append(dst, keyEra), e.key[:]...), uint64(e.era))
	}
	dst = append(dst, e.request[:]...)
	dst = appendUint(dst, e.epoch)
	dst = appendUint(dst, uint64(e.attempts))
	dst = appendInt(dst, e.created)
	dst = appendInt(dst, e.updated)
	dst = appendInt(dst, e.completed)
	dst = appendInt(dst, e.notBefore)
	dst = appendInt(dst, e.ready)
	dst = appendInt(dst, e.deadline)
	dst = appendString(dst, e.agent)
	dst = appendString(dst, e.err)
	dst = appendBytes(appendBytes(dst, e.result), e.spec)
	if e.x != nil {
		dst = appendBytes(dst, e.x.append(nil))
	}
	return dst
}

// row is a decoded row: an entry whose text still points into the row.
type row struct {
	e          entry
	agent, err []byte
	v          specView
}

func (w *row) decode(id TaskID, b []byte) error {
	r := newReader(b)
	version := r.u8()
	if r.err == nil && version != rowVersion && version != rowVersionTxn {
		r.fail(fmt.Sprintf("row version %d is not known", version))
	}
	e := &w.e
	*e = entry{id: id, state: State(r.u8()), ended: ending(r.u8())}
	has := r.u8()
	if has != keyNone {
		if r.fixed(e.key[:]); e.key == ([16]byte{}) {
			r.fail("empty key")
		}
	}
	if has == keyEra {
		if e.era = r.uint32(); e.era == 0 {
			r.fail("era 0")
		}
	} else if has > keyEra {
		r.fail("no such kind of key")
	}
	r.fixed(e.request[:])
	e.epoch, e.attempts = r.uint(), r.uint32()
	e.created, e.updated, e.completed = r.int(), r.int(), r.int()
	e.notBefore, e.ready, e.deadline = r.int(), r.int(), r.int()
	w.agent, w.err, e.result = r.view(), r.view(), r.view()
	e.spec = r.view()
	var txn []byte
	if version == rowVersionTxn {
		txn = r.view()
	}
	if e.state == 0 || e.state >= stateEnd || e.ended >= endingEnd {
		r.fail("no such state")
	}
	err := r.end()
	if err == nil {
		s := newReader(e.spec)
		w.v.read(&s)
		err = s.end()
	}
	if err == nil && version == rowVersionTxn {
		e.x, err = decodeTxn(txn)
	}
	if err != nil {
		return fmt.Errorf("row of task %s: %w", id, err)
	}
	e.leaseMs, e.priority, e.guarantee = w.v.lease, w.v.priority, w.v.guarantee
	return nil
}

// entry is the row as it stands in memory, with nothing of the row kept.
func (w *row) entry(n *names) entry {
	e := w.e
	e.class = n.class(w.v.fleet, w.v.action, w.v.target)
	e.agent, e.err = n.intern(w.agent), string(w.err)
	e.result, e.spec = clone(e.result), clone(e.spec)
	e.flags = flagKeyRow | w.v.related()
	if e.state.Terminal() {
		e.flags |= flagEndedRow
	} else {
		e.flags |= flagOpenRow
	}
	return e
}

// task is the row as callers see it, with nothing of the row kept.
func (w *row) task() Task {
	e := w.e
	e.agent, e.err, e.result = string(w.agent), string(w.err), clone(e.result)
	return e.task(w.v.spec(false))
}

func (e *entry) task(s Spec) Task {
	s.DeadlineMillis = e.deadline
	return Task{ID: e.id, Spec: s, RequestHash: e.request, State: e.state, Epoch: e.epoch, Attempts: e.attempts, Agent: e.agent,
		Result: e.result, Error: e.err, CreatedMillis: e.created, UpdatedMillis: e.updated, CompletedMillis: e.completed,
		NotBeforeMillis: e.notBefore, ReadyMillis: e.ready, Txn: e.x.copy()}
}

// Meta of version 2 has the version of the audit records behind its own, and
// is written from the command on that set one; before it stays version 1.
const (
	metaVersion  = 1
	metaVersion2 = 2
)

func (j *journal) appendMetaVersion(dst []byte) []byte {
	if j.format == recordVersion1 {
		return append(dst, metaVersion)
	}
	return append(dst, metaVersion2, j.format)
}

// readMetaVersion returns the version of the audit records.
func readMetaVersion(r *reader) uint8 {
	switch v := r.u8(); {
	case r.err != nil || v == metaVersion:
	case v == metaVersion2:
		f := r.u8()
		if r.err == nil && (f <= recordVersion1 || f > AuditFormatNow) {
			r.fail(fmt.Sprintf("audit records of version %d are not known", f))
		}
		return f
	default:
		r.fail(fmt.Sprintf("version %d is not known", v))
	}
	return recordVersion1
}

// Meta of a task shard's checkpoint, version 1: version u8, shard, ledger
// time, records, last chain hash 32 bytes, count of states and the number of
// tasks in each, sum of the ended 8 bytes, greatest ID time of an ended row.
func (t *Tasks) appendMeta(dst []byte) []byte {
	dst = appendUint(t.journal.appendMetaVersion(dst), uint64(t.shard))
	dst = appendInt(dst, t.now)
	dst = appendUint(dst, t.journal.head.Seq)
	dst = append(dst, t.journal.head.Hash[:]...)
	dst = appendUint(dst, uint64(len(t.counts)))
	for _, c := range t.counts {
		dst = appendUint(dst, c)
	}
	dst = binary.BigEndian.AppendUint64(dst, t.endedSum)
	return appendInt(dst, t.coldMillis)
}

func (t *Tasks) readMeta(meta []byte) error {
	r := newReader(meta)
	format := readMetaVersion(&r)
	if s := r.uint(); r.err == nil && s != uint64(t.shard) {
		r.fail(fmt.Sprintf("it is of shard %d", s))
	}
	var h Head
	var sum [8]byte
	t.now, h.Seq = r.int(), r.uint()
	r.fixed(h.Hash[:])
	if n := r.count(1); n > len(t.counts) {
		r.fail("states of a later version")
	} else {
		for i := range n {
			t.counts[i] = r.uint()
		}
	}
	r.fixed(sum[:])
	t.endedSum, t.coldMillis = binary.BigEndian.Uint64(sum[:]), r.int()
	t.journal.restore(format, h)
	return r.end()
}
