package raftstore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// maxSenders bounds the snapshots a process sends at once; further ones wait.
const maxSenders = 2

// errNotMember: the checkpoint is from before the peer was added, and would be refused there. The next one follows soon.
var errNotMember = errors.New("the peer is not a member as of the state checkpoint")

func isMember(c *pb.ConfState, id uint64) bool {
	return slices.Contains(c.GetVoters(), id) || slices.Contains(c.GetLearners(), id)
}

// startStream sends the shard's latest state checkpoint. raft hears how it ended in all cases, or it would never
// send that peer anything again.
func (s *shard) startStream(to, term uint64) {
	if _, busy := s.streams[to]; busy {
		return // the end of that one is reported
	}
	s.streams[to] = s.log.checkpoint.index
	member := isMember(s.log.checkpoint.conf, to)
	s.background(func() {
		err := errNotMember
		if member {
			err = s.sendSnapshot(to, term)
		}
		if err != nil && member {
			s.env.log.Warn("raftstore: snapshot not delivered", "layer", "L5", "shard", s.id, "peer", to, "error", err)
		}
		s.mail.call(func() {
			delete(s.streams, to)
			s.replica.ReportSnapshot(to, err == nil)
		})
	})
}

func (s *shard) sendSnapshot(to, term uint64) error {
	select {
	case s.env.senders <- struct{}{}:
		defer func() { <-s.env.senders }()
	case <-s.env.ctx.Done():
		return ErrStopped
	}
	base := s.commonJournal(to)
	return s.env.cfg.Transport.SendSnapshot(s.env.ctx, to, func(w io.Writer) error {
		return s.writeSnapshot(s.env.limit.writer(s.env.ctx, w), term, base)
	})
}

// commonJournal is the beginning of the journal that a peer has already, if it can be asked: a journal is by far the
// largest part of a shard, and a replica that was away for a while lacks the end of it only.
func (s *shard) commonJournal(to uint64) journalBase {
	asker, ok := s.env.cfg.Transport.(JournalAsker)
	if !ok {
		return journalBase{}
	}
	size, sum, err := asker.AskJournal(s.env.ctx, to, s.id)
	if err != nil || size <= 0 {
		return journalBase{}
	}
	segs, have, err := s.journal.acquire()
	if err != nil {
		return journalBase{}
	}
	defer func() { _ = s.journal.release(segs) }()
	if size > have || size < segs[0].start { // what it lacks is partly gone: it gets all there is
		return journalBase{}
	}
	if got, err := sumJournal(segs, size); err != nil || got != sum {
		s.env.log.Warn("raftstore: a peer's journal is not the beginning of this one", "layer", "L5", "shard", s.id, "peer", to, "bytes", size, "error", err)
		return journalBase{}
	}
	return journalBase{size, sum}
}

// JournalBase is how much of a shard's journal is durable here: length and CRC32C. It answers AskJournal.
func (s *Store) JournalBase(shard uint32) (size int64, sum uint32, err error) {
	sh, err := s.running(shard)
	if err != nil {
		return 0, 0, err
	}
	base, err := ask(s.env.ctx, sh, func(answer func(journalBase, error)) {
		c := sh.log.checkpoint
		sh.offered.Store(&journalBase{c.journalBytes, c.journalSum})
		answer(journalBase{c.journalBytes, c.journalSum}, nil)
	})
	return base.bytes, base.sum, err
}

// writeSnapshot streams one consistent view, the journal from base on. The journal may have grown or have been
// replaced meanwhile, but replicas' journals are equal, so its first bytes are the same.
func (s *shard) writeSnapshot(w io.Writer, term uint64, base journalBase) error {
	defer s.journal.pin()() // before the view is: what it needs stays
	return streamState(s.env.state, s.id, term, base, w, func(sw *snapshotWriter, from, size int64) error {
		segs, have, err := s.journal.acquire()
		if err != nil {
			return err
		}
		defer func() { _ = s.journal.release(segs) }()
		if have < size {
			return fmt.Errorf("journal has %d bytes, the checkpoint needs %d: %w", have, size, ErrCorrupt)
		}
		return eachSegmentPiece(segs, from, size, sw.journal)
	})
}

