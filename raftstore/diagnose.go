package raftstore

import (
	"context"
	"time"

	"go.etcd.io/raft/v3"
)

// Diagnosis is why a shard may have no leader, as its replica here sees it.
type Diagnosis struct {
	Shard              uint32
	State              string // of raft: StateFollower, StatePreCandidate, StateCandidate, StateLeader
	Term, Vote, Leader uint64
	Last, Commit       uint64 // index of the last entry in the log here, and known to be committed
	Applied            uint64
	Voters             []uint64
	LeaderlessTicks    int // since no leader is known
	Campaigns          int // early campaigns still planned
	Silent             bool
	SilentUntil        uint64        // has no part in elections before it applied that index
	HeldRequests       int           // requests for votes that wait for the log
	HeldTicks          uint64        // how long the oldest of them does
	Heard              []HeardFrom   // since no leader is known; by peer
	Installing         bool          // a snapshot is being installed or waits for that
	DiskStalled        bool          // a log write takes too long, or did lately
	DiskPending        time.Duration // how long the log write that is waited for has been on its way
	Transferring       uint64        // to whom leadership is being handed over
	Waiting            int           // commands queued
}

// HeardFrom is the last message of a peer.
type HeardFrom struct {
	RaftID   uint64
	Type     string
	Term     uint64
	TicksAgo uint64
}

// heardMessage is what is noted of it.
type heardMessage struct {
	kind       string
	term, tick uint64
}

// votesHeld counts requests for votes whose term is not on the disk yet.
type votesHeld struct {
	n     int
	since uint64 // tick
}

// holdVotes: a candidacy waits for its term to be durable. The function says that it is.
func (r *Replica) holdVotes(n int) (release func()) {
	if r.held.n == 0 {
		r.held.since = r.ticks
	}
	r.held.n += n
	return func() { r.held.n -= n }
}

func (r *Replica) diagnose() Diagnosis {
	st := r.rn.BasicStatus()
	d := Diagnosis{
		Shard: r.cfg.Shard, State: st.RaftState.String(), Term: st.HardState.GetTerm(), Vote: st.HardState.GetVote(), Leader: st.Lead,
		Last: r.lastIndex(), Commit: st.HardState.GetCommit(), Applied: r.applied, Voters: r.confState.GetVoters(),
		LeaderlessTicks: r.leaderless, Campaigns: r.campaign.attempts, Silent: r.silent(), SilentUntil: r.cfg.SilentUntil,
		HeldRequests: r.held.n, Waiting: r.queue.len(),
	}
	if r.held.n > 0 {
		d.HeldTicks = r.ticks - r.held.since
	}
	if r.transfer != nil {
		d.Transferring = r.transfer.to
	}
	if r.role == raft.StateLeader {
		for _, f := range r.followers() {
			if at, ok := r.heard[f.RaftID]; ok {
				d.Heard = append(d.Heard, HeardFrom{RaftID: f.RaftID, Type: "answer", TicksAgo: r.ticks - at})
			}
		}
		return d
	}
	for _, id := range r.confState.GetVoters() {
		if m, ok := r.spoke[id]; ok {
			d.Heard = append(d.Heard, HeardFrom{RaftID: id, Type: m.kind, Term: m.term, TicksAgo: r.ticks - m.tick})
		}
	}
	return d
}

// Diagnose says where a replica stands and what may keep its shard from having a leader. It waits for the shard's
// engine: one that does not answer before ctx ends is stuck.
func (s *Store) Diagnose(ctx context.Context, shard uint32) (Diagnosis, error) {
	sh, err := s.running(shard)
	if err != nil {
		return Diagnosis{}, err
	}
	d, err := ask(ctx, sh, func(answer func(Diagnosis, error)) {
		d := sh.replica.diagnose()
		d.Installing = sh.detached || sh.arrived != nil
		answer(d, nil)
	})
	h := s.DiskHealth()
	d.Shard, d.DiskStalled, d.DiskPending = shard, h.Stalled, h.Pending
	return d, err
}
