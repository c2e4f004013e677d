package raftstore

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// radixRows is how many rows are sorted by their bytes rather than by comparing them.
const radixRows = 512

// rowPlace is a row by the first 16 bytes of its key and where it is.
type rowPlace struct {
	head [2]uint64
	at   int
}

// sortRows sorts by key. A checkpoint of a busy shard has tens of thousands of rows under random keys, and comparing them
// was a twentieth of a node's CPU. It is a radix sort, least digit first, over those of the first 16 bytes in which keys
// differ; what agrees in all of them is compared.
func sortRows(rows []KV) {
	if len(rows) < radixRows {
		slices.SortFunc(rows, func(a, b KV) int { return bytes.Compare(a.Key, b.Key) })
		return
	}
	places, other := make([]rowPlace, len(rows)), make([]rowPlace, len(rows))
	var counts [16][256]int
	for i, row := range rows {
		var b [16]byte
		copy(b[:], row.Key)
		places[i] = rowPlace{[2]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}, i}
		for digit, v := range b {
			counts[digit][v]++
		}
	}
	for digit := 15; digit >= 0; digit-- {
		count := &counts[digit]
		word, shift := digit/8, uint(56-8*(digit%8))
		if count[byte(places[0].head[word]>>shift)] == len(rows) {
			continue // all keys agree here
		}
		next := 0
		for v, n := range count {
			count[v] = next
			next += n
		}
		for _, p := range places {
			v := byte(p.head[word] >> shift)
			other[count[v]] = p
			count[v]++
		}
		places, other = other, places
	}
	unsorted := slices.Clone(rows)
	for i, p := range places {
		rows[i] = unsorted[p.at]
	}
	for i := 0; i < len(rows); {
		end := i + 1
		for end < len(rows) && places[end].head == places[i].head {
			end++
		}
		slices.SortFunc(rows[i:end], func(a, b KV) int { return bytes.Compare(a.Key, b.Key) })
		i = end
	}
}
