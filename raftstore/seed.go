package raftstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

// termRaise is how far above every term the old group is known to have had the new one's terms begin: the old
// one may have gone on after the backup, and nothing it gave out in a term may look current in the new one. A
// million elections are more than a group lives to see, and 2^43 such raises fit below maxIndex.
const termRaise = 1 << 20

// Seed fills a fresh directory with shards that have a past: from a backup or from a survivor. All members of the
// new cluster are seeded from the same source with the same voters, commands and time, each into a directory of
// its own and under a raft ID that was never used. Nothing there counts before Finish.
//
// Each shard begins where the source ended, with one more entry: the commands that tell the state machine of the
// new cluster. It counts as committed, as all members have it and no leader ever was; so nothing can come before it.
type Seed struct {
	d      *disk
	voters []uint64
	millis int64
	logs   *pebble.Batch
	marks  []mark
	err    error
}

// SeedConfig says what to seed. All fields are required.
type SeedConfig struct {
	Dir        string // empty or absent
	RaftID     uint64
	Voters     []uint64
	TimeMillis int64 // stamps the commands
	Config     Config
}

// SeedShard is one shard of the source.
type SeedShard struct {
	// Stream is as Store.Backup wrote it; no byte behind it is read if it is a bufio.Reader of 256 KiB. nil: the shard
	// is lost and begins empty; see Survivor.Lost.
	Stream io.Reader
	// Commands of the first entry of the new cluster, at least one. NewTerm, Index and Last are known to it.
	Commands func(SeedInfo) [][]byte
	Journal  JournalSight

	tail func(fn func(*pb.Entry) error) error // entries behind the stream's index
	term uint64                               // the least that the new term must be above
}

// JournalSight sees a journal as it passes; an error refuses its source.
type JournalSight struct {
	Floor  func(note []byte) error   // first: the note on what was before (TrimJournal); nil if it begins at the beginning
	Record func(record []byte) error // every record; nil if nobody looks
}

// SeedInfo says what a shard was seeded with.
type SeedInfo struct {
	Shard        uint32
	Index, Term  uint64 // of the source's state
	Last         uint64 // of the source's log: what was behind Index was kept
	NewTerm      uint64 // above every term of the source
	JournalBytes int64
	Keys         int
}

// NewSeed begins in cfg.Dir.
func NewSeed(cfg SeedConfig) (*Seed, error) {
	c := cfg.Config
	c.Dir, c.RaftID = cfg.Dir, cfg.RaftID
	c.Machine = func(uint32, Reader, Journal) (Machine, error) { return nil, ErrStopped } // none runs here
	c.Transport = noTransport{}
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("raftstore: seed: %w", err)
	}
	voters := slices.Compact(slices.Sorted(slices.Values(cfg.Voters)))
	if !slices.Contains(voters, cfg.RaftID) || voters[0] == 0 {
		return nil, fmt.Errorf("raftstore: seed: voters %x, this is %x", voters, cfg.RaftID)
	}
	fs := c.FS
	if fs == nil {
		fs = vfs.Default
	}
	if names, err := fs.List(cfg.Dir); err == nil && len(names) > 0 {
		return nil, fmt.Errorf("raftstore: seed: %s is not empty: it has %s", cfg.Dir, names[0])
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("raftstore: seed: %w", err)
	}
	s := &Seed{voters: voters, millis: cfg.TimeMillis}
	d, err := openDisk(c, func(err error) { panic(err) })
	if err != nil {
		return nil, fmt.Errorf("raftstore: seed: %w", err)
	}
	s.d, s.logs = d, d.logDB.NewBatch()
	return s, nil
}

type noTransport struct{ Transport }

// Add seeds the next shard, number 0 first.
func (s *Seed) Add(sh SeedShard) (SeedInfo, error) {
	info, err := s.add(sh)
	if err != nil {
		err = fmt.Errorf("raftstore: seed: shard %d: %w", len(s.marks), err)
		s.err = err
	}
	return info, err
}

