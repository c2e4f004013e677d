package raftstore

import (
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// A leader tells its followers of a commit in the next append, or in an append without entries. At low rates most
// appends are of the second kind: a frame to each follower, a turn of its engine and a batch applied, for news that
// nobody waits for and that the next command brings along. So these are held for announceAfter; the next append with
// entries takes their place.
//
// Three nodes, 2,000 lifecycles a second: 2,580 such messages a second for 3,470 with entries.
const announceAfter = time.Millisecond

// announcements holds, by peer, the last append without entries that was not sent.
type announcements map[uint64]*pb.Message

// take says whether m is held, and lets go of what m makes superfluous.
func (a announcements) take(m *pb.Message) (held bool) {
	if m.GetType() != pb.MsgApp {
		return false
	}
	if len(m.GetEntries()) > 0 {
		delete(a, m.GetTo())
		return false
	}
	a[m.GetTo()] = m
	return true
}

// announce sends what is held. It runs on the engine's goroutine.
func (e *engine) announce() {
	e.announcing = false
	for _, s := range e.shards {
		if s.detached {
			continue
		}
		for to, m := range s.held {
			delete(s.held, to)
			if m.GetTerm() == s.replica.term {
				s.transmit(m)
			}
		}
	}
}

// Announce has a shard's followers told of what is committed now, if it is led here: somebody waits for it there.
func (s *Store) Announce(shard uint32) {
	if sh, err := s.running(shard); err == nil {
		e := s.env.engine(sh.id)
		e.post(e.announce)
	}
}

// armAnnounce has announce run soon.
func (e *engine) armAnnounce() {
	if !e.announcing {
		e.announcing = true
		e.announcer.Reset(announceAfter)
	}
}

// Each shard's heartbeats have a phase of their own, from when its leader was elected: with some shards led here, hardly
// a tick passes without one to somebody. They are held for the tick that is every shard's, so that they share a frame,
// and a wake-up on both sides: no later than HeartbeatTicks-1 ticks, and as often as before. Those that a read waits for
// are not held. What answers them is held in the same way while nothing happens, and goes with the heartbeats of the shards
// led here: a third of the frames of idle nodes. Not before, because an answer is also how a leader learns that what it
// sent got lost.

// quietTicks without entries, and answers to heartbeats are held.
const quietTicks = 20

// heartbeats are what a shard sends when its process's beat is due.
type heartbeats struct {
	held, answers map[uint64]*pb.Message // by peer
	due           bool
	quiet         int // ticks since entries came
}

// take says whether m is held. One that a read waits for is not.
func (h *heartbeats) take(m *pb.Message) bool {
	if len(m.GetContext()) > 0 {
		return false
	}
	switch m.GetType() {
	case pb.MsgHeartbeat:
		h.held[m.GetTo()] = m
		return true
	case pb.MsgHeartbeatResp:
		if h.quiet >= quietTicks {
			h.answers[m.GetTo()] = m
			return true
		}
	}
	return false
}

// sendBeats sends the heartbeats, if they are due.
func (s *shard) sendBeats() {
	if !s.beats.due {
		return
	}
	s.beats.due = false
	for _, held := range []map[uint64]*pb.Message{s.beats.held, s.beats.answers} {
		for to, m := range held {
			delete(held, to)
			if m.GetTerm() == s.replica.term {
				s.transmit(m)
			}
		}
	}
}
