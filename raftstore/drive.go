package raftstore

import (
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// What a driver of a Replica other than Store needs: where it stands, and the check every message passes on its way in.

// Standing is where a replica stands, as of its last Process.
type Standing struct {
	Term, Leader    uint64 // 0 when no leader is known
	Role            Role
	Ready           bool // leads and has applied an entry of its own term
	Commit, Applied uint64
	AppliedTerm     uint64        // of the entry at Applied
	Conf            *pb.ConfState // as of Applied; not to be changed
}

// Standing says where the replica stands.
func (r *Replica) Standing() Standing {
	return Standing{
		Term: r.term, Leader: r.lead, Role: roleOf(r.role), Ready: r.ledTerm == r.term && r.role == raft.StateLeader,
		Commit: r.commit, Applied: r.applied, AppliedTerm: r.appliedTerm, Conf: r.confState,
	}
}

// DecodeMessage is the check that Store.Step makes of a message from a peer. It keeps nothing of b.
func DecodeMessage(self, from uint64, b []byte) (*pb.Message, error) {
	return decodeMessage(self, from, b)
}
