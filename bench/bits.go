package bench

import (
	mathbits "math/bits"
	"sync"
	"sync/atomic"
)

// bitBlock is how many bits a block of a set holds: 128 KiB of memory.
const bitBlock = 1 << 20

type bitsBlock [bitBlock / 64]atomic.Uint64

// bits is a set of sequence numbers below maxTasks. Any goroutine may call any
// method. Blocks appear when they are needed and are never moved, so that a
// word can be changed atomically while the set grows.
type bits struct {
	mu     sync.Mutex // orders the appearance of blocks
	blocks [maxTasks / bitBlock]atomic.Pointer[bitsBlock]
}

// set adds n and says whether it was new.
func (b *bits) set(n int64) bool {
	block := b.blocks[n/bitBlock].Load()
	if block == nil {
		b.mu.Lock()
		if block = b.blocks[n/bitBlock].Load(); block == nil {
			block = new(bitsBlock)
			b.blocks[n/bitBlock].Store(block)
		}
		b.mu.Unlock()
	}
	i := n % bitBlock
	mask := uint64(1) << (i % 64)
	return block[i/64].Or(mask)&mask == 0
}

// minus counts what is in b and not in other.
func (b *bits) minus(other *bits) (n int) {
	for i := range b.blocks {
		mine, theirs := b.blocks[i].Load(), other.blocks[i].Load()
		if mine == nil {
			continue
		}
		for w := range mine {
			word := mine[w].Load()
			if theirs != nil {
				word &^= theirs[w].Load()
			}
			n += mathbits.OnesCount64(word)
		}
	}
	return n
}
