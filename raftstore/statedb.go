package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Keys of the state database:
//
//	's' shard u32 BE 0x00        checkpoint, see encodeCheckpoint
//	's' shard u32 BE 0x01 key    state, as the Machine wrote it
//
// A state checkpoint is one Ingest of sorted tables: those with the changes and one with the checkpoint key alone.
// An ingest is atomic, so the applied index and the state it covers can't part; the key has a table of its own
// because inside a data table it would make every table overlap every other. Nothing is ever written any other way:
// a set costs 2 µs a replica in memtable, flush and compaction, a sorted table a fraction of it.
const (
	stateTableBytes   = 64 << 20
	checkpointVersion = 1
	checkpointFloor   = 2 // version of one whose journal does not begin at 0, or was installed
	floorSize         = baseSize + 1
)

func shardPrefix(shard uint32) []byte { return binary.BigEndian.AppendUint32([]byte{'s'}, shard) }
func checkpointKey(shard uint32) []byte {
	return append(shardPrefix(shard), 0)
}
func stateKey(shard uint32, key []byte) []byte {
	b := make([]byte, 0, 6+len(key))
	b = binary.BigEndian.AppendUint32(append(b, 's'), shard)
	return append(append(b, 1), key...)
}

// checkpoint says what the state database and the journal hold of a shard.
type checkpoint struct {
	index, term  uint64
	conf         *pb.ConfState
	journalBytes int64
	journalSum   uint32       // CRC32C of all of them
	floor        journalFloor // where the journal begins: what was before it is gone
	whole        bool         // an installed journal: one file, whatever others a crash left beside it
	machine      []byte       // the Machine's meta, nil if it never wrote one
}

func (c checkpoint) snapshotMetadata() *pb.SnapshotMetadata {
	return &pb.SnapshotMetadata{Index: new(c.index), Term: new(c.term), ConfState: c.conf}
}

// encodeCheckpoint: version u8, index, term, journal bytes u64, journal sum u32, in version 2 the floor (u64, u32), whole
// u8, and as third part the floor's note; conf state and machine meta, each as u32 length + 1 (0 = nil) and bytes; CRC32C
// of all that; little-endian.
func encodeCheckpoint(c checkpoint) ([]byte, error) {
	conf, err := proto.Marshal(c.conf)
	if err != nil {
		return nil, err
	}
	b := append([]byte{checkpointVersion}, u64s(c.index, c.term, uint64(c.journalBytes))...)
	b = binary.LittleEndian.AppendUint32(b, c.journalSum)
	parts := [][]byte{conf, c.machine}
	if c.floor.bytes > 0 || c.whole {
		b[0] = checkpointFloor
		b = binary.LittleEndian.AppendUint32(append(b, u64s(uint64(c.floor.bytes))...), c.floor.sum)
		b = append(b, 0)
		if c.whole {
			b[len(b)-1] = 1
		}
		parts = append(parts, c.floor.note)
	}
	for _, part := range parts {
		if part == nil {
			b = binary.LittleEndian.AppendUint32(b, 0)
			continue
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(len(part))+1)
		b = append(b, part...)
	}
	return binary.LittleEndian.AppendUint32(b, crcOf(b)), nil
}

