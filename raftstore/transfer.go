package raftstore

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
)

// Raft tells the follower that is to lead so once, and forgets the hand-over after an election timeout without a word:
// a message that was lost, or came while the follower could not campaign, made a hand-over that did nothing. Here it
// is told again until it leads, and who asked for it hears how it ended.

// transferRetryTicks is how long a follower that was told to lead has before it is told again. One that campaigns
// already takes no notice.
const transferRetryTicks = 2

// TransferError says why leadership was not handed over to somebody.
type TransferError struct {
	Shard  uint32
	To     uint64
	Reason string
}

func (e *TransferError) Error() string {
	return fmt.Sprintf("raftstore: shard %d: leadership not handed over to %x: %s", e.Shard, e.To, e.Reason)
}

// transfer is a hand-over under way.
type transfer struct {
	to    uint64
	term  uint64 // that is to end
	ticks int
	done  []func(error)
}

// TransferLeader hands leadership over; proposals wait meanwhile, for an election timeout at most. done runs at once
// or in a later Process or Tick: with nil when that replica is known to lead, with a *NotLeaderError, ErrStopped or a
// *TransferError otherwise.
func (r *Replica) TransferLeader(to uint64, done func(error)) {
	switch {
	case r.role != raft.StateLeader:
		done(r.notLeader())
		return
	case to == r.cfg.ID:
		done(nil)
		return
	case !slices.Contains(r.confState.GetVoters(), to):
		done(r.transferError(to, "it is not a voter"))
		return
	}
	if t := r.transfer; t != nil && t.to == to {
		t.done = append(t.done, done)
		return
	}
	r.endTransfer("another hand-over began")
	r.transfer = &transfer{to: to, term: r.term, done: []func(error){done}}
	r.tellRaft(to)
}

func (r *Replica) transferError(to uint64, reason string) error {
	return &TransferError{Shard: r.cfg.Shard, To: to, Reason: reason}
}

// tickTransfer tells again, or gives up.
func (r *Replica) tickTransfer() {
	t := r.transfer
	if t == nil {
		return
	}
	t.ticks++
	switch {
	case t.ticks >= r.cfg.ElectionTicks && r.leads():
		r.tellRaft(r.cfg.ID) // calls raft's own attempt off: proposals go on
		r.queue.held = false
		r.endTransfer(r.whyKept(t.to))
	case t.ticks >= 2*r.cfg.ElectionTicks:
		r.endTransfer("this replica gave it up, and no leader is known yet")
	case t.ticks%transferRetryTicks == 0 && r.leads():
		r.tellRaft(r.cfg.ID)
		r.tellRaft(t.to)
	}
}

// tellRaft begins a hand-over, or calls one off. Raft may have lost the leadership in a message that was just taken in;
// a follower would send its leader the wish, which no peer takes.
func (r *Replica) tellRaft(to uint64) {
	if r.rn.BasicStatus().RaftState == raft.StateLeader {
		r.rn.TransferLeader(to)
	}
}

// whyKept says what a follower lacked that did not take over in time.
func (r *Replica) whyKept(to uint64) string {
	for _, f := range r.followers() {
		switch {
		case f.RaftID != to:
		case !f.Active:
			return "it does not answer"
		case f.Snapshot:
			return "it is being sent a snapshot"
		case f.Match < r.lastIndex():
			return fmt.Sprintf("it has the log up to %d of %d", f.Match, r.lastIndex())
		}
	}
	return "it was told to and did not win in time"
}

func (r *Replica) lastIndex() uint64 {
	last, err := r.cfg.Log.LastIndex()
	if err != nil {
		return 0
	}
	return last
}

// observeTransfer sees how a hand-over ended.
func (r *Replica) observeTransfer() {
	t := r.transfer
	switch {
	case t == nil || r.term == t.term && r.leads():
	case r.lead == t.to:
		r.finishTransfer(nil)
	case r.lead != 0:
		r.endTransfer(fmt.Sprintf("%x leads now", r.lead))
	}
}

func (r *Replica) endTransfer(reason string) {
	if r.transfer != nil {
		r.finishTransfer(r.transferError(r.transfer.to, reason))
	}
}

func (r *Replica) finishTransfer(err error) {
	if t := r.transfer; t != nil {
		r.transfer = nil
		for _, done := range t.done {
			done(err)
		}
	}
}
