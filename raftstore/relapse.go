package raftstore

import (
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// A replica that was removed, put away and added again begins with nothing. An acknowledgement of its former life that
// arrives only then makes the leader believe that it has what it lacks. No commit depends on that: it is a learner,
// and what it acknowledged was decided before it was added again. But raft never lowers what it believes a follower
// has: every append would be refused, for as long as this leader leads. So it hands over; the next one asks anew.

// minDenials and denialTimeouts (election timeouts) is how often and for how long, without an append taken between, a
// follower denies what it acknowledged before its leader gives up. Refusals that were merely late are fewer.
const (
	minDenials     = 8
	denialTimeouts = 3
)

// denial is a follower that refuses appends and says that it has less than it acknowledged.
type denial struct {
	since uint64 // tick
	count int
}

// noteAppended takes notice of a follower's answer to an append, before raft does.
func (r *Replica) noteAppended(m *pb.Message) {
	from := m.GetFrom()
	if !m.GetReject() {
		delete(r.denials, from)
		return
	}
	if r.role != raft.StateLeader || m.GetTerm() != r.term {
		return
	}
	match := uint64(0)
	r.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == from {
			match = pr.Match
		}
	})
	if m.GetRejectHint() >= match {
		return
	}
	d, ok := r.denials[from]
	if !ok {
		d.since = r.ticks
	}
	d.count++
	r.denials[from] = d
	if d.count < minDenials || r.ticks-d.since < uint64(denialTimeouts*r.cfg.ElectionTicks) || r.transfer != nil {
		return
	}
	if best := r.mostAdvanced(nil); best.RaftID != 0 {
		r.cfg.Logger.Warningf("%x denies having entries up to %d, which it acknowledged: %x shall lead, and ask it anew", from, match, best.RaftID)
		delete(r.denials, from)
		r.TransferLeader(best.RaftID, func(error) {}) // what follows is another denial, and another attempt
	}
}

// mostAdvanced is the voter that answers and has most of the log, but for those that are excluded; RaftID 0 without one.
func (r *Replica) mostAdvanced(excluded func(id uint64) bool) FollowerStatus {
	best := FollowerStatus{}
	for _, f := range r.followers() {
		if f.Active && slices.Contains(r.confState.GetVoters(), f.RaftID) && (excluded == nil || !excluded(f.RaftID)) &&
			(best.RaftID == 0 || f.Match > best.Match) {
			best = f
		}
	}
	return best
}
