package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

var _ Log = (*shardLog)(nil)

// InitialState implements raft.Storage. The configuration is the checkpoint's; later changes of it are in the log.
func (l *shardLog) InitialState() (*pb.HardState, *pb.ConfState, error) {
	return &pb.HardState{
		Term: new(l.hard.GetTerm()), Vote: new(l.hard.GetVote()), Commit: new(l.hard.GetCommit()),
	}, l.checkpoint.conf, nil
}

// Entries implements raft.Storage.
func (l *shardLog) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	if lo <= l.truncated {
		return nil, raft.ErrCompacted
	}
	if hi > l.last+1 {
		return nil, raft.ErrUnavailable
	}
	var out []*pb.Entry
	size := uint64(0)
	take := func(e *pb.Entry) bool {
		size += uint64(len(e.GetData()) + entryOverhead/2)
		if len(out) > 0 && size > maxSize {
			return false
		}
		out = append(out, e)
		return true
	}
	if first := l.cacheFirst(); lo >= first {
		out = make([]*pb.Entry, 0, min(hi-lo, 64))
		for _, e := range l.cache[lo-first : hi-first] {
			if !take(e) {
				break
			}
		}
		return out, nil
	}
	if err := l.scan(lo, hi, take); err != nil {
		return nil, err
	}
	if len(out) == 0 || out[0].GetIndex() != lo {
		return nil, fmt.Errorf("log entry %d is missing: %w", lo, ErrCorrupt)
	}
	return out, nil
}

// Term implements raft.Storage.
func (l *shardLog) Term(index uint64) (uint64, error) {
	switch first := l.cacheFirst(); {
	case index == l.truncated:
		return l.truncatedTerm, nil
	case index < l.truncated:
		return 0, raft.ErrCompacted
	case index > l.last:
		return 0, raft.ErrUnavailable
	case index >= first:
		return l.cache[index-first].GetTerm(), nil
	}
	v, closer, err := l.db.Get(entryKey(nil, l.shard, index))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, fmt.Errorf("log entry %d is missing: %w", index, ErrCorrupt)
	}
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	if len(v) > 1 {
		if term, n := binary.Uvarint(v[1:]); n > 0 {
			return term, nil
		}
	}
	return 0, fmt.Errorf("log entry %d: %w", index, ErrCorrupt)
}

// LastIndex implements raft.Storage.
func (l *shardLog) LastIndex() (uint64, error) { return l.last, nil }

// FirstIndex implements raft.Storage.
func (l *shardLog) FirstIndex() (uint64, error) { return l.truncated + 1, nil }

// Snapshot implements raft.Storage: the latest state checkpoint, by name. Its bytes are streamed beside raft.
func (l *shardLog) Snapshot() (*pb.Snapshot, error) {
	return &pb.Snapshot{Metadata: l.checkpoint.snapshotMetadata()}, nil
}