func decodeCheckpoint(b []byte) (checkpoint, error) {
	const head = 1 + 3*8 + 4
	if len(b) < head+4+4+4 || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return checkpoint{}, fmt.Errorf("checkpoint: %w", ErrCorrupt)
	}
	if b[0] != checkpointVersion && (b[0] != checkpointFloor || len(b) < head+floorSize+4+4+4+4) {
		return checkpoint{}, fmt.Errorf("checkpoint version %d is not known", b[0])
	}
	c := checkpoint{
		index: binary.LittleEndian.Uint64(b[1:]), term: binary.LittleEndian.Uint64(b[9:]),
		journalBytes: int64(binary.LittleEndian.Uint64(b[17:])), journalSum: binary.LittleEndian.Uint32(b[25:]),
		conf: new(pb.ConfState),
	}
	rest := b[head : len(b)-4]
	if b[0] == checkpointFloor {
		c.floor.journalBase = journalBase{int64(binary.LittleEndian.Uint64(rest)), binary.LittleEndian.Uint32(rest[8:])}
		c.whole = rest[baseSize] == 1
		if c.floor.bytes < 0 || rest[baseSize] > 1 || c.floor.bytes == 0 && !c.whole {
			return checkpoint{}, fmt.Errorf("checkpoint: %w", ErrCorrupt)
		}
		rest = rest[floorSize:]
	}
	for i := range int(b[0]) + 1 { // version 2 has a part more

		if len(rest) < 4 {
			return checkpoint{}, fmt.Errorf("checkpoint: %w", ErrCorrupt)
		}
		n := uint64(binary.LittleEndian.Uint32(rest))
		if rest = rest[4:]; n == 0 {
			continue
		}
		if n-1 > uint64(len(rest)) {
			return checkpoint{}, fmt.Errorf("checkpoint: %w", ErrCorrupt)
		}
		part := rest[:n-1]
		rest = rest[n-1:]
		if i == 2 {
			c.floor.note = append([]byte{}, part...)
		} else if i == 1 {
			c.machine = append([]byte{}, part...)
		} else if err := proto.Unmarshal(part, c.conf); err != nil {
			return checkpoint{}, fmt.Errorf("checkpoint: %v: %w", err, ErrCorrupt)
		}
	}
	if len(rest) != 0 || c.index == 0 || c.term == 0 || c.journalBytes < c.floor.bytes {
		return checkpoint{}, fmt.Errorf("checkpoint: %w", ErrCorrupt)
	}
	return c, nil
}

// stateDB is the state database of all shards.
type stateDB struct {
	db      *pebble.DB
	opts    *pebble.Options
	fs      vfs.FS
	staging string
	tops    tops // only write uses it
	life    struct {
		sync.RWMutex // readers hold it while they read, close takes it
		closed       bool
	}
}

func (d *stateDB) close() error {
	d.life.Lock()
	defer d.life.Unlock()
	if d.life.closed {
		return nil
	}
	d.life.closed = true
	return d.db.Close()
}

// checkpoint reads what was last ingested for a shard.
func (d *stateDB) checkpoint(shard uint32) (checkpoint, bool, error) {
	v, closer, err := d.db.Get(checkpointKey(shard))
	if errors.Is(err, pebble.ErrNotFound) {
		return checkpoint{}, false, nil
	}
	if err != nil {
		return checkpoint{}, false, err
	}
	defer closer.Close()
	c, err := decodeCheckpoint(v)
	return c, err == nil, err
}

// write ingests the changes of shards, in ascending order, and the checkpoints that cover them: all or nothing. name is
// unique among writers; pace may be nil.
func (d *stateDB) write(name string, writes []*stateWrite, pace *pacer) error {
	t := tableSet{d: d, name: name, pace: pace}
	if err := t.checkpoints(writes); err != nil {
		return errors.Join(err, t.abort())
	}
	return d.db.Ingest(context.Background(), t.paths)
}

// soloBytes of changes end a table: one that spans many shards is compacted with all of them.
const soloBytes = 1 << 20

// checkpoints writes keys in ascending order, so that the tables of one ingest never overlap: each shard's checkpoint
// key comes right before its changes.
func (t *tableSet) checkpoints(writes []*stateWrite) error {
	for _, w := range writes {
		meta, err := encodeCheckpoint(w.c)
		if err == nil {
			err = t.set(checkpointKey(w.shard), meta)
		}
		if err == nil && len(writes) == 1 {
			err = t.cut() // alone, the key has a table that overlaps no other
		}
		if err == nil {
			err = t.changes(w.shard, w.changes)
		}
		if err == nil && t.bytes >= soloBytes {
			err = t.cut()
		}
		if err != nil {
			return err
		}
	}
	return t.cut()
}

// replace ingests finished tables in place of everything the shard had.
func (d *stateDB) replace(shard uint32, paths []string) error {
	_, err := d.db.IngestAndExcise(context.Background(), paths, nil, nil,
		pebble.KeyRange{Start: shardPrefix(shard), End: shardPrefix(shard + 1)})
	return err
}

// tableSet writes sorted tables to the staging directory.
type tableSet struct {
	d     *stateDB
	name  string
	paths []string
	w     *sstable.Writer
	bytes int
	pace  *pacer // perhaps nil
}

