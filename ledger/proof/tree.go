package proof

import (
	"encoding/hex"
	"errors"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
)

// Tree is the right edge of a shard's Merkle tree (RFC 6962, section 2.1): the
// roots of the perfect subtrees that its leaves make up, largest first. It is
// all that is needed to go on and to give the root.
type Tree struct {
	Size  uint64
	Peaks []tlog.Hash // as many as Size has bits set
}

// EmptyRoot is the root of a tree without leaves: SHA-256 of nothing.
var EmptyRoot = tlog.Hash{0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
	0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55}

// Append adds a leaf.
func (t *Tree) Append(leaf tlog.Hash) { t.AppendStored(make([]byte, 0, 2*tlog.HashSize), leaf) }

// AppendStored adds a leaf, and appends to stored the hashes that a stored tree
// gets with it: the leaf, and each subtree it completes (the order of package
// tlog).
func (t *Tree) AppendStored(stored []byte, leaf tlog.Hash) []byte {
	stored = append(stored, leaf[:]...)
	h := leaf
	for n := t.Size; n&1 == 1; n >>= 1 {
		last := len(t.Peaks) - 1
		h = tlog.NodeHash(t.Peaks[last], h)
		t.Peaks = t.Peaks[:last]
		stored = append(stored, h[:]...)
	}
	t.Peaks = append(t.Peaks, h)
	t.Size++
	return stored
}

// Root is the tree's hash.
func (t *Tree) Root() tlog.Hash {
	if t.Size == 0 {
		return EmptyRoot
	}
	h := t.Peaks[len(t.Peaks)-1]
	for i := len(t.Peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.Peaks[i], h)
	}
	return h
}

// Clone is a copy that goes on by itself.
func (t *Tree) Clone() Tree {
	return Tree{Size: t.Size, Peaks: append([]tlog.Hash(nil), t.Peaks...)}
}

// valid says whether there are as many peaks as the size needs.
func (t *Tree) valid() bool { return bits.OnesCount64(t.Size) == len(t.Peaks) }

// Leaf is the hash of a record as a leaf: [ledger.LeafHash].
func Leaf(body []byte) tlog.Hash { return ledger.LeafHash(body) }

// EdgeOf reads the right edge of a stored tree of size records.
func EdgeOf(size uint64, r tlog.HashReader) (Tree, error) {
	t := Tree{Size: size}
	var indexes []int64
	for at, level := uint64(0), 63; level >= 0; level-- {
		if size&(1<<level) != 0 {
			indexes = append(indexes, tlog.StoredHashIndex(level, int64(at>>level)))
			at += 1 << level
		}
	}
	if len(indexes) == 0 {
		return t, nil
	}
	var err error
	if t.Peaks, err = r.ReadHashes(indexes); err != nil {
		return Tree{}, err
	}
	return t, nil
}

var errHash = errors.New("not 32 bytes in hex")

func parseHash(s string) (h tlog.Hash, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) || hex.EncodeToString(b) != s {
		return h, errHash
	}
	return tlog.Hash(b), nil
}
