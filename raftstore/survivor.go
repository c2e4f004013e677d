package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Survivor reads the directory of a store that does not run, and changes nothing there: it is evidence.
type Survivor struct {
	d *disk
}

// SurvivorShard is what one shard of a survivor has. What was acknowledged up to Commit is there for certain. Entries
// from there to Last were on their way: they may have been acknowledged, and are kept. What the others acknowledged
// without this replica, behind Last, is lost with them; nobody left can tell how much that is.
type SurvivorShard struct {
	Shard         uint32
	Checkpoint    uint64 // index of the state
	Commit, Last  uint64
	Term, Vote    uint64
	Voters        []uint64
	LastLed       bool // it voted for itself in its last term, so it may have led
	UncertainSize int64
}

// OpenSurvivor opens cfg.Dir of cfg.RaftID; of the rest only FS counts. Damage, a log that lost its end, and a
// directory in use are refused.
func OpenSurvivor(cfg Config) (*Survivor, error) {
	c := cfg.withDefaults()
	d := &disk{cfg: c, fs: cfg.FS, fatal: func(err error) { panic(err) }}
	if d.fs == nil {
		d.fs = vfs.Default
	}
	s := &Survivor{d}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("raftstore: survivor: %w", errors.Join(err, d.close()))
	}
	return s, nil
}

func (s *Survivor) open() (err error) {
	d := s.d
	read := func(name string) (*pebble.DB, error) {
		log := &pebbleLogger{name: name, log: slog.New(slog.DiscardHandler), fatal: d.fatal}
		db, err := pebble.Open(d.path(name), &pebble.Options{FS: d.fs, ReadOnly: true, ErrorIfNotExists: true, Logger: log})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.path(name), err)
		}
		return db, nil
	}
	if d.logDB, err = read("log"); err != nil {
		return err
	}
	if _, closer, err := d.logDB.Get(identityKey); err != nil {
		return fmt.Errorf("the log names no owner: %w", errors.Join(err, ErrCorrupt))
	} else if err := closer.Close(); err != nil {
		return err
	}
	db, err := read("state")
	if err != nil {
		return err
	}
	d.state = &stateDB{db: db, fs: d.fs}
	return d.identify()
}

// Close closes it.
func (s *Survivor) Close() error { return s.d.close() }

// Shards are those it has a replica of, in ascending order.
func (s *Survivor) Shards() []uint32 { return slices.Clone(s.d.present) }

// Lost stands for a shard that the survivor has no replica of: in the new cluster it begins empty, in a term above
// every one that the survivor knows of any shard.
func (s *Survivor) Lost(commands func(SeedInfo) [][]byte) (SeedShard, error) {
	sh := SeedShard{Commands: commands}
	for _, id := range s.d.present {
		l, err := s.log(id)
		if err != nil {
			return SeedShard{}, fmt.Errorf("raftstore: survivor: shard %d: %w", id, err)
		}
		sh.term = max(sh.term, l.hard.GetTerm())
	}
	return sh, nil
}

// Shard describes one, after checking it.
func (s *Survivor) Shard(id uint32) (SurvivorShard, error) {
	l, err := s.log(id)
	if err != nil {
		return SurvivorShard{}, fmt.Errorf("raftstore: survivor: shard %d: %w", id, err)
	}
	out := SurvivorShard{Shard: id, Checkpoint: l.checkpoint.index, Commit: l.hard.GetCommit(), Last: l.last,
		Term: l.hard.GetTerm(), Vote: l.hard.GetVote(), Voters: l.checkpoint.conf.GetVoters(), LastLed: l.hard.GetVote() == s.d.cfg.RaftID}
	err = l.scan(out.Commit+1, l.last+1, func(e *pb.Entry) bool {
		out.UncertainSize += int64(len(e.GetData()))
		return true
	})
	return out, err
}

func (s *Survivor) log(id uint32) (*shardLog, error) {
	l, c, err := s.d.readShard(id)
	if err != nil {
		return nil, err
	}
	if l.installing != 0 {
		return nil, fmt.Errorf("a snapshot at %d was being installed when it stopped: start the node once, alone, to complete or undo that", l.installing)
	}
	l.checkpoint = c
	return l, s.d.checkShard(l)
}

// Seed is the shard as a source for a new cluster, its log behind the state included. The stream ends with
// ctx.
func (s *Survivor) Seed(ctx context.Context, id uint32, commands func(SeedInfo) [][]byte) (SeedShard, error) {
	l, err := s.log(id)
	if err != nil {
		return SeedShard{}, fmt.Errorf("raftstore: survivor: shard %d: %w", id, err)
	}
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pr.CloseWithError(ctx.Err()) })
	go func() { // ends with the stream, or with ctx
		defer stop()
		pw.CloseWithError(streamState(s.d.state, id, l.hard.GetTerm(), journalBase{}, pw, func(sw *snapshotWriter, from, size int64) error {
			used, _, err := openSegments(s.d.fs, s.d.path("journal"), id, extent{l.checkpoint.floor.journalBase, size, l.checkpoint.whole})
			if err != nil {
				return err
			}
			return errors.Join(eachSegmentPiece(used, from, size, sw.journal), closeSegments(used))
		}))
	}()
	return SeedShard{Stream: pr, Commands: commands, term: l.hard.GetTerm(), tail: func(fn func(*pb.Entry) error) error {
		var bad error
		err := l.scan(l.checkpoint.index+1, l.last+1, func(e *pb.Entry) bool {
			bad = fn(e)
			return bad == nil
		})
		return errors.Join(err, bad)
	}}, nil
}
