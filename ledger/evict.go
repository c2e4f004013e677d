package ledger

import "fmt"

// Evict takes ended tasks, with their idempotency keys, out of the state for
// ever. Whoever leads the shard proposes it when their time is over; a task
// that has not ended before BeforeMillis stays, and so does one that belongs
// to a transaction ([EvictSettled] takes those). The audit records of an
// evicted task stay.
type Evict struct {
	BeforeMillis int64
	IDs          []TaskID // at most maxEvict
}

const maxEvict = 1024

// EvictSettled is Evict for tasks of transactions, too, once nothing is left
// to settle about them. (Evict goes on to let them be: old logs have it.)
type EvictSettled Evict

func (*EvictSettled) kind() kind { return kindEvictSettled }

// Append implements Command.
func (c *EvictSettled) Append(dst []byte) []byte {
	at := len(dst)
	dst = (*Evict)(c).Append(dst)
	dst[at+1] = uint8(kindEvictSettled)
	return dst
}

func (c *EvictSettled) read(r *reader) { (*Evict)(c).read(r) }

func (*Evict) kind() kind { return kindEvict }

// Append implements Command.
func (c *Evict) Append(dst []byte) []byte {
	dst = appendInt(appendHead(dst, kindEvict), c.BeforeMillis)
	dst = appendUint(dst, uint64(len(c.IDs)))
	for i := range c.IDs {
		dst = append(dst, c.IDs[i][:]...)
	}
	return dst
}

func (c *Evict) read(r *reader) {
	c.BeforeMillis = r.int()
	if n := r.count(len(TaskID{})); n > 0 {
		c.IDs = make([]TaskID, n)
	}
	for i := range c.IDs {
		r.fixed(c.IDs[i][:])
	}
}

func (t *Tasks) evict(c *Evict, txns bool) Outcome {
	if len(c.IDs) > maxEvict {
		return Outcome{Code: Invalid, Detail: fmt.Sprintf("%d tasks, at most %d", len(c.IDs), maxEvict)}
	}
	n := 0
	for _, id := range c.IDs {
		i, e := t.find(id)
		if e != nil && i == 0 { // settled looks for another one
			own := *e
			e = &own
		}
		if e == nil || !e.state.Terminal() || e.completed >= c.BeforeMillis || e.x != nil && !(txns && t.settled(e)) {
			continue
		}
		if i == 0 { // it had left memory
			i, e = t.keep(e)
		}
		t.counts[e.state]--
		t.endedSum -= e.sum()
		if e.key != ([16]byte{}) {
			t.byKey.remove(i)
			if e.flags&flagKeyRow != 0 {
				t.extras = append(t.extras, extra{prefixKey, e.key, e.era})
			}
			e.key = [16]byte{}
		}
		e.flags |= flagEvicted // it stays in memory, seen by nobody, until the checkpoint lacks it
		t.slab.bytes -= len(e.spec)
		e.result, e.spec, e.err, e.x = nil, nil, "", nil
		t.touch(i, e)
		n++
	}
	if n == 0 {
		return Outcome{Replayed: true}
	}
	t.rec = Record{Verb: VerbEvict, Index: t.index, TimeMillis: t.now, Detail: fmt.Sprintf("%d tasks that ended before %d", n, c.BeforeMillis)}
	t.journal.write(&t.rec)
	return Outcome{}
}

// settled says that nothing can ask for an ended transaction any more, but a
// human who undoes what was done: whoever evicts it decided that that time is
// over. A saga that stopped, and a rollback that failed, wait for a human.
func (t *Tasks) settled(e *entry) bool {
	x := e.x
	if x.Stuck || x.Role == RoleSaga && e.state == StateFailed {
		return false
	}
	if x.Role != RoleVerify && x.Role != RoleRollback {
		return true
	}
	_, of := t.find(x.Of) // a hook is tried again as long as its task needs it
	return of == nil || of.state.Terminal() && (of.x == nil || !of.x.Stuck)
}

// revive gives the place of an evicted task to a new one with its ID; 0 when
// there is none. Its old rows are deleted with the next checkpoint.
func (t *Tasks) revive(e *entry) (uint32, *entry) {
	i := t.byID.find((*[16]byte)(&e.id))
	if i == 0 {
		return 0, nil
	}
	p := t.held(i)
	rows, listed := p.flags&(flagOpenRow|flagEndedRow), p.listed
	t.slab.bytes += len(e.spec) - len(p.spec)
	*p = *e
	p.flags, p.listed = p.flags|rows, listed
	t.keepKey(i, p)
	return i, p
}

// encodeGone writes what an evicted task leaves of rows: none.
func (t *Tasks) encodeGone(e *entry) {
	for _, row := range []struct {
		flag   entryFlags
		prefix byte
	}{{flagOpenRow, prefixOpen}, {flagEndedRow, prefixEnded}} {
		if e.flags&row.flag != 0 {
			t.rows.deletes = append(t.rows.deletes, appendRowKey(nil, row.prefix, (*[16]byte)(&e.id)))
		}
	}
	e.flags &^= flagOpenRow | flagEndedRow
	e.listed = 0
}

// evicted says that a task in memory is one that nobody sees any more.
func (e *entry) evicted() bool { return e.flags&flagEvicted != 0 }
