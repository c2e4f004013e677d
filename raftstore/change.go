package raftstore

import (
	"encoding/binary"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// MaxReplicas bounds the voters and learners of one shard.
const MaxReplicas = 15

// maxPromoteLag is how many entries a learner may lack and still be made a voter: what is in flight under load. One
// that lacks more would hold up commits if another voter failed just then.
const maxPromoteLag = 64

// minVoters are never gone below: the last two hold each other up. When one of two is removed, the other may restart
// without knowing that the change was committed, and then waits for a vote that nobody can give any more.
const minVoters = 2

// ChangeKind says what a Change does.
type ChangeKind uint8

// The changes. A replica begins as a learner, which gets the log and has no vote.
const (
	AddLearner ChangeKind = iota + 1
	Promote
	Remove
)

func (k ChangeKind) String() string {
	switch k {
	case AddLearner:
		return "add learner"
	case Promote:
		return "promote"
	case Remove:
		return "remove"
	}
	return fmt.Sprintf("change %d", uint8(k))
}

// Change is one step of a shard's membership.
type Change struct {
	Kind   ChangeKind
	RaftID uint64
}

// ChangeError refuses a change; nothing was changed.
type ChangeError struct {
	Shard  uint32
	Change Change
	Reason string
}

func (e *ChangeError) Error() string {
	return fmt.Sprintf("raftstore: shard %d: %v %x: %s", e.Shard, e.Change.Kind, e.Change.RaftID, e.Reason)
}

// changeContextBytes mark a change as the proposer's own: raft turns a change that it refuses into an empty entry
// without a word, so the entry itself has to say whose it is.
const changeContextBytes = 16

// pendingChange is the one change this replica proposed and whose fate is open.
type pendingChange struct {
	change      Change
	done        func(index uint64, err error)
	proposed    bool
	seq         uint64
	index, term uint64 // 0: not in the log yet
	orphanTicks int
}

// ProposeChange asks for one change of the group's members; done runs in Process: with the index of its entry once it
// is applied here, or with a *ChangeError, ErrChangePending or *NotLeaderError (certainly not done), or ErrUnknown.
func (r *Replica) ProposeChange(c Change, done func(index uint64, err error)) {
	if r.change != nil {
		done(0, ErrChangePending)
		return
	}
	r.change = &pendingChange{change: c, done: done}
}

// proposeChange takes the decision right before the entry is made, so that nothing comes between them.
func (r *Replica) proposeChange() {
	p := r.change
	if p == nil || p.proposed {
		return
	}
	if err := r.refuseChange(p.change); err != nil {
		r.endChange(0, err)
		return
	}
	p.proposed, p.seq = true, r.pending.nextSeq()
	own := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, r.cfg.ID), p.seq)
	kind := map[ChangeKind]pb.ConfChangeType{AddLearner: pb.ConfChangeAddLearnerNode, Promote: pb.ConfChangeAddNode, Remove: pb.ConfChangeRemoveNode}[p.change.Kind]
	cc := &pb.ConfChangeV2{Context: own, Changes: []*pb.ConfChangeSingle{{Type: kind.Enum(), NodeId: new(p.change.RaftID)}}}
	if err := r.rn.ProposeConfChange(cc); err != nil {
		r.endChange(0, &NotLeaderError{Shard: r.cfg.Shard}) // leadership is being handed over
	}
}

func (r *Replica) refuseChange(c Change) error {
	switch {
	case !r.leads():
		return r.notLeader()
	case r.ledTerm != r.term:
		return ErrChangePending // a change of an earlier leader may be in the entries not applied yet
	}
	if why := r.changeFlaw(c); why != "" {
		return &ChangeError{Shard: r.cfg.Shard, Change: c, Reason: why}
	}
	return nil
}

// changeFlaw says why a change must not be made, "" if it may.
func (r *Replica) changeFlaw(c Change) string {
	voters, learners := r.confState.GetVoters(), r.confState.GetLearners()
	voter, learner := slices.Contains(voters, c.RaftID), slices.Contains(learners, c.RaftID)
	switch {
	case c.RaftID == 0 || c.RaftID >= 1<<63:
		return "not a raft ID"
	case c.Kind == AddLearner && voter:
		return "it is a voter already"
	case c.Kind == AddLearner && learner:
		return "it is a learner already"
	case c.Kind == AddLearner && len(voters)+len(learners) >= MaxReplicas:
		return fmt.Sprintf("the shard has %d replicas, the most there may be", MaxReplicas)
	case c.Kind == Promote && voter:
		return "it is a voter already"
	case c.Kind == Promote && !learner:
		return "it is not a learner"
	case c.Kind == Promote:
		return r.notCaughtUp(c.RaftID)
	case c.Kind == Remove && !voter && !learner:
		return "it is not a replica of the shard"
	case c.Kind == Remove && c.RaftID == r.cfg.ID:
		return "it leads the shard: hand the leadership over first"
	case c.Kind == Remove && voter && len(voters) <= minVoters:
		return fmt.Sprintf("it is one of the last %d voters: add another first", minVoters)
	case c.Kind == Remove && voter:
		if live, need := r.liveVoters(c.RaftID), (len(voters)-1)/2+1; live < need {
			return fmt.Sprintf("without it %d voters are reachable, %d are needed", live, need)
		}
	case c.Kind != Remove && c.Kind != AddLearner:
		return "no such change"
	}
	return ""
}

