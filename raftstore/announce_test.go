package raftstore

import (
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
)

// An append without entries is held until one with entries, or a later one without, takes its place. Nothing else is.
func TestAnnouncementsWait(t *testing.T) {
	a := announcements{}
	empty := func(to, commit uint64) *pb.Message {
		return &pb.Message{Type: new(pb.MsgApp), To: &to, Commit: &commit}
	}
	full := func(to uint64) *pb.Message {
		m := empty(to, 9)
		m.Entries = []*pb.Entry{{}}
		return m
	}
	for i, step := range []struct {
		m    *pb.Message
		held bool
		left int
	}{
		{empty(2, 5), true, 1},
		{empty(3, 5), true, 2},
		{empty(2, 6), true, 2},
		{&pb.Message{Type: new(pb.MsgHeartbeat), To: new(uint64(2))}, false, 2},
		{&pb.Message{Type: new(pb.MsgSnap), To: new(uint64(2))}, false, 2},
		{full(2), false, 1},
		{full(2), false, 1},
		{full(3), false, 0},
	} {
		if held := a.take(step.m); held != step.held || len(a) != step.left {
			t.Errorf("step %d: held %v, %d left; want %v, %d", i, held, len(a), step.held, step.left)
		}
		if i == 2 && a[2].GetCommit() != 6 {
			t.Errorf("the older one is kept: commit %d", a[2].GetCommit())
		}
	}
}
