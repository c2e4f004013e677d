package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Keys of the log database. One write-ahead log serves all shards, so that concurrent fsyncs become one.
//
//	'i'                       identity: version u8, raft ID u64
//	'n'                       number of shards u32; written by Bootstrap, last
//	'l' shard u32 'e' index   entry: type u8, term uvarint, data
//	'l' shard u32 'h'         hard state: term, vote, commit u64
//	'l' shard u32 's'         index u64 of a snapshot whose installation has begun
//	'l' shard u32 't'         what was truncated: index, term u64
//	'l' shard u32 'd'         of a replica that was put away: term, vote, last index u64
//	'p'                       the shards there are, see present.go
//
// Numbers in keys are big-endian, in values little-endian.
const (
	logVersion    = 1
	cacheLogBytes = 4 << 20 // of recent entries kept in memory, a shard; older ones are read from Pebble
	entryOverhead = 64      // bytes a cached entry takes beside its data
)

var (
	identityKey   = []byte{'i'}
	shardCountKey = []byte{'n'}
)

func logKey(shard uint32, kind byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{'l'}, shard), kind)
}

func entryKey(dst []byte, shard uint32, index uint64) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst[:0], 'l'), shard)
	return binary.BigEndian.AppendUint64(append(dst, 'e'), index)
}

const entryKeyBytes = 1 + 4 + 1 + 8

func u64s(values ...uint64) []byte {
	b := make([]byte, 0, 8*len(values))
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// readU64s reads a value made by u64s; found is false when there is none.
func readU64s(db *pebble.DB, key []byte, n int) (values []uint64, found bool, err error) {
	v, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer closer.Close()
	if len(v) != 8*n {
		return nil, false, fmt.Errorf("key %q has %d bytes: %w", key, len(v), ErrCorrupt)
	}
	for ; len(v) > 0; v = v[8:] {
		values = append(values, binary.LittleEndian.Uint64(v))
	}
	return values, true, nil
}

// shardLog is the raft storage of one shard. Only the shard's goroutine uses it.
type shardLog struct {
	db    *pebble.DB
	shard uint32
	marks *marks

	hard          pb.HardState
	hardDurable   [2]uint64 // term and vote as last written
	truncated     uint64    // index of the last entry that is gone
	truncatedTerm uint64
	last          uint64
	silentUntil   uint64 // see Replica.silent
	installing    uint64 // snapshot whose installation began and did not end, 0 for none
	checkpoint    checkpoint
	cache         []*pb.Entry // cacheFirst..last
	cacheBytes    int
	sink          *logSink // where appends are gathered; nil: each is written, and waited for, by itself
	owner         *shard   // whose log it is, for the sink
	appended      bool     // since the last Sync
	unsynced      []mark   // of Syncs that are not through, oldest first: what the log is when they are
	scratch       []byte
}

// openShardLog reads what is there and checks that it hangs together.
func openShardLog(db *pebble.DB, shard uint32, m *marks) (*shardLog, error) {
	l := &shardLog{db: db, shard: shard, marks: m}
	hs, found, err := readU64s(db, logKey(shard, 'h'), 3)
	if err != nil {
		return nil, err
	}
	tr, foundTr, err := readU64s(db, logKey(shard, 't'), 2)
	if err != nil {
		return nil, err
	}
	if !found || !foundTr {
		return nil, fmt.Errorf("the log has no hard state or no beginning: %w", ErrCorrupt)
	}
	if hs[2] < tr[0] {
		hs[2] = tr[0] // the commit index is stored lazily; only committed entries are ever truncated
	}
	if tomb, found, err := readU64s(db, logKey(shard, 'd'), 3); err != nil {
		return nil, err
	} else if found {
		l.silentUntil = tomb[2]
	}
	if in, found, err := readU64s(db, logKey(shard, 's'), 1); err != nil {
		return nil, err
	} else if found {
		l.installing = in[0]
	}
	l.setHard(hs[0], hs[1], hs[2])
	l.truncated, l.truncatedTerm, l.last = tr[0], tr[1], tr[0]
	return l, l.checkEntries()
}

func (l *shardLog) setHard(term, vote, commit uint64) {
	l.hard.Term, l.hard.Vote, l.hard.Commit = &term, &vote, &commit
	l.hardDurable = [2]uint64{term, vote}
}

// checkEntries walks the log: indexes dense, terms not falling, none above the current term.
func (l *shardLog) checkEntries() error {
	term := l.truncatedTerm
	err := l.scan(l.truncated+1, ^uint64(0), func(e *pb.Entry) bool {
		if e.GetIndex() != l.last+1 || e.GetTerm() < term || e.GetTerm() > l.hard.GetTerm() {
			return false
		}
		l.last, term = e.GetIndex(), e.GetTerm()
		return true
	})
	if err != nil {
		return err
	}
	it, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: entryKey(nil, l.shard, l.last+1), UpperBound: logKey(l.shard, 'e'+1),
	})
	if err != nil {
		return err
	}
	defer it.Close()
	if it.First() {
		return fmt.Errorf("log entry after %d does not follow it: %w", l.last, ErrCorrupt)
	}
	return it.Error()
}

