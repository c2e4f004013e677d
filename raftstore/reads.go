package raftstore

import (
	"encoding/binary"

	"go.etcd.io/raft/v3"
)

// readQueue batches linearizable reads: one attempt at a time carries everybody who asked before it started, and
// each attempt has a context never used before (a reused one could be answered by an older round).
type readQueue struct {
	waiting   []func(uint64, error) // for the next attempt
	attempt   []func(uint64, error) // in flight
	context   uint64                // of the attempt in flight, or the last one
	ticks     uint64                // since it started
	confirmed []confirmedRead       // waiting until index is applied
}

type confirmedRead struct {
	index uint64
	done  []func(uint64, error)
}

func (q *readQueue) push(done func(uint64, error)) { q.waiting = append(q.waiting, done) }

// tick gives up an attempt that raft dropped without a word.
func (q *readQueue) tick(timeout uint64) {
	if q.attempt == nil {
		return
	}
	if q.ticks++; q.ticks >= timeout {
		q.retry()
	}
}

func (q *readQueue) retry() {
	q.waiting = append(q.attempt, q.waiting...)
	q.attempt = nil
}

// startReads begins an attempt. It waits for an entry of the leader's own term to be applied: before that a group
// with one voter answers with a stale index.
func (r *Replica) startReads() {
	q := &r.reads
	if len(q.waiting) == 0 {
		return
	}
	if r.role != raft.StateLeader {
		if !r.choosing() {
			q.failAll(r.notLeader())
		}
		return
	}
	if q.attempt != nil || r.ledTerm != r.term {
		return
	}
	if r.rn.BasicStatus().RaftState != raft.StateLeader {
		return // a message just stepped in ended it; raft would forward the read to the new leader, which refuses it
	}
	q.context++
	q.ticks = 0
	q.attempt, q.waiting = q.waiting, nil
	r.rn.ReadIndex(binary.LittleEndian.AppendUint64(nil, q.context))
}

func (q *readQueue) confirm(rs raft.ReadState, applied uint64) {
	if q.attempt == nil || len(rs.RequestCtx) != 8 || binary.LittleEndian.Uint64(rs.RequestCtx) != q.context {
		return
	}
	q.confirmed = append(q.confirmed, confirmedRead{rs.Index, q.attempt})
	q.attempt = nil
	q.applied(applied)
}

func (q *readQueue) applied(applied uint64) {
	keep := q.confirmed[:0]
	for _, c := range q.confirmed {
		if c.index > applied {
			keep = append(keep, c)
			continue
		}
		for _, done := range c.done {
			done(c.index, nil)
		}
	}
	clear(q.confirmed[len(keep):])
	q.confirmed = keep
}

// failAll answers everybody whose read index is not confirmed. Confirmed ones stay: their index is good whoever leads.
func (q *readQueue) failAll(err error) {
	for _, done := range q.attempt {
		done(0, err)
	}
	for _, done := range q.waiting {
		done(0, err)
	}
	q.attempt, q.waiting = nil, nil
	if err == ErrStopped {
		for _, c := range q.confirmed {
			for _, done := range c.done {
				done(0, err)
			}
		}
		q.confirmed = nil
	}
}
