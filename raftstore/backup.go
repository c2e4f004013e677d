package raftstore

import (
	"context"
	"fmt"
	"io"
)

// Backup streams one shard as of an index at or above everything that was acknowledged before the call, in the
// snapshot format, while the shard works on. This replica must lead it: a NotLeaderError says who does. Memory is
// constant; the state checkpoint that is streamed stays on disk until the stream ends. A failed write ends it.
func (s *Store) Backup(ctx context.Context, shard uint32, w io.Writer) error {
	index, err := s.ReadIndex(ctx, shard)
	if err != nil {
		return err
	}
	if err := s.checkpointAt(ctx, shard, index); err != nil {
		return err
	}
	sh := s.shard(shard)
	limited := s.env.limit.writer(ctx, interrupted{w, ctx, s.env.ctx})
	if err := sh.writeSnapshot(limited, sh.status.Load().Term, journalBase{}); err != nil {
		return fmt.Errorf("raftstore: shard %d: backup: %w", shard, err)
	}
	return nil
}

// checkpointAt returns when a state checkpoint at index or above is durable, and has one taken if need be.
func (s *Store) checkpointAt(ctx context.Context, shard uint32, index uint64) error {
	sh, err := s.running(shard)
	if err != nil {
		return err
	}
	_, err = ask(ctx, sh, func(answer func(struct{}, error)) {
		sh.demands = append(sh.demands, demand{index, answer})
		sh.meetDemands()
	})
	return err
}

// demand waits for a state checkpoint.
type demand struct {
	index  uint64
	answer func(struct{}, error)
}

// meetDemands answers who waits for a checkpoint that is there now. maybeCheckpoint takes one while any are left.
func (s *shard) meetDemands() {
	left := s.demands[:0]
	for _, d := range s.demands {
		if d.index <= s.log.checkpoint.index {
			d.answer(struct{}{}, nil)
		} else {
			left = append(left, d)
		}
	}
	clear(s.demands[len(left):])
	s.demands = left
}

// interrupted refuses to write once one of its contexts has ended.
type interrupted struct {
	w         io.Writer
	call, own context.Context
}

func (i interrupted) Write(p []byte) (int, error) {
	if i.own.Err() != nil {
		return 0, ErrStopped
	}
	if err := i.call.Err(); err != nil {
		return 0, err
	}
	return i.w.Write(p)
}
