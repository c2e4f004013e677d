package trail

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
)

// Floor is what is known of the records in front of a journal that does not
// begin at the first: how many there were, what they hash to, and where they
// are by now. It goes with the journal, as its note.
type Floor struct {
	Records uint64   `json:"records"`
	Chain   string   `json:"chain"`             // of [ledger.Head] behind them, hex
	Peaks   []string `json:"peaks"`             // their tree's, hex, largest first
	Archive string   `json:"archive,omitempty"` // the file with the last of them; "": they were dropped without one
	Node    string   `json:"node,omitempty"`    // whose archive
}

// ErrGap says that a hash is not here: its records were given up before this
// node had its copy of the journal.
var ErrGap = errors.New("that part of the tree is not on this node: its journal begins later")

var errFloor = errors.New("what is noted of the records before the journal's beginning can't be read")

// NewFloor describes what comes before a place in the journal.
func NewFloor(head ledger.Head, tree proof.Tree) Floor {
	f := Floor{Records: head.Seq, Chain: hex.EncodeToString(head.Hash[:]), Peaks: []string{}}
	for _, p := range tree.Peaks {
		f.Peaks = append(f.Peaks, hex.EncodeToString(p[:]))
	}
	return f
}

// Note is its encoding.
func (f *Floor) Note() []byte {
	b, err := json.Marshal(f)
	if err != nil {
		panic("trail: floor: " + err.Error()) // plain fields always marshal
	}
	return b
}

// ReadFloor reads a journal's note; none says that it begins at the first
// record of the shard.
func ReadFloor(shard uint32, note []byte) (f Floor, head ledger.Head, tree proof.Tree, err error) {
	if len(note) == 0 {
		return f, ledger.NewChain(shard), tree, nil
	}
	if err := json.Unmarshal(note, &f); err != nil {
		return f, head, tree, fmt.Errorf("shard %d: %w: %w", shard, errFloor, err)
	}
	head.Seq, tree.Size = f.Records, f.Records
	h, err := hex.DecodeString(f.Chain)
	if err != nil || len(h) != len(head.Hash) || len(f.Peaks) != bits.OnesCount64(f.Records) {
		return f, head, tree, fmt.Errorf("shard %d: %w", shard, errFloor)
	}
	head.Hash = [32]byte(h)
	for _, p := range f.Peaks {
		h, err := hex.DecodeString(p)
		if err != nil || len(h) != tlog.HashSize {
			return f, head, tree, fmt.Errorf("shard %d: %w", shard, errFloor)
		}
		tree.Peaks = append(tree.Peaks, tlog.Hash(h))
	}
	return f, head, tree, nil
}

// peakIndexes are where a tree's peaks stand among its stored hashes.
func peakIndexes(size uint64) (list []int64) {
	for at, level := uint64(0), 63; level >= 0; level-- {
		if size&(1<<level) != 0 {
			list = append(list, tlog.StoredHashIndex(level, int64(at>>level)))
			at += 1 << level
		}
	}
	return list
}

// found holds the tree against a journal's floor that it has not seen, or
// goes on from there when what it was made of begins later by now.
func (l *Log) found() error {
	start, note := l.journal.Floor()
	if start <= l.floor {
		return nil
	}
	f, _, tree, err := ReadFloor(l.shard, note)
	if err != nil {
		return err
	}
	l.mu.RLock()
	have, offset := l.mu.tree.Size, l.mu.offset
	l.mu.RUnlock()
	if have >= f.Records && offset >= start {
		own, err := l.HeadAt(f.Records)
		if err == nil && own.Root != tree.Root() {
			return fmt.Errorf("the %d records before the journal's beginning: %w", f.Records, ErrAltered)
		}
		if err != nil && !errors.Is(err, ErrGap) {
			return err
		}
		l.floor = start
		return nil
	}
	if f.Records == l.saved.Size {
		if root := tree.Root(); hex.EncodeToString(root[:]) != l.saved.Root {
			return fmt.Errorf("record %d: %w", f.Records, ErrAltered)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, at := range peakIndexes(f.Records) {
		if _, err := l.mu.file.WriteAt(tree.Peaks[i][:], at*hashSize); err != nil {
			return err
		}
	}
	l.mu.tree, l.mu.offset, l.mu.pending = tree, start, l.mu.pending[:0]
	l.mu.stored = tlog.StoredHashCount(int64(f.Records))
	l.floor = start
	if l.saved.Size < f.Records { // nothing is left that could come by that root
		l.saved = mark{}
	}
	return nil
}