func (s *Seed) add(sh SeedShard) (info SeedInfo, err error) {
	id := uint32(len(s.marks))
	if s.err != nil {
		return info, s.err
	}
	if sh.Commands == nil {
		return info, errors.New("no command begins the new log")
	}
	if sh.Stream == nil {
		c := checkpoint{index: bootIndex, term: bootTerm, conf: &pb.ConfState{Voters: s.voters}}
		if err := s.d.state.write(fmt.Sprintf("seed-%d", id), []*stateWrite{{shard: id, c: c}}, nil); err != nil {
			return info, err
		}
		info = SeedInfo{Shard: id, Index: c.index, Term: c.term, Last: c.index, NewTerm: max(c.term, sh.term) + termRaise}
		return info, s.writeLog(&info, sh)
	}
	g := &stagedSnapshot{fs: s.d.fs, tables: tableSet{d: s.d.state, name: fmt.Sprintf("seed-%d", id)}}
	g.accept = func(h snapshotHeader) error {
		if h.shard != id {
			return fmt.Errorf("the stream is of shard %d: %w", h.shard, ErrMalformed)
		}
		if h.base.bytes > 0 {
			return errNotWhole
		}
		return nil
	}
	g.adopt = func(c *checkpoint) { c.conf = &pb.ConfState{Voters: s.voters} }
	var sink snapshotSink = g
	if sh.Journal.Record != nil {
		sink = &frameCheck{snapshotSink: g, sight: sh.Journal}
	}
	err = readSnapshot(sh.Stream, sink)
	if f, ok := sink.(*frameCheck); ok && err == nil {
		err = f.end()
	}
	if err == nil {
		err = g.finish()
	}
	if err != nil {
		g.discard()
		return info, err
	}
	if err := s.d.fs.Rename(g.journalPath, s.d.fs.PathJoin(s.d.path("journal"), segmentName(id, g.checkpoint.floor.journalBase))); err != nil {
		return info, err
	}
	if err := s.d.state.replace(id, g.tables.paths); err != nil {
		return info, err
	}
	c := g.checkpoint
	info = SeedInfo{Shard: id, Index: c.index, Term: c.term, Last: c.index, JournalBytes: c.journalBytes, Keys: g.keys,
		NewTerm: max(g.term, c.term, sh.term) + termRaise}
	return info, s.writeLog(&info, sh)
}

// writeLog makes the log: what the source had behind its state, and the commands of the new cluster.
func (s *Seed) writeLog(info *SeedInfo, sh SeedShard) error {
	term := info.Term
	put := func(e *pb.Entry) error {
		if e.GetIndex() != info.Last+1 || e.GetTerm() < term || e.GetTerm() >= maxIndex {
			return fmt.Errorf("log entry %d does not follow %d: %w", e.GetIndex(), info.Last, ErrCorrupt)
		}
		info.Last, term = e.GetIndex(), e.GetTerm()
		info.NewTerm = max(info.NewTerm, term+termRaise)
		if e.GetType() != pb.EntryNormal { // the old cluster's members are none of the new one's
			e = &pb.Entry{Type: pb.EntryNormal.Enum(), Index: e.Index, Term: e.Term}
		}
		return s.logs.Set(entryKey(nil, info.Shard, e.GetIndex()), encodeEntry(e), nil)
	}
	if sh.tail != nil {
		if err := sh.tail(put); err != nil {
			return err
		}
	}
	kept := info.Last
	commands := sh.Commands(*info)
	if len(commands) == 0 || len(commands) > maxCommandsPerEntry {
		return fmt.Errorf("%d commands begin the new log", len(commands))
	}
	ps := make([]Proposal, len(commands))
	for i, c := range commands {
		ps[i].Command = c
	}
	err := put(&pb.Entry{Type: pb.EntryNormal.Enum(), Index: new(kept + 1), Term: new(info.NewTerm),
		Data: packEntry(entryHeader{timeMillis: s.millis}, ps)})
	info.NewTerm, info.Last = term, kept
	last := kept + 1
	err = errors.Join(err,
		s.logs.Set(logKey(info.Shard, 'h'), u64s(term, 0, last), nil),
		s.logs.Set(logKey(info.Shard, 't'), u64s(info.Index, info.Term), nil))
	s.marks = append(s.marks, mark{term, 0, last})
	return err
}

