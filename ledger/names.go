package ledger

import (
	"encoding/binary"
	"math/bits"
)

// names turns bytes into strings that were seen before without allocating: a
// direct-mapped cache, bounded, where the newest of two names with one slot
// stays. A miss costs an allocation and changes nothing else.
type names struct {
	slots   [1 << nameBits]string
	classes [1 << nameBits]*class
}

const nameBits = 10

// class is what tasks of one fleet and capability share.
type class struct {
	fleet, action, target string
	capability            string
}

func (n *names) intern(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	s := &n.slots[hashBytes(0, b)>>(64-nameBits)]
	if *s != string(b) {
		*s = string(b)
	}
	return *s
}

func (n *names) class(fleet, action, target []byte) *class {
	h := hashBytes(hashBytes(hashBytes(0, fleet), action), target)
	c := &n.classes[h>>(64-nameBits)]
	if x := *c; x == nil || x.fleet != string(fleet) || x.action != string(action) || x.target != string(target) {
		*c = &class{fleet: n.intern(fleet), action: n.intern(action), target: n.intern(target),
			capability: string(action) + ":" + string(target)}
	}
	return *c
}

// Multipliers with well-spread bits (wyhash's).
const (
	mixA = 0xa0761d6478bd642f
	mixB = 0xe7037ed1a0b428db
)

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^mixA, b^mixB)
	return hi ^ lo
}

// hashBytes spreads b over 64 bits, fast; it does not withstand an adversary,
// so nothing but the place in a cache or a digest for comparing replicas may
// depend on it.
func hashBytes(seed uint64, b []byte) uint64 {
	h := mix(seed, uint64(len(b)))
	for len(b) >= 8 {
		h = mix(h, binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	var last uint64
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	return mix(h, last)
}
