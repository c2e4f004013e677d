package raftstore

import (
	"math"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// A broken connection to the leader is a better sign of its death than silence, so followers look for a new leader
// at once. Two of them doing that in the same moment would split the vote; they are ranked instead, and the rank
// rotates with the shard so that the leaderships of a dead process do not all go to the same survivor. Pre-votes
// change nothing when the leader is in fact alive.
const (
	campaignStaggerTicks = 3 // between one rank and the next
	campaignRetryTicks   = 2 // others may learn of the broken connection a little later
)

// campaignPlan is a sequence of early campaigns; its zero value plans none.
type campaignPlan struct {
	wait     int // ticks until the next one
	attempts int // left
}

// PeerDown says that the connection to a peer broke.
func (r *Replica) PeerDown(id uint64) {
	delete(r.acked, id) // what was on its way is lost
	if r.role == raft.StateLeader {
		r.rn.ReportUnreachable(id)
		delete(r.heard, id)
		return
	}
	if r.lead != id {
		return
	}
	// It can only be refused in the lease-based read mode, which is not used.
	_ = r.rn.ForgetLeader()
	r.planCampaign(id)
}

// SeekLeader plans early campaigns at start, ranked as after PeerDown, so that fresh groups need not sit out an
// election timeout and their leaders are spread.
func (r *Replica) SeekLeader() { r.planCampaign(0) }

func (r *Replica) planCampaign(without uint64) {
	voters := slices.Clone(r.confState.GetVoters())
	slices.Sort(voters)
	voters = slices.DeleteFunc(voters, func(id uint64) bool { return id == without })
	me := slices.Index(voters, r.cfg.ID)
	if me < 0 || r.silent() {
		return
	}
	rank := (me + len(voters) - int(r.cfg.Shard)%len(voters)) % len(voters)
	r.campaign = campaignPlan{wait: rank * campaignStaggerTicks, attempts: r.cfg.ElectionTicks / campaignRetryTicks}
	if rank == 0 {
		r.tryCampaign()
	}
}

func (r *Replica) tickCampaign() {
	if r.campaign.attempts == 0 {
		return
	}
	if r.campaign.wait--; r.campaign.wait <= 0 {
		r.tryCampaign()
	}
}

func (r *Replica) tryCampaign() {
	r.campaign.attempts--
	r.campaign.wait = campaignRetryTicks
	st := r.rn.BasicStatus()
	// A real candidacy is not restarted: that would raise the term once more.
	if st.Lead == 0 && (st.RaftState == raft.StateFollower || st.RaftState == raft.StatePreCandidate) {
		_ = r.rn.Campaign() // refused while configuration changes wait to be applied; the next attempt may do
	}
}

// followers lists what a leader knows about the others, by ID.
func (r *Replica) followers() []FollowerStatus {
	var fs []FollowerStatus
	r.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id == r.cfg.ID {
			return
		}
		heard, ok := r.heard[id]
		fs = append(fs, FollowerStatus{
			RaftID: id, Match: pr.Match, Snapshot: pr.State == tracker.StateSnapshot,
			Active: ok && r.ticks-heard <= uint64(2*r.cfg.ElectionTicks),
		})
	})
	slices.SortFunc(fs, func(a, b FollowerStatus) int {
		if a.RaftID < b.RaftID {
			return -1
		}
		return 1
	})
	return fs
}

// slowestActive is the lowest index on the disk of a peer that answers, or MaxUint64 without one. Only a leader knows.
func (r *Replica) slowestActive(tooFarBehind uint64) uint64 {
	slowest := uint64(math.MaxUint64)
	if r.role != raft.StateLeader {
		return slowest
	}
	for _, f := range r.followers() {
		if f.Active && f.Match >= tooFarBehind {
			slowest = min(slowest, f.Match)
		}
	}
	return slowest
}