// streamState streams a shard's state checkpoint, then what journal gives. An iterator pins the view, checkpoint key
// and state together; a Pebble snapshot would not, because an excise takes keys away under it.
func streamState(d *stateDB, shard uint32, term uint64, base journalBase, w io.Writer, journal func(sw *snapshotWriter, from, size int64) error) error {
	d.life.RLock()
	defer d.life.RUnlock()
	if d.life.closed {
		return ErrStopped
	}
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: shardPrefix(shard), UpperBound: shardPrefix(shard + 1)})
	if err != nil {
		return err
	}
	defer it.Close()
	if !it.First() || string(it.Key()) != string(checkpointKey(shard)) {
		return errors.Join(it.Error(), fmt.Errorf("no checkpoint: %w", ErrCorrupt))
	}
	c, err := decodeCheckpoint(it.Value())
	if err != nil {
		return err
	}
	c.whole = false // here, not there
	if base.bytes > c.journalBytes || base.bytes < c.floor.bytes {
		base = journalBase{} // the peer is ahead of this checkpoint, or what it lacks is partly gone
	}
	sw, err := newSnapshotWriter(w)
	if err != nil {
		return err
	}
	if err := sw.header(snapshotHeader{shard: shard, term: term, base: base, checkpoint: c}); err != nil {
		return err
	}
	prefix := len(stateKey(0, nil))
	for it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := sw.put(it.Key()[prefix:], v); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	if err := journal(sw, max(base.bytes, c.floor.bytes), c.journalBytes); err != nil {
		return err
	}
	return sw.end()
}

// sumJournal is the CRC32C of a journal's first bytes, those that are gone included.
func sumJournal(segs []*segment, size int64) (sum uint32, err error) {
	sum = segs[0].sum
	err = eachSegmentPiece(segs, segs[0].start, size, func(p []byte) error {
		sum = crc32.Update(sum, castagnoli, p)
		return nil
	})
	return sum, err
}

