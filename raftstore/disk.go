package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Every replica begins as if it had applied an entry with this index and term: all know the voters from there on,
// and a replica that knows nothing can't be mistaken for one that does.
const (
	bootIndex = 1
	bootTerm  = 1
)

// disk is everything a store keeps in its directory.
type disk struct {
	cfg     Config
	fs      vfs.FS
	logDB   *pebble.DB
	state   *stateDB
	marks   *marks
	present []uint32 // the shards there are replicas of, ascending
	known   bool     // there are, or were, shards
	fatal   func(error)
}

func openDisk(cfg Config, fatal func(error)) (d *disk, err error) {
	d = &disk{cfg: cfg, fs: cfg.FS, fatal: fatal}
	if d.fs == nil {
		d.fs = vfs.Default // for Pebble it stays nil: it adds health checks then
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if err := refuseDiverged(d.fs, d.cfg.Dir); err != nil {
		return d, err
	}
	staging := d.path("staging")
	if err := d.fs.RemoveAll(staging); err != nil && !errors.Is(err, os.ErrNotExist) {
		return d, err
	}
	for _, dir := range []string{d.cfg.Dir, staging, d.path("journal")} {
		if err := d.fs.MkdirAll(dir, 0o755); err != nil {
			return d, err
		}
	}
	for _, dir := range []string{d.fs.PathDir(d.cfg.Dir), d.cfg.Dir} {
		if err := syncDir(d.fs, dir); err != nil {
			return d, err
		}
	}
	cache := pebble.NewCache(cfg.CacheBytes)
	defer cache.Unref()
	d.logDB, _, err = openPebble("log", d.path("log"), cfg.FS, cache, logOptions(cfg.MemTableBytes), cfg.Logger, fatal)
	if err != nil {
		return d, err
	}
	db, opts, err := openPebble("state", d.path("state"), cfg.FS, cache, stateOptions, cfg.Logger, fatal)
	if err != nil {
		return d, err
	}
	d.state = &stateDB{db: db, opts: opts, fs: d.fs, staging: staging, tops: tops{}}
	if err := d.identify(); err != nil {
		return d, err
	}
	return d, nil
}

func (d *disk) path(name string) string { return d.fs.PathJoin(d.cfg.Dir, name) }

func (d *disk) close() error {
	var err error
	if d.state != nil {
		err = d.state.close()
	}
	if d.logDB != nil {
		err = errors.Join(err, d.logDB.Close())
		d.logDB = nil
	}
	return err
}

// identify checks whose data this is, or makes a fresh directory this process's.
func (d *disk) identify() error {
	v, closer, err := d.logDB.Get(identityKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return d.initialize()
	}
	if err != nil {
		return err
	}
	version, id := v[0], uint64(0)
	if len(v) == 9 {
		id = binary.LittleEndian.Uint64(v[1:])
	}
	if err := closer.Close(); err != nil {
		return err
	}
	if version != logVersion || id == 0 {
		return fmt.Errorf("log: identity of version %d is not known", version)
	}
	if id != d.cfg.RaftID {
		return fmt.Errorf("the data belongs to raft ID %x, this is %x", id, d.cfg.RaftID)
	}
	if d.marks, err = readMarks(d.fs, d.cfg.Dir, d.cfg.RaftID); err != nil {
		return fmt.Errorf("high-water marks: %w", err)
	}
	if d.present, d.known, err = d.readPresent(); err != nil {
		return err
	}
	if !d.known && len(d.marks.mu.now) > 0 {
		return fmt.Errorf("the log lost its shards: %w", ErrCorrupt)
	}
	return nil
}

// initialize writes the identity and flushes it. The flush replaces Pebble's very first write-ahead log, which is
// created before the format version is raised and would not notice flipped bits.
func (d *disk) initialize() error {
	old, err := readMarks(d.fs, d.cfg.Dir, d.cfg.RaftID)
	switch {
	case err == nil && len(old.mu.now) > 0:
		return fmt.Errorf("the log is empty but has high-water marks: %w", ErrCorrupt)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	d.marks = newMarks(d.fs, d.cfg.Dir, d.cfg.RaftID)
	if err := d.marks.write(); err != nil {
		return err
	}
	id := append([]byte{logVersion}, u64s(d.cfg.RaftID)...)
	if err := d.logDB.Set(identityKey, id, pebble.Sync); err != nil {
		return err
	}
	return d.logDB.Flush()
}

// bootstrap writes state checkpoints and journals first, then all logs and the shard count in one batch: before it
// the directory is still fresh, after it everything is there.
func (d *disk) bootstrap(shards uint32, voters []uint64) error {
	b := d.logDB.NewBatch()
	defer b.Close()
	for id := range shards {
		c := checkpoint{index: bootIndex, term: bootTerm, conf: &pb.ConfState{Voters: voters}}
		if err := d.state.write(fmt.Sprintf("boot-%d", id), []*stateWrite{{shard: id, c: c}}, nil); err != nil {
			return err
		}
		err := errors.Join(
			b.Set(logKey(id, 'h'), u64s(bootTerm, 0, bootIndex), nil),
			b.Set(logKey(id, 't'), u64s(bootIndex, bootTerm), nil))
		if err != nil {
			return err
		}
	}
	all := make([]mark, shards)
	for id := range all {
		all[id] = mark{bootTerm, 0, bootIndex}
	}
	return d.adopt(b, all)
}

// adopt writes the logs and the number of the shards, whose state and journals are there. It is durable when it
// returns.
func (d *disk) adopt(logs *pebble.Batch, all []mark) error {
	shards := uint32(len(all))
	if err := logs.Set(shardCountKey, binary.LittleEndian.AppendUint32(nil, shards), nil); err != nil {
		return err
	}
	if err := d.logDB.Apply(logs, pebble.Sync); err != nil {
		return err
	}
	d.present, d.known = firstShards(shards), true
	for id, m := range all {
		d.marks.raise(uint32(id), m)
	}
	return d.marks.flush()
}

// openShard opens log and journal of one shard and checks them against each other and against the marks.
func (d *disk) openShard(id uint32) (*shardLog, *journal, error) {
	l, c, err := d.readShard(id)
	if err != nil {
		return nil, nil, err
	}
	l.checkpoint = c
	if err := l.finishInstall(); err != nil {
		return nil, nil, err
	}
	if err := d.checkShard(l); err != nil {
		return nil, nil, err
	}
	j, err := openJournal(d.fs, d.path("journal"), id, c, d.cfg.JournalSegmentBytes, d.fatal)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	return l, j, nil
}

// readShard reads a shard's log and state checkpoint.
func (d *disk) readShard(id uint32) (*shardLog, checkpoint, error) {
	c, found, err := d.state.checkpoint(id)
	if err != nil {
		return nil, c, fmt.Errorf("state: %w", err)
	}
	if !found {
		return nil, c, fmt.Errorf("state has no checkpoint: %w", ErrCorrupt)
	}
	l, err := openShardLog(d.logDB, id, d.marks)
	if err != nil {
		return nil, c, fmt.Errorf("log: %w", err)
	}
	return l, c, d.marks.check(id, mark{l.hard.GetTerm(), l.hard.GetVote(), l.last})
}

// checkShard holds log and state checkpoint against each other.
func (d *disk) checkShard(l *shardLog) error {
	c := l.checkpoint
	l.setHard(l.hard.GetTerm(), l.hard.GetVote(), max(l.hard.GetCommit(), c.index))
	switch {
	case c.index > l.last:
		return fmt.Errorf("the state is as of %d but the log ends at %d: it lost entries: %w", c.index, l.last, ErrCorrupt)
	case c.index < l.truncated:
		return fmt.Errorf("the state is as of %d but the log begins after %d: %w", c.index, l.truncated, ErrCorrupt)
	case l.hard.GetCommit() > l.last:
		return fmt.Errorf("committed up to %d but the log ends at %d: it lost entries: %w", l.hard.GetCommit(), l.last, ErrCorrupt)
	}
	return nil
}

// finishInstall completes or forgets a snapshot installation that a crash interrupted.
func (l *shardLog) finishInstall() error {
	if l.installing == 0 {
		return nil
	}
	c := l.checkpoint
	if c.index != l.installing { // the state was not replaced: as if nothing had happened
		l.installing = 0
		return l.db.Delete(logKey(l.shard, 's'), pebble.Sync)
	}
	hs := &pb.HardState{Term: new(l.hard.GetTerm()), Vote: new(l.hard.GetVote()), Commit: new(c.index)}
	if c.term > l.hard.GetTerm() {
		hs.Term, hs.Vote = new(c.term), new(uint64(0))
	}
	return l.reset(c.index, c.term, hs)
}
