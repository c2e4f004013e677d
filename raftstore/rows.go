package raftstore

import (
	"bytes"
	"encoding/binary"
	"slices"
)

const (
	radixRows = 512     // fewer are sorted by comparing them
	manyRows  = 8 << 10 // more are spread by three bytes instead of two
)

// rowPlace is a row by the 8 bytes of its key behind what all keys of its kind share, and where it is.
type rowPlace struct {
	head uint64
	at   uint32
}

// sortRows sorts by key. A checkpoint of a busy shard has thousands of rows of two or three kinds, by the first byte of
// their keys: those under IDs that begin with their time come nearly in order, those under digests in none. Each kind is
// spread by the first bytes that tell its keys apart; what agrees in them, two or three rows as a rule, is compared.
// Comparing all was a twentieth of a node's CPU, a radix sort over 16 bytes a thirtieth.
func sortRows(rows []KV) {
	byKey := func(a, b KV) int { return bytes.Compare(a.Key, b.Key) }
	if len(rows) < radixRows {
		slices.SortFunc(rows, byKey)
		return
	}
	var ends [256]int // of each kind, in places
	for i := range rows {
		ends[kindOf(rows[i].Key)]++
	}
	next := 0
	for kind, n := range ends {
		ends[kind] = next
		next += n
	}
	places, other := make([]rowPlace, len(rows)), make([]rowPlace, len(rows))
	for i := range rows {
		kind := kindOf(rows[i].Key)
		places[ends[kind]].at = uint32(i)
		ends[kind]++
	}
	start := 0
	for _, end := range ends {
		if end > start {
			sortKind(rows, places[start:end], other[start:end])
			start = end
		}
	}
	permute(rows, places)
}

func kindOf(key []byte) byte {
	if len(key) == 0 {
		return 0
	}
	return key[0]
}

// sortKind puts the places of one kind in order; other is as long.
func sortKind(rows []KV, places, other []rowPlace) {
	first := rows[places[0].at].Key
	shared := len(first)
	for _, p := range places {
		shared = min(shared, sharedBytes(first[:shared], rows[p.at].Key))
	}
	sorted := true
	for i := range places {
		var b [8]byte
		copy(b[:], rows[places[i].at].Key[shared:])
		places[i].head = binary.BigEndian.Uint64(b[:])
		sorted = sorted && (i == 0 || places[i-1].head < places[i].head)
	}
	if sorted {
		return
	}
	lowest := uint(48) // of the bits the rows are spread by
	if len(places) > manyRows {
		lowest = 40
	}
	from, to := places, other
	for shift := lowest; shift < 64; shift += 8 {
		spread(from, to, shift)
		from, to = to, from
	}
	if &from[0] != &places[0] {
		copy(places, from)
	}
	compare := func(a, b rowPlace) int { return bytes.Compare(rows[a.at].Key[shared:], rows[b.at].Key[shared:]) }
	for i := 0; i < len(places); {
		end := i + 1
		for end < len(places) && places[end].head>>lowest == places[i].head>>lowest {
			end++
		}
		if end > i+1 {
			slices.SortFunc(places[i:end], compare)
		}
		i = end
	}
}

func sharedBytes(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// spread is a stable counting sort by the byte at shift.
func spread(from, to []rowPlace, shift uint) {
	var count [256]int
	for i := range from {
		count[byte(from[i].head>>shift)]++
	}
	next := 0
	for v, n := range count {
		count[v] = next
		next += n
	}
	for _, p := range from {
		v := byte(p.head >> shift)
		to[count[v]] = p
		count[v]++
	}
}

// permute moves the row at places[i].at to i, along the cycles of the permutation.
func permute(rows []KV, places []rowPlace) {
	for i := range places {
		if int(places[i].at) == i {
			continue
		}
		held, j := rows[i], i
		for {
			k := int(places[j].at)
			places[j].at = uint32(j)
			if k == i {
				break
			}
			rows[j], j = rows[k], k
		}
		rows[j] = held
	}
}