// scan calls fn with the stored entries of [lo, hi) until it returns false.
func (l *shardLog) scan(lo, hi uint64, fn func(*pb.Entry) bool) error {
	upper := logKey(l.shard, 'e'+1)
	if hi != ^uint64(0) {
		upper = entryKey(nil, l.shard, hi)
	}
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(nil, l.shard, lo), UpperBound: upper})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if len(it.Key()) != entryKeyBytes {
			return fmt.Errorf("log key %q: %w", it.Key(), ErrCorrupt)
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		e, err := decodeEntry(binary.BigEndian.Uint64(it.Key()[entryKeyBytes-8:]), v)
		if err != nil {
			return err
		}
		if !fn(e) {
			return nil
		}
	}
	return it.Error()
}

// decodeEntry copies what it needs of v.
func decodeEntry(index uint64, v []byte) (*pb.Entry, error) {
	if len(v) == 0 || v[0] > byte(pb.EntryConfChangeV2) {
		return nil, fmt.Errorf("log entry %d: %w", index, ErrCorrupt)
	}
	term, n := binary.Uvarint(v[1:])
	if n <= 0 {
		return nil, fmt.Errorf("log entry %d: %w", index, ErrCorrupt)
	}
	typ := pb.EntryType(v[0])
	e := &pb.Entry{Index: &index, Term: &term, Type: &typ}
	if data := v[1+n:]; len(data) > 0 {
		e.Data = slices.Clone(data)
	}
	return e, nil
}

// Append implements Log. The commit index alone is not worth a write: it is stored with the next entries, and after
// a crash it is found again from the checkpoint and from the leader.
func (l *shardLog) Append(hs *pb.HardState, entries []*pb.Entry) error {
	if hs != nil {
		l.hard.Term, l.hard.Vote, l.hard.Commit = new(hs.GetTerm()), new(hs.GetVote()), new(hs.GetCommit())
	}
	hardChanged := l.hardDurable != [2]uint64{l.hard.GetTerm(), l.hard.GetVote()}
	if len(entries) == 0 && !hardChanged {
		return nil
	}
	var b *pebble.Batch
	if l.sink != nil {
		b = l.sink.writer()
	} else {
		b = l.db.NewBatch()
		defer b.Close()
	}
	if len(entries) > 0 {
		if first := entries[0].GetIndex(); first <= l.last {
			if err := l.replaceFrom(b, first); err != nil {
				return err
			}
		} else if first != l.last+1 {
			return fmt.Errorf("entry %d does not follow %d", first, l.last)
		}
	}
	for _, e := range entries {
		if err := l.put(b, e); err != nil {
			return err
		}
	}
	if err := b.Set(logKey(l.shard, 'h'), u64s(l.hard.GetTerm(), l.hard.GetVote(), l.hard.GetCommit()), nil); err != nil {
		return err
	}
	l.hardDurable = [2]uint64{l.hard.GetTerm(), l.hard.GetVote()}
	l.appended = true
	if l.sink == nil {
		return l.db.Apply(b, pebble.Sync)
	}
	return nil
}

// replaceFrom drops the entries from first on, which a new leader replaces. The high-water mark goes down first:
// a log shorter than its mark is never opened.
func (l *shardLog) replaceFrom(b *pebble.Batch, first uint64) error {
	if first <= l.truncated {
		return fmt.Errorf("entry %d is at or before %d, which is truncated", first, l.truncated)
	}
	for i := range l.unsynced { // nor may a write that is still under way raise it again
		l.unsynced[i].last = min(l.unsynced[i].last, first-1)
	}
	if err := l.marks.lower(l.shard, first-1); err != nil {
		return err
	}
	if err := b.DeleteRange(entryKey(nil, l.shard, first), entryKey(nil, l.shard, l.last+1), nil); err != nil {
		return err
	}
	if keep := int(first) - int(l.cacheFirst()); keep <= 0 {
		l.cache, l.cacheBytes = nil, 0
	} else {
		for _, e := range l.cache[keep:] {
			l.cacheBytes -= len(e.GetData()) + entryOverhead
		}
		clear(l.cache[keep:])
		l.cache = l.cache[:keep]
	}
	l.last = first - 1
	return nil
}

