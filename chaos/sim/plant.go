package sim

import (
	"encoding/binary"

	pb "go.etcd.io/raft/v3/raftpb"
)

// Plant is a mistake made on purpose, to see that the simulation finds it.
type Plant string

// The mistakes.
const (
	PlantNone             Plant = ""
	PlantAckBeforeSync    Plant = "ack-before-sync"     // what a log sync promises is not durable
	PlantHardStateSkipped Plant = "hard-state-skipped"  // term and vote are written with entries only
	PlantVoteForgotten    Plant = "vote-forgotten"      // a crash loses the vote
	PlantAppliedTwice     Plant = "applied-twice"       // a restart applies the checkpoint's last entry again
	PlantTruncateAhead    Plant = "truncate-ahead"      // the log is truncated before the checkpoint is durable
	PlantJournalUnsynced  Plant = "journal-unsynced"    // a checkpoint does not wait for the journal
	PlantInstallHalf      Plant = "install-half"        // a snapshot's log is replaced before its state
	PlantStaleContext     Plant = "stale-read-context"  // all read attempts of a leader share a context
	PlantReadAlone        Plant = "read-without-quorum" // a leader answers reads without asking anybody
	PlantOldTermCommit    Plant = "old-term-commit"     // an entry of an earlier term counts as committed when a majority has it
	PlantTombForgotten    Plant = "tomb-forgotten"      // a replica that comes back after its removal knows nothing of its promises
	PlantApplyDiffers     Plant = "apply-differs"       // a machine decides by something that is not in the log
	PlantVotesUnsaid      Plant = "votes-unsaid"        // a vote that is on the disk is not told to the candidate
	PlantLeaderUntold     Plant = "leader-untold"       // a machine is not told of a leader that raft knows
)

// Plants lists them all.
var Plants = []Plant{
	PlantAckBeforeSync, PlantHardStateSkipped, PlantVoteForgotten, PlantAppliedTwice, PlantTruncateAhead, PlantJournalUnsynced,
	PlantInstallHalf, PlantStaleContext, PlantReadAlone, PlantOldTermCommit, PlantTombForgotten, PlantApplyDiffers,
	PlantVotesUnsaid, PlantLeaderUntold,
}

// disguise changes a message on its way out as a planted mistake would.
func (s *sim) disguise(r *replica, m *pb.Message) {
	switch {
	case s.plant == PlantStaleContext && m.GetType() == pb.MsgHeartbeat && len(m.GetContext()) == 8:
		// The newest attempt's context is noted; on the wire all look alike.
		r.n.context[r.shard] = m.GetContext()
		m.Context = binary.LittleEndian.AppendUint64(nil, 1)
	case s.plant == PlantOldTermCommit && m.GetType() == pb.MsgApp:
		if c := s.check.replicated(r); c > m.GetCommit() {
			m.Commit = new(c)
		}
	}
}

// reveal undoes what disguise did to a context, as a leader would that can't
// tell its attempts apart.
func (s *sim) reveal(r *replica, m *pb.Message) {
	if s.plant == PlantStaleContext && m.GetType() == pb.MsgHeartbeatResp && len(m.GetContext()) == 8 {
		m.Context = r.n.context[r.shard]
	}
}