func (t *tableSet) open() error {
	if t.w != nil && t.bytes < stateTableBytes {
		return nil
	}
	if err := t.cut(); err != nil {
		return err
	}
	path := t.d.fs.PathJoin(t.d.staging, fmt.Sprintf("%s-%d.sst", t.name, len(t.paths)))
	f, err := t.d.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	t.paths = append(t.paths, path)
	t.w = sstable.NewWriter(objstorageprovider.NewFileWritable(gatherInto(steadily(f))), t.d.opts.MakeWriterOptions(0, t.d.db.TableFormat()))
	t.bytes = 0
	return nil
}

// steadySyncBytes is how much of a large file waits for the disk at once. Without a bound an fsync of the log waits
// for all of it.
const steadySyncBytes = 512 << 10

func steadily(f vfs.File) vfs.File {
	return vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: steadySyncBytes})
}

func (t *tableSet) set(key, value []byte) error {
	if err := t.open(); err != nil {
		return err
	}
	t.bytes += len(key) + len(value)
	return t.w.Set(key, value)
}

func (t *tableSet) changes(shard uint32, ch Changes) error {
	sortRows(ch.Puts)
	slices.SortFunc(ch.Deletes, bytes.Compare)
	puts, deletes := ch.Puts, ch.Deletes
	starts := t.d.tops.starts(shard, puts)
	key := stateKey(shard, nil)
	prefix := len(key)
	kind := byte(0)
	for n := 0; len(puts) > 0 || len(deletes) > 0; n++ {
		if n%paceRows == 0 {
			t.pace.rest()
		}
		var row KV
		begin := false
		put := len(puts) > 0 && (len(deletes) == 0 || bytes.Compare(puts[0].Key, deletes[0]) < 0)
		if put {
			for ; len(starts) > 0 && starts[0] <= len(ch.Puts)-len(puts); starts = starts[1:] {
				begin = true
			}
			row, puts = puts[0], puts[1:]
		} else {
			row.Key, deletes = deletes[0], deletes[1:]
			if len(puts) > 0 && bytes.Equal(puts[0].Key, row.Key) {
				return fmt.Errorf("key %x is both put and deleted", row.Key)
			}
		}
		if begin || kindOf(row.Key) != kind && t.bytes >= ownTableBytes {
			if err := t.cut(); err != nil {
				return err
			}
		}
		if err := t.open(); err != nil {
			return err
		}
		kind = kindOf(row.Key)
		key = append(key[:prefix], row.Key...)
		t.bytes += len(key) + len(row.Value)
		var err error
		if put {
			err = t.w.Set(key, row.Value)
		} else {
			err = t.w.Delete(key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cut finishes and fsyncs the current table.
func (t *tableSet) cut() error {
	if t.w == nil {
		return nil
	}
	err := t.w.Close()
	t.w = nil
	return err
}

func (t *tableSet) abort() error {
	err := t.cut()
	for _, p := range t.paths {
		err = errors.Join(err, t.d.fs.Remove(p))
	}
	t.paths = nil
	return err
}

// stateReader implements Reader.
type stateReader struct {
	d     *stateDB
	shard uint32
}

func (r stateReader) Get(key []byte) ([]byte, bool, error) {
	r.d.life.RLock()
	defer r.d.life.RUnlock()
	if r.d.life.closed {
		return nil, false, ErrStopped
	}
	v, closer, err := r.d.db.Get(stateKey(r.shard, key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, r.wrap(err)
	}
	out := append([]byte{}, v...)
	return out, true, r.wrap(closer.Close())
}

func (r stateReader) Scan(from, to []byte, fn func(key, value []byte) bool) error {
	r.d.life.RLock()
	defer r.d.life.RUnlock()
	if r.d.life.closed {
		return ErrStopped
	}
	upper := append(shardPrefix(r.shard), 2)
	if to != nil {
		upper = stateKey(r.shard, to)
	}
	it, err := r.d.db.NewIter(&pebble.IterOptions{LowerBound: stateKey(r.shard, from), UpperBound: upper})
	if err != nil {
		return r.wrap(err)
	}
	defer it.Close()
	prefix := len(shardPrefix(0)) + 1
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return r.wrap(err)
		}
		if !fn(it.Key()[prefix:], v) {
			return nil
		}
	}
	return r.wrap(it.Error())
}

func (r stateReader) wrap(err error) error {
	if err == nil {
		return nil
	}
	if pebble.IsCorruptionError(err) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return fmt.Errorf("raftstore: shard %d: state: %w", r.shard, err)
}