func (l *shardLog) put(b *pebble.Batch, e *pb.Entry) error {
	if e.GetIndex() != l.last+1 {
		return fmt.Errorf("entry %d does not follow %d", e.GetIndex(), l.last)
	}
	op := b.SetDeferred(entryKeyBytes, 1+uvarintLen(e.GetTerm())+len(e.GetData()))
	l.scratch = entryKey(l.scratch, l.shard, e.GetIndex())
	copy(op.Key, l.scratch)
	op.Value[0] = byte(e.GetType())
	n := 1 + binary.PutUvarint(op.Value[1:], e.GetTerm())
	copy(op.Value[n:], e.GetData())
	if err := op.Finish(); err != nil {
		return err
	}
	l.last = e.GetIndex()
	l.cache = append(l.cache, e)
	l.cacheBytes += len(e.GetData()) + entryOverhead
	drop := 0
	for l.cacheBytes > cacheLogBytes && drop < len(l.cache)-1 {
		l.cacheBytes -= len(l.cache[drop].GetData()) + entryOverhead
		drop++
	}
	if drop > 0 {
		l.cache = slices.Delete(l.cache, 0, drop)
	}
	return nil
}

// Sync implements Log.
func (l *shardLog) Sync(then func()) error {
	if !l.appended && len(l.unsynced) == 0 {
		then()
		return nil
	}
	l.appended = false
	l.unsynced = append(l.unsynced, mark{l.hard.GetTerm(), l.hard.GetVote(), l.last})
	if l.sink == nil { // Append has waited
		l.persisted()
		then()
		return nil
	}
	l.sink.durable = append(l.sink.durable, durable{l, then})
	return nil
}

// persisted notes that the oldest Sync is through.
func (l *shardLog) persisted() {
	l.marks.raise(l.shard, l.unsynced[0])
	l.unsynced = slices.Delete(l.unsynced, 0, 1)
}

func (l *shardLog) cacheFirst() uint64 { return l.last + 1 - uint64(len(l.cache)) }

// truncate forgets the entries up to index. It need not be durable: what comes back is only unneeded.
func (l *shardLog) truncate(index uint64) error {
	term, err := l.Term(index)
	if err != nil {
		return err
	}
	b := l.db.NewBatch()
	if err := b.DeleteRange(entryKey(nil, l.shard, l.truncated+1), entryKey(nil, l.shard, index+1), nil); err != nil {
		return err
	}
	if err := b.Set(logKey(l.shard, 't'), u64s(index, term), nil); err != nil {
		return err
	}
	if err := l.db.Apply(b, pebble.NoSync); err != nil {
		return err
	}
	if drop := int(index) + 1 - int(l.cacheFirst()); drop > 0 {
		for _, e := range l.cache[:drop] {
			l.cacheBytes -= len(e.GetData()) + entryOverhead
		}
		l.cache = slices.Delete(l.cache, 0, drop)
	}
	l.truncated, l.truncatedTerm = index, term
	return b.Close()
}

// beginInstall notes durably that the log is about to be replaced by the state as of index. Without the note a state
// ahead of its log means that the log lost entries.
func (l *shardLog) beginInstall(index uint64) error {
	if err := l.db.Set(logKey(l.shard, 's'), u64s(index), pebble.Sync); err != nil {
		return err
	}
	l.installing = index
	return nil
}

// reset makes the log end at a snapshot, with nothing before it.
func (l *shardLog) reset(index, term uint64, hs *pb.HardState) error {
	if index < l.last {
		if err := l.marks.lower(l.shard, index); err != nil {
			return err
		}
	}
	b := l.db.NewBatch()
	defer b.Close()
	l.setHard(hs.GetTerm(), hs.GetVote(), max(hs.GetCommit(), index))
	err := errors.Join(
		b.DeleteRange(logKey(l.shard, 'e'), logKey(l.shard, 'e'+1), nil),
		b.Delete(logKey(l.shard, 's'), nil),
		b.Set(logKey(l.shard, 't'), u64s(index, term), nil),
		b.Set(logKey(l.shard, 'h'), u64s(l.hard.GetTerm(), l.hard.GetVote(), l.hard.GetCommit()), nil),
		l.db.Apply(b, pebble.Sync))
	if err != nil {
		return err
	}
	l.truncated, l.truncatedTerm, l.last, l.installing = index, term, index, 0
	l.cache, l.cacheBytes = nil, 0
	l.marks.raise(l.shard, mark{l.hard.GetTerm(), l.hard.GetVote(), l.last})
	return nil
}