func encodeEntry(e *pb.Entry) []byte {
	b := binary.AppendUvarint([]byte{byte(e.GetType())}, e.GetTerm())
	return append(b, e.GetData()...)
}

// Finish makes all of it count, durably.
func (s *Seed) Finish() error {
	err := s.err
	if err == nil && len(s.marks) == 0 {
		err = errors.New("no shards")
	}
	if err == nil {
		err = errors.Join(syncDir(s.d.fs, s.d.path("journal")), s.d.adopt(s.logs, s.marks))
	}
	if err = errors.Join(err, s.close()); err != nil {
		return fmt.Errorf("raftstore: seed: %w", err)
	}
	return nil
}

// Abort gives up; what was written does not count, and the directory can not be used.
func (s *Seed) Abort() { _ = s.close() }

func (s *Seed) close() error {
	if s.d == nil {
		return nil
	}
	d := s.d
	s.d = nil
	return errors.Join(s.logs.Close(), d.close())
}

// frameCheck shows the records of a journal to somebody as they pass.
type frameCheck struct {
	snapshotSink
	sight  JournalSight
	rest   []byte // of a frame whose end has not come
	offset int64  // of rest
}

func (f *frameCheck) begin(h snapshotHeader) error {
	floor := h.checkpoint.floor
	if f.offset = floor.bytes; f.sight.Floor != nil {
		if err := f.sight.Floor(floor.note); err != nil {
			return fmt.Errorf("journal: what is noted of its beginning: %w", err)
		}
	}
	return f.snapshotSink.begin(h)
}

func (f *frameCheck) journal(p []byte) error {
	f.rest = append(f.rest, p...)
	b := f.rest
	for {
		record, n, err := nextFrame(b)
		if err != nil {
			return fmt.Errorf("journal: offset %d: %w", f.offset, err)
		}
		if n == 0 {
			break
		}
		if err := f.sight.Record(record); err != nil {
			return err
		}
		b, f.offset = b[n:], f.offset+int64(n)
	}
	f.rest = append(f.rest[:0], b...)
	return f.snapshotSink.journal(p) // last, as a file may change what it is given
}

func (f *frameCheck) end() error {
	if len(f.rest) > 0 {
		return fmt.Errorf("journal: offset %d: it ends within a record: %w", f.offset, ErrCorrupt)
	}
	return nil
}

// CheckStream reads one stream as Store.Backup writes it, verifies all of it and writes nothing.
func CheckStream(r *bufio.Reader, sight JournalSight) (SeedInfo, error) {
	var d discardSink
	f := &frameCheck{snapshotSink: &d, sight: sight}
	err := readSnapshot(r, f)
	if err == nil {
		err = f.end()
	}
	c := d.h.checkpoint
	return SeedInfo{Shard: d.h.shard, Index: c.index, Term: c.term, Last: c.index, JournalBytes: c.journalBytes, Keys: d.keys}, err
}

var errNotWhole = fmt.Errorf("the stream lacks the beginning of the journal: %w", ErrMalformed)

type discardSink struct {
	h    snapshotHeader
	keys int
}

func (d *discardSink) begin(h snapshotHeader) error {
	if h.base.bytes > 0 {
		return errNotWhole
	}
	d.h = h
	return nil
}
func (d *discardSink) put(_, _ []byte) error { d.keys++; return nil }
func (d *discardSink) journal([]byte) error  { return nil }
