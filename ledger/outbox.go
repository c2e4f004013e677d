package ledger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// Letter is a command that one shard has for another. Letters are part of the
// state: whoever leads the shard delivers them until they are acknowledged
// ([Ack]). What they ask is idempotent, so one that arrives twice does no harm.
type Letter struct {
	Seq     uint64
	Shard   uint32 // it is for; of a [SagaAsk] the sender's own
	Command []byte
}

// outbox has the letters not known to have arrived, by ascending number.
type outbox struct {
	last    uint64 // number of the newest letter ever posted
	letters []Letter
}

// Rows beside the tasks':
//
//	'x' zeros            number of the newest letter (a number)
//	'x' letter's number  its shard (a number) and its command
//	's' task ID          a failed rollback nobody has settled (one byte)
const (
	prefixLetter = 'x'
	prefixStuck  = 's'
)

// extra names such a row, or that of a key.
type extra struct {
	prefix byte
	name   [16]byte
	era    uint32 // of a key
}

func letterName(seq uint64) (name [16]byte) {
	binary.BigEndian.PutUint64(name[8:], seq)
	return name
}

// Outbox is up to limit letters still to be delivered, oldest first. They are
// shared: read only.
func (t *Tasks) Outbox(limit int) []Letter {
	n := min(limit, len(t.outbox.letters))
	return slices.Clone(t.outbox.letters[:n])
}

// Stuck are the tasks whose rollback failed and that nobody has settled, by
// ID.
func (t *Tasks) Stuck() []TaskID { return slices.Clone(t.stuck) }

func (t *Tasks) post(shard uint32, c Command) {
	t.outbox.last++
	t.outbox.letters = append(t.outbox.letters, Letter{Seq: t.outbox.last, Shard: shard, Command: c.Append(nil)})
	t.extras = append(t.extras, extra{prefix: prefixLetter, name: letterName(t.outbox.last)}, extra{prefix: prefixLetter})
}

func (t *Tasks) ack(c *Ack) Outcome {
	seqs := slices.Clone(c.Seqs)
	slices.Sort(seqs)
	left := t.outbox.letters[:0:0] // a reader may have the old ones
	for _, l := range t.outbox.letters {
		if _, ok := slices.BinarySearch(seqs, l.Seq); ok {
			t.extras = append(t.extras, extra{prefix: prefixLetter, name: letterName(l.Seq)})
			continue
		}
		left = append(left, l)
	}
	replayed := len(left) == len(t.outbox.letters)
	t.outbox.letters = left
	return Outcome{Replayed: replayed}
}

// setStuck enters a task among those whose rollback failed, or takes it out.
func (t *Tasks) setStuck(e *entry, on bool) {
	i, ok := slices.BinarySearchFunc(t.stuck, e.id, TaskID.Compare)
	if e.x.Stuck = on; on == ok {
		return
	}
	if on {
		t.stuck = slices.Insert(slices.Clone(t.stuck), i, e.id)
	} else {
		t.stuck = slices.Delete(slices.Clone(t.stuck), i, i+1)
	}
	t.extras = append(t.extras, extra{prefix: prefixStuck, name: e.id})
}

// freezeExtras encodes the rows that changed.
func (t *Tasks) freezeExtras() {
	slices.SortFunc(t.extras, func(a, b extra) int {
		return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(a.era, b.era), bytes.Compare(a.name[:], b.name[:]))
	})
	for _, x := range slices.Compact(t.extras) {
		if x.prefix == prefixKey {
			t.freezeGoneKey(x)
			continue
		}
		key := appendRowKey(nil, x.prefix, &x.name)
		if value := t.extraRow(x); value != nil {
			t.rows.puts = append(t.rows.puts, KV{key, value})
		} else {
			t.rows.deletes = append(t.rows.deletes, key)
		}
	}
	t.extras = t.extras[:0]
}

// extraRow is a row's value, nil if it is not there any more.
func (t *Tasks) extraRow(x extra) []byte {
	switch {
	case x.prefix == prefixStuck:
		if _, ok := slices.BinarySearchFunc(t.stuck, TaskID(x.name), TaskID.Compare); ok {
			return []byte{1}
		}
		return nil
	case x.name == [16]byte{}:
		return appendUint(nil, t.outbox.last)
	}
	seq := binary.BigEndian.Uint64(x.name[8:])
	i, ok := slices.BinarySearchFunc(t.outbox.letters, seq, func(l Letter, seq uint64) int { return cmp.Compare(l.Seq, seq) })
	if !ok {
		return nil
	}
	return appendBytes(appendUint(nil, uint64(t.outbox.letters[i].Shard)), t.outbox.letters[i].Command)
}

// restoreExtras reads the rows.
func (t *Tasks) restoreExtras() error {
	var bad error
	scan := func(prefix byte, fn func(name [16]byte, r *reader)) error {
		from, to := prefixRange(prefix)
		err := t.cold.Scan(from, to, func(key, value []byte) bool {
			if bad = checkRowKey(key); bad != nil {
				return false
			}
			r := newReader(value)
			fn([16]byte(key[1:]), &r)
			if err := r.end(); err != nil {
				bad = fmt.Errorf("row %x: %w", key, err)
			}
			return bad == nil
		})
		return firstError(err, bad)
	}
	err := scan(prefixLetter, func(name [16]byte, r *reader) {
		seq := binary.BigEndian.Uint64(name[8:])
		if name == ([16]byte{}) {
			t.outbox.last = r.uint()
			return
		}
		l := Letter{Seq: seq, Shard: r.uint32(), Command: clone(r.view())}
		if _, err := DecodeCommand(l.Command); err != nil || seq > t.outbox.last {
			r.fail("a letter that was never posted")
		}
		t.outbox.letters = append(t.outbox.letters, l)
	})
	if err != nil {
		return err
	}
	return scan(prefixStuck, func(name [16]byte, r *reader) {
		if r.u8() != 1 {
			r.fail("not the mark of a failed rollback")
		}
		t.stuck = append(t.stuck, TaskID(name))
	})
}

// digestExtras adds what is beside the tasks to the shard's digest.
func (t *Tasks) digestExtras(h uint64) uint64 {
	if t.outbox.last > 0 {
		h = mix(h, t.outbox.last)
	}
	for i := range t.outbox.letters {
		h = hashBytes(mix(h, t.outbox.letters[i].Seq), t.outbox.letters[i].Command)
	}
	for i := range t.stuck {
		h = hashBytes(h, t.stuck[i][:])
	}
	return h
}
