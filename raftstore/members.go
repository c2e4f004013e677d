package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// What an administrator does to the replicas of a shard, one plain call a step. Each may be repeated.

// all lists the shards of this process in ascending order.
func (s *Store) all() []*shard {
	table := s.shards.Load()
	if table == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(*table), func(sh *shard) bool { return sh == nil })
}

// place puts shards into the table.
func (s *Store) place(shards ...*shard) {
	var next []*shard
	if old := s.shards.Load(); old != nil {
		next = slices.Clone(*old)
	}
	for _, sh := range shards {
		for len(next) <= int(sh.id) {
			next = append(next, nil)
		}
		next[sh.id] = sh
	}
	s.shards.Store(&next)
}

// Change makes one change of a shard's members, on the replica that leads it, and returns when it is applied there.
// A *ChangeError, ErrChangePending and *NotLeaderError mean that nothing was changed.
func (s *Store) Change(ctx context.Context, shard uint32, c Change) (index uint64, err error) {
	sh, err := s.running(shard)
	if err != nil {
		return 0, err
	}
	return ask(ctx, sh, func(answer func(uint64, error)) { sh.replica.ProposeChange(c, answer) })
}

// Create makes an empty replica of a shard that was founded by the given voters and runs elsewhere. It has no part in
// the group before that adds it as a learner; then it catches up from the log, or by a snapshot. It is durable when
// it returns, and nothing is done if the replica exists.
func (s *Store) Create(shard uint32, founders []uint64) error {
	s.admin.Lock()
	defer s.admin.Unlock()
	switch {
	case !s.started.Load() || s.isClosed():
		return fmt.Errorf("raftstore: create shard %d: %w", shard, ErrStopped)
	case s.shard(shard) != nil:
		return nil
	case shard >= MaxShards || len(founders) == 0 || slices.Contains(founders, 0):
		return fmt.Errorf("raftstore: create shard %d with founders %x: not a shard", shard, founders)
	}
	var sh *shardHandle
	err := s.guard(func() error {
		if err := s.disk.create(shard, slices.Sorted(slices.Values(founders))); err != nil {
			return err
		}
		opened, err := s.openShard(shard)
		sh = &shardHandle{opened}
		return err
	})
	if err != nil {
		return fmt.Errorf("raftstore: create shard %d: %w", shard, err)
	}
	s.place(sh.shard)
	e := s.env.engine(shard)
	e.post(func() {
		e.shards = append(e.shards, sh.shard)
		sh.active = true
	})
	return nil
}

// shardHandle carries a shard out of a guarded call.
type shardHandle struct{ *shard }

// Drop ends this process's replica of a shard that it was removed from, and puts its data away: log and state are
// deleted, the journal is kept in removed/, and what the replica promised (term, vote, how far its log reached) is
// remembered, should it ever be created again. A replica that is still a member, as far as it knows, is refused
// unless removed says that the group is known to have removed it.
func (s *Store) Drop(shard uint32, removed bool) error {
	s.admin.Lock()
	defer s.admin.Unlock()
	sh := s.shard(shard)
	if sh == nil {
		return nil
	}
	if !s.started.Load() || s.isClosed() {
		return fmt.Errorf("raftstore: drop shard %d: %w", shard, ErrStopped)
	}
	if st := sh.status.Load(); !removed && (slices.Contains(st.Voters, s.cfg.RaftID) || slices.Contains(st.Learners, s.cfg.RaftID)) {
		return fmt.Errorf("raftstore: drop shard %d: this replica is still a member of it", shard)
	}
	s.env.engine(shard).post(func() { sh.leaving = true })
	sh.mail.finish(false)
	select {
	case <-sh.done:
	case <-s.quit:
		return fmt.Errorf("raftstore: drop shard %d: %w", shard, ErrStopped)
	case <-s.failed:
		return fmt.Errorf("raftstore: drop shard %d: %w", shard, ErrStopped)
	}
	sh.jobs.Wait()
	next := slices.Clone(*s.shards.Load())
	next[shard] = nil
	s.shards.Store(&next)
	sh.machine.Follow(0)
	err := s.guard(func() error { return errors.Join(sh.journal.close(), s.disk.putAway(sh.log)) })
	if err != nil {
		err = fmt.Errorf("drop shard %d: %w", shard, err)
		s.fatal(err)
		return fmt.Errorf("raftstore: %w", err)
	}
	return nil
}

func (s *Store) isClosed() bool {
	s.life.Lock()
	defer s.life.Unlock()
	return s.life.closed || s.life.err != nil
}

// Fresh says that the directory never held a replica.
func (s *Store) Fresh() bool {
	s.admin.Lock()
	defer s.admin.Unlock()
	return !s.disk.known
}
