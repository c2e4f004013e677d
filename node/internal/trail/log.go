package trail

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/internal/files"
)

// Journal is a shard's audit records, in order (raftstore.Journal).
type Journal interface {
	Size() int64
	Read(offset int64, fn func(offset, next int64, record []byte) bool) error
	// Floor is where it begins, and the note on what was before ([Floor]).
	Floor() (start int64, note []byte)
}

// ErrAltered says that a journal does not give the root it once gave.
var ErrAltered = errors.New("the journal does not give the root it gave before: its records were altered")

const (
	// passRecords bounds a pass of Advance, and so the time readers wait.
	passRecords = 1 << 14
	hashSize    = tlog.HashSize
	// recordHead is how much of a record tells its version, shard and number.
	recordHead = 49
	chainHash  = 32 // behind each record of version 1 in the journal
)

// mark is a root that was durable with its hashes.
type mark struct {
	Size   uint64 `json:"size"`
	Offset int64  `json:"journal_offset"`
	Root   string `json:"root"`
}

// Log is the Merkle tree of one shard's records.
type Log struct {
	shard   uint32
	journal Journal
	fs      files.FS
	path    string // without extension

	advance sync.Mutex // held by Advance and Save
	hashes  []byte     // of a pass of Advance, reused
	mu      struct {
		sync.RWMutex
		tree    proof.Tree
		offset  int64 // journal's, behind the tree's last record
		file    files.File
		stored  int64 // hashes in the file
		pending []byte
	}
	saved mark
	floor int64 // of the journal, as far as it was seen
}

// OpenLog opens a shard's tree below dir, or makes it anew from the journal as
// Advance is called.
func OpenLog(fs files.FS, dir string, shard uint32, j Journal) (*Log, error) {
	l := &Log{fs: fs, shard: shard, journal: j, path: filepath.Join(dir, fmt.Sprintf("%04d", shard))}
	f, err := fs.OpenReadWrite(l.path + ".hashes")
	if err != nil {
		return nil, fmt.Errorf("trail: shard %d: %w", shard, err)
	}
	l.mu.file = f
	if err := l.recover(); err != nil {
		f.Close()
		return nil, fmt.Errorf("trail: shard %d: %w", shard, err)
	}
	return l, nil
}

// recover trusts the hashes up to the mark if they give its root.
func (l *Log) recover() error {
	b, err := l.fs.Read(l.path + ".tree")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &l.saved); err != nil {
		return fmt.Errorf("%s.tree is damaged (%w): delete it and %s.hashes, they are made anew from the journal", l.path, err, l.path)
	}
	l.mu.stored = tlog.StoredHashCount(int64(l.saved.Size))
	tree, err := proof.EdgeOf(l.saved.Size, tlog.HashReaderFunc(l.readLocked))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, ErrGap) {
		return err
	}
	if root := tree.Root(); err == nil && fmt.Sprintf("%x", root[:]) == l.saved.Root {
		l.mu.tree, l.mu.offset = tree, l.saved.Offset
		return nil
	}
	l.mu.stored = 0 // the mark stays: Advance has to come by its root
	return nil
}

