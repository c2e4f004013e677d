package ledger

import "encoding/binary"

// bloom says quickly that a key was never seen: layers of about a million keys
// each, 10 bits a key and 7 probes, so that a key that is not there costs a
// look-up in Cold once in about a hundred times and layer. The keys are parts
// of a SHA-256, so their own bits are the hash functions.
type bloom struct{ layers []*bloomLayer }

type bloomLayer struct {
	bits []uint64
	keys int
}

const (
	bloomKeys   = 1 << 20
	bloomWords  = bloomKeys * 10 / 64
	bloomProbes = 7
)

// the first layer is small, so that an empty shard costs little.
const bloomFirstKeys = 1 << 12

func (l *bloomLayer) limit() int { return len(l.bits) * 64 / 10 }

func (b *bloom) add(k idemKey) {
	n := len(b.layers)
	if n == 0 || b.layers[n-1].keys >= b.layers[n-1].limit() {
		words := bloomWords
		if n == 0 {
			words = bloomFirstKeys * 10 / 64
		}
		b.layers = append(b.layers, &bloomLayer{bits: make([]uint64, words)})
		n++
	}
	l := b.layers[n-1]
	l.keys++
	l.probe(k, func(w, m uint64) bool { l.bits[w] |= m; return true })
}

func (b *bloom) mayHave(k idemKey) bool {
	for _, l := range b.layers {
		if l.probe(k, func(w, m uint64) bool { return l.bits[w]&m != 0 }) {
			return true
		}
	}
	return false
}

// probe calls fn with word and mask of each probe until it is false (Kirsch
// and Mitzenmacher 2006: two hashes make all).
func (l *bloomLayer) probe(k idemKey, fn func(w, m uint64) bool) bool {
	h, step := binary.LittleEndian.Uint64(k[:8]), binary.LittleEndian.Uint64(k[8:])|1
	n := uint64(len(l.bits)) * 64
	for range bloomProbes {
		bit := h % n
		if !fn(bit/64, 1<<(bit%64)) {
			return false
		}
		h += step
	}
	return true
}
