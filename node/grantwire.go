package node

import (
	"encoding/binary"
	"slices"

	"github.com/quorate/quorate/ledger"
)

// Leases cross between nodes in binary, because at saturation most of them do: as JSON they were a fifteenth of all
// nodes' CPU. A list is, a lease: ID (16 bytes), epoch uvarint, attempt<<1 | logged uvarint, milliseconds uvarint. It has
// no theft: those go by methodTransfer.

// maxGrantBytes bounds a list of MaxLeases.
const maxGrantBytes = MaxLeases * (len(ledger.TaskID{}) + 3*binary.MaxVarintLen64)

// usualGrantBytes is what a lease takes as a rule: epochs have six bytes, lease times three.
const usualGrantBytes = len(ledger.TaskID{}) + 12

func appendGrants(dst []byte, list []stolen) []byte {
	dst = slices.Grow(dst, len(list)*usualGrantBytes)
	for i := range list {
		g := &list[i]
		flags := uint64(g.Attempt) << 1
		if g.Logged {
			flags |= 1
		}
		dst = binary.AppendUvarint(append(dst, g.ID[:]...), g.Epoch)
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, flags), uint64(max(g.LeaseMillis, 0)))
	}
	return dst
}

// readGrants reads what appendGrants wrote, at most MaxLeases; anything else is refused as a whole.
func readGrants(b []byte) ([]stolen, error) {
	if len(b) > maxGrantBytes {
		return nil, errShort
	}
	list := make([]stolen, 0, min(len(b)/(len(ledger.TaskID{})+3), MaxLeases))
	for len(b) > 0 {
		var g stolen
		if len(list) == MaxLeases || len(b) < len(g.ID) {
			return nil, errShort
		}
		b = b[copy(g.ID[:], b):]
		var v [3]uint64
		for i := range v {
			n, w := binary.Uvarint(b)
			if w <= 0 {
				return nil, errShort
			}
			v[i], b = n, b[w:]
		}
		if v[1]>>33 != 0 || v[2]>>63 != 0 {
			return nil, errShort
		}
		g.Epoch, g.Attempt, g.Logged, g.LeaseMillis = v[0], uint32(v[1]>>1), v[1]&1 != 0, int64(v[2])
		list = append(list, g)
	}
	return list, nil
}