// Advance hashes what the journal has and the tree lacks, and says whether
// something is left for another call.
func (l *Log) Advance() (more bool, err error) {
	l.advance.Lock()
	defer l.advance.Unlock()
	if err := l.found(); err != nil {
		return false, fmt.Errorf("trail: shard %d: %w", l.shard, err)
	}
	l.mu.RLock()
	tree, from := l.mu.tree.Clone(), l.mu.offset
	l.mu.RUnlock()
	if l.journal.Size() <= from {
		return false, nil
	}
	hashes := l.hashes[:0]
	var bad error
	n := 0
	err = l.journal.Read(from, func(_, next int64, b []byte) bool {
		body, berr := l.body(b, tree.Size+1)
		if berr != nil {
			bad = berr
			return false
		}
		hashes = tree.AppendStored(hashes, proof.Leaf(body))
		from = next
		if tree.Size == l.saved.Size {
			if root := tree.Root(); fmt.Sprintf("%x", root[:]) != l.saved.Root {
				bad = fmt.Errorf("record %d: %w", tree.Size, ErrAltered)
				return false
			}
		}
		n++
		return n < passRecords
	})
	if err = errors.Join(err, bad); err != nil {
		return false, fmt.Errorf("trail: shard %d: %w", l.shard, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.tree, l.mu.offset = tree, from
	l.mu.pending, l.hashes = append(l.mu.pending, hashes...), hashes
	return n == passRecords, l.flushLocked()
}

// body is a journal record's canonical bytes, if it is the one expected.
func (l *Log) body(b []byte, seq uint64) ([]byte, error) {
	if len(b) > 0 && b[0] == 1 {
		b = b[:max(0, len(b)-chainHash)]
	}
	if len(b) < recordHead {
		return nil, fmt.Errorf("record %d is cut: %w", seq, ErrAltered)
	}
	if s, n := binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint64(b[5:]); s != l.shard || n != seq {
		return nil, fmt.Errorf("record %d of shard %d stands where record %d belongs: %w", n, s, seq, ErrAltered)
	}
	return b, nil
}

func (l *Log) flushLocked() error {
	if len(l.mu.pending) == 0 {
		return nil
	}
	if _, err := l.mu.file.WriteAt(l.mu.pending, l.mu.stored*hashSize); err != nil {
		return fmt.Errorf("trail: shard %d: %w", l.shard, err)
	}
	l.mu.stored += int64(len(l.mu.pending) / hashSize)
	l.mu.pending = l.mu.pending[:0]
	return nil
}

// ReadHashes implements tlog.HashReader.
func (l *Log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.readLocked(indexes)
}

func (l *Log) readLocked(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if at >= l.mu.stored {
			return nil, fmt.Errorf("trail: shard %d: hash %d is not there yet", l.shard, at)
		}
		if _, err := l.mu.file.ReadAt(out[i][:], at*hashSize); err != nil {
			return nil, fmt.Errorf("trail: shard %d: %w", l.shard, err)
		}
		if out[i] == (tlog.Hash{}) { // never written: no hash is
			return nil, fmt.Errorf("trail: shard %d: hash %d: %w", l.shard, at, ErrGap)
		}
	}
	return out, nil
}

// Head is how far the tree reaches now.
func (l *Log) Head() proof.Head {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return proof.Head{Shard: l.shard, Size: l.mu.tree.Size, Root: l.mu.tree.Root()}
}

// HeadAt is the tree's head when it had size records.
func (l *Log) HeadAt(size uint64) (proof.Head, error) {
	t, err := proof.EdgeOf(size, l)
	return proof.Head{Shard: l.shard, Size: size, Root: t.Root()}, err
}

// Bytes is what the tree takes on disk.
func (l *Log) Bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.mu.stored * hashSize
}

// Save makes what was hashed durable, so that it is not hashed again.
func (l *Log) Save() error {
	l.advance.Lock()
	defer l.advance.Unlock()
	l.mu.Lock()
	head := proof.Head{Size: l.mu.tree.Size, Root: l.mu.tree.Root()}
	m := mark{Size: head.Size, Offset: l.mu.offset, Root: fmt.Sprintf("%x", head.Root[:])}
	f := l.mu.file
	l.mu.Unlock()
	if m.Size <= l.saved.Size { // also while it is made anew: the old mark is to be met
		return nil
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("trail: shard %d: %w", l.shard, err)
	}
	b, err := json.Marshal(m)
	if err == nil {
		err = l.fs.Replace(l.path+".tree", append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("trail: shard %d: %w", l.shard, err)
	}
	l.saved = m
	return nil
}

// Close saves and closes.
func (l *Log) Close() error {
	return errors.Join(l.Save(), l.mu.file.Close())
}

// Remove deletes what was made of a shard's journal.
func Remove(fs files.FS, dir string, shard uint32) error {
	var errs []error
	for _, kind := range []string{"tree", "hashes", "index"} { // the mark first: hashes without it count for nothing
		err := fs.Remove(filepath.Join(dir, fmt.Sprintf("%04d.%s", shard, kind)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
