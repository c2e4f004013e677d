package ledger

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// eraRecordsBits: the row of an idempotency key begins with an era, which is 1
// and how many times 2²¹ records the shard had when its task was entered. Keys
// are hashes, and those of one checkpoint are spread over all there are: with
// eras they are merged with a million others at most, whatever number came
// before. Who looks for a key asks era by era, once the filter has said that
// it may be in one.
var eraRecordsBits = 21 // smaller in tests

// rowKeysSize is what the keys of a task's rows take, and its key's row.
const rowKeysSize = 2*rowKeySize + keyKeySize + len(TaskID{})

// eras counts the rows of keys in each era that has some, ascending. Era 0 is
// that of rows without one.
type eras []eraRows

type eraRows struct {
	era  uint32
	rows int64
}

func (s *eras) add(era uint32, rows int64) {
	i, ok := slices.BinarySearchFunc(*s, era, func(x eraRows, era uint32) int { return cmp.Compare(x.era, era) })
	if !ok {
		*s = slices.Insert(*s, i, eraRows{era: era})
	}
	if (*s)[i].rows += rows; (*s)[i].rows == 0 {
		*s = slices.Delete(*s, i, i+1)
	}
}

// keepKey enters the key of a task that was entered in memory.
func (t *Tasks) keepKey(i uint32, e *entry) {
	if e.key == ([16]byte{}) {
		return
	}
	t.byKey.add(i)
	if e.flags&flagKeyRow == 0 {
		e.era = 1 + uint32(t.journal.head.Seq>>eraRecordsBits)
	}
}

// freezeGoneKey deletes the row of an evicted task's key, unless another task
// has the key since, in the same era: its row is written over that one.
func (t *Tasks) freezeGoneKey(x extra) {
	t.eras.add(x.era, -1)
	if i := t.byKey.find(&x.name); i != 0 && t.slab.at(i).era == x.era {
		return
	}
	t.rows.deletes = append(t.rows.deletes, appendKeyKey(nil, x.era, &x.name))
}

// restoreKeys reads the rows of keys.
func (t *Tasks) restoreKeys() error {
	var bad error
	scan := func(prefix byte, size int) error {
		from, to := prefixRange(prefix)
		err := t.cold.Scan(from, to, func(key, _ []byte) bool {
			if len(key) != size {
				bad = fmt.Errorf("key of %d bytes: %w", len(key), ErrMalformed)
				return false
			}
			era := uint32(0)
			if prefix == prefixKey {
				era = binary.BigEndian.Uint32(key[1:])
			}
			t.eras.add(era, 1)
			t.oldKeys.add((*[16]byte)(key[size-16:]))
			return true
		})
		return firstError(err, bad)
	}
	return firstError(scan(prefixOldKey, rowKeySize), scan(prefixKey, keyKeySize))
}
