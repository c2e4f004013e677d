package raftstore

import (
	"bytes"
	"sort"
)

// ownTableBytes of rows of one kind (by the first byte of their keys) get tables of their own.
const ownTableBytes = 256 << 10

// lateShare of the rows above the top (one eighth, the highest) have a table of their own: rows that are late belong
// among them, and what they are merged with should be small.
const lateShare = 8

// tops is the greatest key each shard wrote of a kind in its last large checkpoint. It decides nothing but where tables
// begin. Keys that begin with a time grow: the rows above the top overlap nothing that is there, and a table of such
// rows alone goes to the lowest level at once, never to be merged. In one table with rows of another kind, or with the
// few that are late, they would be merged with all rows there are.
type tops map[topOf][]byte

type topOf struct {
	shard uint32
	kind  byte
}

// starts says where tables begin in sorted rows, ascending.
func (m tops) starts(shard uint32, puts []KV) (at []int) {
	for from := 0; from < len(puts); {
		kind, size, to := kindOf(puts[from].Key), 0, from
		for ; to < len(puts) && kindOf(puts[to].Key) == kind; to++ {
			size += len(puts[to].Key) + len(puts[to].Value)
		}
		if size >= ownTableBytes {
			at = append(at, from)
			id := topOf{shard, kind}
			if top, known := m[id]; known {
				fresh := from + sort.Search(to-from, func(i int) bool { return bytes.Compare(puts[from+i].Key, top) > 0 })
				if fresh < to {
					at = append(at, fresh, to-(to-fresh)/lateShare)
				}
			}
			m[id] = bytes.Clone(puts[to-1].Key)
		}
		from = to
	}
	return at
}