// eachPiece reads a file piece by piece.
func eachPiece(f vfs.File, from, to int64, fn func([]byte) error) error {
	buf := make([]byte, min(chunkBytes, max(to-from, 0)))
	for at := from; at < to; {
		n := int(min(int64(len(buf)), to-at))
		if _, err := f.ReadAt(buf[:n], at); err != nil {
			return err
		}
		if err := fn(buf[:n]); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// stagedSnapshot is a verified snapshot on disk that nothing refers to yet. It implements snapshotSink for its own
// making, on the goroutine that receives it; after that it is the shard's.
type stagedSnapshot struct {
	snapshotHeader
	from        uint64
	claimed     bool // the shard is marked as receiving
	unpin       func()
	ownFloor    journalFloor // where the journal begins that the stream goes on from
	fs          vfs.FS
	tables      tableSet
	journalPath string
	journalFile vfs.File
	keys        int
	accept      func(snapshotHeader) error
	adopt       func(*checkpoint) // nil, or changes the checkpoint before it is written
	answer      func(struct{}, error)
}

func (g *stagedSnapshot) begin(h snapshotHeader) error {
	if err := g.accept(h); err != nil {
		return err
	}
	if g.adopt != nil {
		g.adopt(&h.checkpoint)
	}
	if h.checkpoint.whole = h.base.bytes == 0; !h.checkpoint.whole {
		h.checkpoint.floor = g.ownFloor
	}
	g.snapshotHeader = h
	meta, err := encodeCheckpoint(h.checkpoint)
	if err != nil {
		return err
	}
	if err := g.tables.set(checkpointKey(h.shard), meta); err != nil {
		return err
	}
	if err := g.tables.cut(); err != nil {
		return err
	}
	g.journalPath = g.fs.PathJoin(g.tables.d.staging, g.tables.name+".qj")
	f, err := g.fs.Create(g.journalPath, vfs.WriteCategoryUnspecified)
	if err == nil {
		g.journalFile = steadily(f)
	}
	return err
}

func (g *stagedSnapshot) put(key, value []byte) error {
	g.keys++
	return g.tables.set(stateKey(g.shard, key), value)
}

func (g *stagedSnapshot) journal(p []byte) error {
	_, err := g.journalFile.Write(p)
	return err
}

// finish makes the files durable.
func (g *stagedSnapshot) finish() error {
	f := g.journalFile
	g.journalFile = nil
	return errors.Join(f.Sync(), f.Close(), g.tables.cut())
}

// discard removes the files. What a crash leaves is removed at the next open.
func (g *stagedSnapshot) discard() {
	if g.journalFile != nil {
		_ = g.journalFile.Close()
	}
	if g.journalPath != "" {
		_ = g.fs.Remove(g.journalPath)
	}
	_ = g.tables.abort()
}

// offerArrived hands a received snapshot to raft, unless a checkpoint is just being written.
func (s *shard) offerArrived() error {
	g := s.arrived
	if g == nil || s.frozen.index != 0 {
		return nil
	}
	s.arrived, s.staged = nil, g
	err := s.step(&pb.Message{
		Type: pb.MsgSnap.Enum(), To: new(s.env.cfg.RaftID), From: new(g.from), Term: new(g.term),
		Snapshot: &pb.Snapshot{Metadata: g.checkpoint.snapshotMetadata()},
	})
	if err == nil {
		err = s.replica.Process()
	}
	if err != nil {
		return err
	}
	if s.staged != nil { // raft had no use for it
		s.staged = nil
		g.discard()
		g.answer(struct{}{}, nil)
	}
	return nil
}

func (s *shard) dropStaged(err error) {
	for _, g := range []*stagedSnapshot{s.arrived, s.staged} {
		if g != nil {
			g.discard()
			g.answer(struct{}{}, err)
		}
	}
	s.arrived, s.staged = nil, nil
}

// takeJournal makes the staged journal the shard's: as a file of its own, which may be the only one then, or by appending
// it to what is there already. Up to the present checkpoint nothing is written again; bytes behind it do not count
// before the state was replaced, and files that are not needed any more are deleted after that (journal.reset).
func (s *shard) takeJournal(g *stagedSnapshot) error {
	if g.base.bytes == 0 {
		to := g.fs.PathJoin(s.journal.dir, segmentName(s.id, g.checkpoint.floor.journalBase))
		return errors.Join(g.fs.Rename(g.journalPath, to), syncDir(g.fs, s.journal.dir))
	}
	from, err := g.fs.Open(g.journalPath)
	if err != nil {
		return err
	}
	defer from.Close()
	at := max(g.base.bytes, s.log.checkpoint.journalBytes)
	used, left, err := openSegments(g.fs, s.journal.dir, s.id, extent{g.ownFloor.journalBase, at, s.log.checkpoint.whole})
	if err != nil {
		return err
	}
	last := used[len(used)-1]
	err = removeSegments(g.fs, left) // what was applied behind the checkpoint stands in the stream as well
	if err == nil {
		err = eachPiece(from, at-g.base.bytes, g.checkpoint.journalBytes-g.base.bytes, func(p []byte) error {
			_, err := last.file.WriteAt(p, at-last.start)
			at += int64(len(p))
			return err
		})
	}
	if err == nil {
		err = last.file.Sync()
	}
	return errors.Join(err, closeSegments(used), g.fs.Remove(g.journalPath))
}

// installStep, set by tests only, may fail an installation between two steps.
var installStep func(string) error

func reached(step string) error {
	if installStep == nil {
		return nil
	}
	return installStep(step)
}

// install replaces log, state, journal and machine by the staged snapshot. A crash between any two steps is
// completed or undone at open: before the state is replaced the journal's files, or the longer one, still have what it
// needs; after it, the note in the log says that the log must follow.
func (s *shard) install(sn *pb.Snapshot, hs *pb.HardState) error {
	g := s.staged
	if g == nil || g.checkpoint.index != sn.GetMetadata().GetIndex() || g.checkpoint.term != sn.GetMetadata().GetTerm() {
		return fmt.Errorf("raft installs a snapshot at %d that is not staged", sn.GetMetadata().GetIndex())
	}
	c := g.checkpoint
	if raft.IsEmptyHardState(hs) {
		hs = &s.log.hard
	}
	if err := s.log.beginInstall(c.index); err != nil {
		return err
	}
	if err := reached("noted"); err != nil {
		return err
	}
	if err := s.takeJournal(g); err != nil {
		return err
	}
	if err := reached("journal"); err != nil {
		return err
	}
	if err := s.env.state.replace(s.id, g.tables.paths); err != nil {
		return err
	}
	if err := reached("replaced"); err != nil {
		return err
	}
	if err := s.journal.reset(c); err != nil { // only now: it deletes what the old state needed
		return err
	}
	if err := reached("state"); err != nil {
		return err
	}
	if err := s.log.reset(c.index, c.term, hs); err != nil {
		return err
	}
	s.log.checkpoint, s.staged = c, nil
	if err := s.machine.Restore(s.reader, c.machine); err != nil {
		return err
	}
	s.digests.since = c.index
	g.answer(struct{}{}, nil)
	return nil
}