// notCaughtUp says what a learner lacks, "" if nothing that matters.
func (r *Replica) notCaughtUp(id uint64) string {
	last, err := r.cfg.Log.LastIndex()
	if err != nil {
		return err.Error()
	}
	for _, f := range r.followers() {
		if f.RaftID != id {
			continue
		}
		switch {
		case !f.Active:
			return "it does not answer"
		case f.Snapshot || f.Match+maxPromoteLag < last:
			return fmt.Sprintf("it has not caught up: it has the log up to %d of %d", f.Match, last)
		}
		return ""
	}
	return "it is not known"
}

// liveVoters counts the voters that answer, this one included and one left out.
func (r *Replica) liveVoters(without uint64) int {
	live := 1
	for _, f := range r.followers() {
		if f.Active && f.RaftID != without && slices.Contains(r.confState.GetVoters(), f.RaftID) {
			live++
		}
	}
	return live
}

func (r *Replica) endChange(index uint64, err error) {
	if p := r.change; p != nil {
		r.change = nil
		p.done(index, err)
	}
}

// assignChange finds the entry that a change became. If there is none, raft refused it.
func (r *Replica) assignChange(entries []*pb.Entry) {
	p := r.change
	if p == nil || !p.proposed || p.index != 0 {
		return
	}
	for _, e := range entries {
		var cc pb.ConfChangeV2
		if e.GetType() != pb.EntryConfChangeV2 || proto.Unmarshal(e.GetData(), &cc) != nil {
			continue
		}
		if own := cc.GetContext(); len(own) == changeContextBytes && binary.LittleEndian.Uint64(own) == r.cfg.ID && binary.LittleEndian.Uint64(own[8:]) == p.seq {
			p.index, p.term = e.GetIndex(), e.GetTerm()
			return
		}
	}
	r.endChange(0, ErrChangePending)
}

// settleChange answers a change whose index was just applied: it is the entry that was proposed, or it is lost.
func (r *Replica) settleChange(index, term uint64) {
	p := r.change
	switch {
	case p == nil || p.index == 0 || p.index > index:
	case p.index == index && p.term == term:
		r.endChange(index, nil)
	case p.index == index:
		r.endChange(0, r.notLeader())
	}
}

// overtakeChange: a snapshot was installed. Whether a change at or before it is in there is not known.
func (r *Replica) overtakeChange() {
	if p := r.change; p != nil && p.index != 0 && p.index <= r.applied {
		r.endChange(p.index, ErrUnknown)
	}
}

// stopChange answers what is open when the replica stops.
func (r *Replica) stopChange() {
	if p := r.change; p != nil && !p.proposed {
		r.endChange(0, ErrStopped)
	}
	r.endChange(0, ErrUnknown)
}

// tickChange gives up a change that a lost leadership left open.
func (r *Replica) tickChange() {
	p := r.change
	if p == nil || r.leads() {
		return
	}
	if p.orphanTicks++; p.orphanTicks > 2*r.cfg.ElectionTicks {
		r.endChange(p.index, ErrUnknown)
	}
}

// applyChange applies a configuration change of the log.
func (r *Replica) applyChange(e *pb.Entry) error {
	var cc pb.ConfChangeV2
	if e.GetType() == pb.EntryConfChange {
		var v1 pb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &v1); err != nil {
			return fmt.Errorf("%v: %w", err, ErrCorrupt)
		}
		r.confState = r.rn.ApplyConfChange(v1.AsV2())
	} else {
		if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
			return fmt.Errorf("%v: %w", err, ErrCorrupt)
		}
		r.confState = r.rn.ApplyConfChange(&cc)
	}
	r.confChanged = true
	return nil
}

// silent: this replica promised more than it still has. Its data was put away after it had been removed from the
// group, and it came back as a learner; until it has what it once acknowledged again, a vote of it could help a
// candidate to win that lacks what was committed with its help.
func (r *Replica) silent() bool { return r.applied < r.cfg.SilentUntil }
