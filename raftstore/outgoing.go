package raftstore

import pb "go.etcd.io/raft/v3/raftpb"

// raft answers each append, also one that only tells the commit index, and tells each follower of each commit at once.
// At some thousand commands a second these messages are most of what peers say to one another, and each costs wake-ups
// and system calls on both sides. Those that say nothing new stay here. raft loses nothing by it: it repeats after a
// heartbeat whatever got lost.

// acknowledged is the last success told to a peer.
type acknowledged struct {
	term, index, tick uint64
}

// sendAll sends what others do not make superfluous.
func (r *Replica) sendAll(messages []*pb.Message) {
	for i, m := range messages {
		if !superseded(m, messages[i+1:]) {
			r.send(m)
		}
	}
}

// superseded: a later message to the same peer says the same and more.
func superseded(m *pb.Message, later []*pb.Message) bool {
	switch m.GetType() {
	case pb.MsgApp:
		if len(m.GetEntries()) > 0 {
			return false
		}
	case pb.MsgAppResp:
		if m.GetReject() {
			return false
		}
	default:
		return false
	}
	for _, n := range later {
		if n.GetTo() == m.GetTo() && n.GetType() == m.GetType() && n.GetTerm() == m.GetTerm() && !n.GetReject() &&
			n.GetIndex() >= m.GetIndex() && n.GetCommit() >= m.GetCommit() {
			return true
		}
	}
	return false
}

// send passes a message on, unless it repeats a success told in this tick. After a tick it may be told again: the first
// one may not have arrived.
func (r *Replica) send(m *pb.Message) {
	if m.GetType() == pb.MsgAppResp && !m.GetReject() {
		a := acknowledged{m.GetTerm(), m.GetIndex(), r.ticks}
		last := r.acked[m.GetTo()]
		if last.term == a.term && last.tick == a.tick && last.index >= a.index {
			return
		}
		r.acked[m.GetTo()] = a
	}
	r.cfg.Send(m)
}
