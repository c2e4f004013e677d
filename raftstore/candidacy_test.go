package raftstore

import (
	"testing"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// slowLog is a memLog whose syncs come through when the test says so.
type slowLog struct {
	memLog
	then []func()
}

func (l *slowLog) Sync(then func()) error {
	l.then = append(l.then, then)
	return nil
}

// TestCandidacyIsDurable: no vote is asked for before the candidate's own term and vote are on its disk. Otherwise it
// could win with the votes of the others, crash, and win the same term again.
func TestCandidacyIsDurable(t *testing.T) {
	l := &slowLog{memLog: memLog{raft.NewMemoryStorage()}}
	voters := []uint64{1, 2, 3}
	if err := l.ApplySnapshot(&pb.Snapshot{Metadata: &pb.SnapshotMetadata{
		Index: new(uint64(bootIndex)), Term: new(uint64(bootTerm)), ConfState: &pb.ConfState{Voters: voters}}}); err != nil {
		t.Fatal(err)
	}
	if err := l.SetHardState(&pb.HardState{Term: new(uint64(bootTerm)), Vote: new(uint64(0)), Commit: new(uint64(bootIndex))}); err != nil {
		t.Fatal(err)
	}
	asked := 0
	r, err := NewReplica(ReplicaConfig{
		ID: 1, Log: l, Machine: &scriptNode{out: &scriptGroup{}}, Applied: bootIndex,
		Send: func(m *pb.Message) {
			if m.GetType() == pb.MsgVote {
				asked++
			}
		},
		NowMillis: func() int64 { return 0 }, ElectionTicks: 10, HeartbeatTicks: 1, MaxBatchCommands: 3, MaxBatchBytes: 1000, MaxInflightEntries: 3,
		Logger: &raftLogger{testDiscard},
	})
	if err != nil {
		t.Fatal(err)
	}
	process := func() {
		t.Helper()
		if err := r.Process(); err != nil {
			t.Fatal(err)
		}
	}
	sync := func() {
		for _, then := range l.then {
			then()
		}
		l.then = nil
		process()
	}
	r.SeekLeader()
	process()
	sync() // the pre-vote for itself
	if err := r.Step(&pb.Message{Type: pb.MsgPreVoteResp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(bootTerm + 1))}); err != nil {
		t.Fatal(err)
	}
	process()
	if hs, _, _ := l.InitialState(); hs.GetTerm() != bootTerm+1 || hs.GetVote() != 1 || len(l.then) == 0 {
		t.Fatalf("no candidate: %v, %d syncs", hs, len(l.then))
	}
	if asked != 0 {
		t.Fatalf("%d votes were asked for before the own one was durable", asked)
	}
	if sync(); asked != 2 {
		t.Fatalf("%d votes were asked for", asked)
	}
}
