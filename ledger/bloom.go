package ledger

import "encoding/binary"

// bloom answers "certainly never entered" for 16-byte names, so that the
// checkpoint is not read for every new key. Layers, each four times as large
// as the one before, are added as they fill; 24 bits a name in blocks of one
// cache line give 1 in 4,000 to 10,000 false answers a layer, each of which
// costs a read of some 50 µs: at 16 bits, 1 in 1,000, they were a twelfth of
// what submitting costs. A name takes 3 bytes; ten million, with the room of
// the last layer, 44 MB.
type bloom struct {
	layers []bloomLayer
}

type bloomLayer struct {
	blocks []bloomBlock // a power of two of them
	room   int          // names it still takes
}

type bloomBlock [8]uint64

const (
	bloomFirstNames = bloomBlockNames << 11
	bloomGrowth     = 4
	bloomBlockNames = 512 / 24
	bloomProbes     = 7
)

func bloomHashes(name *[16]byte) (block, bits uint64) {
	a, b := binary.LittleEndian.Uint64(name[:]), binary.LittleEndian.Uint64(name[8:])
	block = mix(a, b)
	return block, mix(block, b)
}

func (f *bloom) add(name *[16]byte) {
	if n := len(f.layers); n == 0 || f.layers[n-1].room == 0 {
		names := bloomFirstNames
		if n > 0 {
			names = bloomGrowth * bloomBlockNames * len(f.layers[n-1].blocks)
		}
		f.layers = append(f.layers, bloomLayer{blocks: make([]bloomBlock, names/bloomBlockNames), room: names})
	}
	l := &f.layers[len(f.layers)-1]
	l.room--
	h, bits := bloomHashes(name)
	b := &l.blocks[h&uint64(len(l.blocks)-1)]
	for range bloomProbes {
		b[bits>>6&7] |= 1 << (bits & 63)
		bits >>= 9
	}
}

func (f *bloom) mayHave(name *[16]byte) bool {
	h, bits := bloomHashes(name)
	for i := range f.layers {
		l := &f.layers[i]
		b := &l.blocks[h&uint64(len(l.blocks)-1)]
		hit, x := true, bits
		for range bloomProbes {
			if b[x>>6&7]&(1<<(x&63)) == 0 {
				hit = false
				break
			}
			x >>= 9
		}
		if hit {
			return true
		}
	}
	return false
}
