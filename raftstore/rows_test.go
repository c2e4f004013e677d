package raftstore

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomRows have keys of all lengths around 16 bytes, with long runs of equal bytes.
func randomRows(r *rand.Rand, n int) []KV {
	rows := make([]KV, n)
	for i := range rows {
		k := make([]byte, r.IntN(20))
		for j := range k {
			k[j] = byte(r.IntN(1 + r.IntN(256)))
		}
		rows[i] = KV{k, []byte{byte(i)}}
	}
	return rows
}

func TestSortRows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, radixRows - 1, radixRows, 5000} {
		rows := randomRows(r, n)
		want := slices.Clone(rows)
		slices.SortFunc(want, func(a, b KV) int { return bytes.Compare(a.Key, b.Key) })
		sortRows(rows)
		for i := range rows {
			if !bytes.Equal(rows[i].Key, want[i].Key) {
				t.Fatalf("%d rows: key %d is %x, want %x", n, i, rows[i].Key, want[i].Key)
			}
		}
	}
}

func BenchmarkSortRows(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	rows := make([]KV, 1<<16)
	for i := range rows {
		rows[i].Key = make([]byte, 17)
		for j := range rows[i].Key {
			rows[i].Key[j] = byte(r.Uint32())
		}
		rows[i].Key[0] = "ek"[i%2]
	}
	for b.Loop() {
		sortRows(slices.Clone(rows))
	}
}
