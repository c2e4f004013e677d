package form

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// messageVersion of requests and answers; others are refused.
const messageVersion = 1

// MaxVoters bounds Expect: a set has to fit a request.
const MaxVoters = 64

// Requests.
const (
	askKind     = "ask"     // what are you?
	prepareKind = "prepare" // promise this bootstrap to me
	queryKind   = "query"   // what became of the bootstrap I promised?
	commitKind  = "commit"  // it is decided: you are a founder
	releaseKind = "release" // it will not happen
)

// Answers.
const (
	freeKind     = "free"     // part of nothing
	promisedKind = "promised" // yes, durably
	busyKind     = "busy"     // promised to Coordinator
	pendingKind  = "pending"  // not decided, or not known here
	abortedKind  = "aborted"  // it never happened and never will; from its coordinator only
	formedKind   = "formed"   // part of ClusterID, whose founders are Voters
	doneKind     = "done"     // noted
	refusedKind  = "refused"  // Code says why
)

// Codes of refusals.
const (
	CodeCluster = "cluster_name_mismatch"
	CodeNodeID  = "node_id_taken"
	codeNode    = "wrong_node"
	codeExpect  = "expect_mismatch"
	codeInvalid = "invalid"
	codeFailed  = "failed"
)

// message is a request or an answer.
type message struct {
	Version     int     `json:"version"`
	Kind        string  `json:"kind"`
	Cluster     string  `json:"cluster"`
	From        uint64  `json:"from,string"`
	FromNode    string  `json:"from_node"`
	To          uint64  `json:"to,string"` // 0 = whoever listens there
	ClusterID   ID      `json:"cluster_id"`
	Coordinator uint64  `json:"coordinator,string"`
	Shards      uint32  `json:"shards,omitempty"`
	Voters      []Voter `json:"voters,omitempty"`
	Code        string  `json:"code,omitempty"`
	Text        string  `json:"text,omitempty"`
}

func (m *message) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic("form: a message does not encode: " + err.Error())
	}
	return b
}

func decodeMessage(b []byte) (message, error) {
	var m message
	if err := strict(b, &m); err != nil {
		return m, err
	}
	if m.Version != messageVersion {
		return m, fmt.Errorf("version %d, want %d", m.Version, messageVersion)
	}
	if m.From == 0 || m.FromNode == "" || len(m.Voters) > MaxVoters {
		return m, errors.New("no sender, or too many voters")
	}
	return m, nil
}

// promise is what a prepare asks for, checked: a set of distinct nodes, me and
// the coordinator among them.
func (m *message) promise(me *Identity) (Promise, error) {
	p := Promise{ClusterID: m.ClusterID, Coordinator: m.From, Shards: m.Shards, Voters: slices.Clone(m.Voters)}
	if p.ClusterID.IsZero() || p.Shards == 0 || m.Coordinator != m.From {
		return p, errors.New("no cluster ID, shards or coordinator")
	}
	raftIDs, nodeIDs := map[uint64]bool{}, map[string]bool{}
	for _, v := range p.Voters {
		if v.RaftID == me.RaftID && v.NodeID != me.NodeID {
			return p, fmt.Errorf("it calls this node %q", v.NodeID)
		}
		raftIDs[v.RaftID], nodeIDs[v.NodeID] = true, true
	}
	if len(raftIDs) != len(p.Voters) || len(nodeIDs) != len(p.Voters) || raftIDs[0] || nodeIDs[""] {
		return p, errors.New("voters are not distinct nodes")
	}
	if !raftIDs[me.RaftID] || !raftIDs[m.From] {
		return p, errors.New("this node or the coordinator is not among the voters")
	}
	return p, nil
}
