package raftstore

import (
	"fmt"
	"sync"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// maxIndex is above any index and term ever reached: 2^62 entries take 146,000 years at a million a second.
const maxIndex = 1 << 62

var commandScratch = sync.Pool{New: func() any { return new([][]byte) }}

// decodeMessage refuses everything that no correct peer sends, as far as the message alone tells: raft panics on
// some of it, and an entry that can't be unpacked would stop every replica when it is applied.
func decodeMessage(self, from uint64, b []byte) (*pb.Message, error) {
	m := new(pb.Message)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrMalformed)
	}
	bad := func(what string) (*pb.Message, error) {
		return nil, fmt.Errorf("%v from %x: %s: %w", m.GetType(), from, what, ErrMalformed)
	}
	switch m.GetType() {
	case pb.MsgApp, pb.MsgAppResp, pb.MsgVote, pb.MsgVoteResp, pb.MsgPreVote, pb.MsgPreVoteResp,
		pb.MsgHeartbeat, pb.MsgHeartbeatResp, pb.MsgTimeoutNow:
	default:
		return bad("not a message between peers")
	}
	switch {
	case m.Type == nil:
		return bad("no type")
	case m.GetFrom() != from || from == 0:
		return bad(fmt.Sprintf("it says it is from %x", m.GetFrom()))
	case m.GetTo() != self:
		return bad(fmt.Sprintf("it is for %x", m.GetTo()))
	case m.GetTerm() == 0:
		return bad("no term")
	case max(m.GetTerm(), m.GetIndex(), m.GetLogTerm(), m.GetCommit(), m.GetRejectHint()) >= maxIndex:
		return bad("a number out of range")
	case m.GetSnapshot() != nil || len(m.GetResponses()) > 0:
		return bad("a part it must not have")
	case m.GetType() != pb.MsgApp && len(m.GetEntries()) > 0:
		return bad("entries")
	case m.GetType() == pb.MsgHeartbeatResp && len(m.GetContext()) != 0 && len(m.GetContext()) != 8:
		return bad("a context of another size")
	}
	term, index := m.GetLogTerm(), m.GetIndex()
	for _, e := range m.GetEntries() {
		index++
		if e.GetIndex() != index || e.GetTerm() < term || e.GetTerm() > m.GetTerm() || e.GetTerm() == 0 {
			return bad("entries that do not follow each other")
		}
		term = e.GetTerm()
		if err := checkEntryData(e); err != nil {
			return bad(err.Error())
		}
	}
	return m, nil
}

func checkEntryData(e *pb.Entry) error {
	switch e.GetType() {
	case pb.EntryNormal:
		if len(e.GetData()) == 0 {
			return nil
		}
		scratch := commandScratch.Get().(*[][]byte)
		_, commands, err := unpackEntry(e.GetData(), *scratch)
		clear(commands)
		*scratch = commands
		commandScratch.Put(scratch)
		return err
	case pb.EntryConfChange:
		return proto.Unmarshal(e.GetData(), new(pb.ConfChange))
	case pb.EntryConfChangeV2:
		return proto.Unmarshal(e.GetData(), new(pb.ConfChangeV2))
	}
	return fmt.Errorf("entry type %d", e.GetType())
}

// check refuses what would make raft panic.
func (r *Replica) check(m *pb.Message) error {
	switch m.GetType() {
	case pb.MsgAppResp:
		last, err := r.cfg.Log.LastIndex()
		if err != nil {
			return err
		}
		// Entries are stored in the same Process that proposed them, so a peer can't have more than the log has.
		if r.role == raft.StateLeader && m.GetTerm() == r.term && !m.GetReject() && m.GetIndex() > last {
			return fmt.Errorf("acknowledgement of index %d beyond %d: %w", m.GetIndex(), last, ErrMalformed)
		}
	case pb.MsgHeartbeat:
		last, err := r.cfg.Log.LastIndex()
		if err != nil {
			return err
		}
		if r.silent() && m.GetCommit() > last {
			// Meant for the replica that was put away, or its leader believes it: then it has to be answered (noteAppended).
			m.Commit = &last
		}
		if m.GetTerm() >= r.term && m.GetCommit() > last {
			return fmt.Errorf("leader %x has an acknowledgement by this replica of index %d, but its log ends at %d: entries were lost",
				m.GetFrom(), m.GetCommit(), last)
		}
	}
	return nil
}
