package form

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Errors of Load, Create and Open that callers branch on.
var (
	ErrNoIdentity = errors.New("form: no identity in this directory")
	ErrCorrupt    = errors.New("form: identity file is damaged")
	ErrNodeID     = errors.New("form: data directory belongs to another node ID")
	ErrCluster    = errors.New("form: data directory belongs to another cluster")
)

// ID identifies a cluster: 16 random bytes, drawn by its first coordinator.
type ID [16]byte

// ParseID parses the hexadecimal form.
func ParseID(s string) (ID, error) {
	var id ID
	err := id.UnmarshalText([]byte(s))
	return id, err
}

// IsZero reports whether no cluster is meant.
func (id ID) IsZero() bool { return id == ID{} }

// String is 32 hexadecimal digits, or "" for none.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// MarshalText renders String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText parses String.
func (id *ID) UnmarshalText(b []byte) error {
	*id = ID{}
	if len(b) == 0 {
		return nil
	}
	if len(b) != 2*len(id) {
		return fmt.Errorf("form: cluster ID %q is not %d hexadecimal digits", b, 2*len(id))
	}
	if _, err := hex.Decode(id[:], b); err != nil {
		return fmt.Errorf("form: cluster ID %q: %w", b, err)
	}
	return nil
}

// Voter is a founding member of a cluster.
type Voter struct {
	RaftID   uint64 `json:"raft_id,string"`
	NodeID   string `json:"node_id"`
	PeerAddr string `json:"peer_addr"`
}

// Promise binds a node to one bootstrap until its coordinator's decision is known.
type Promise struct {
	ClusterID   ID      `json:"cluster_id"`
	Coordinator uint64  `json:"coordinator,string"`
	Shards      uint32  `json:"shards"`
	Voters      []Voter `json:"voters"`
}

// Identity is who a node is, for ever, and which cluster it is part of.
type Identity struct {
	NodeID      string   `json:"node_id"`
	RaftID      uint64   `json:"raft_id,string"`
	Cluster     string   `json:"cluster"`
	ClusterID   ID       `json:"cluster_id"` // zero until formed or joined
	Shards      uint32   `json:"shards,omitempty"`
	Voters      []Voter  `json:"voters,omitempty"`
	Joined      bool     `json:"joined,omitempty"` // a gateway: not among Voters
	Promise     *Promise `json:"promise,omitempty"`
	Incarnation uint64   `json:"incarnation"` // grows with each Open
}

// formed reports whether the node is part of a cluster, as voter or gateway.
func (id *Identity) formed() bool { return !id.ClusterID.IsZero() }

// outcome is what a formed identity says.
func (id *Identity) outcome() Outcome {
	return Outcome{ClusterID: id.ClusterID, Shards: id.Shards, Voters: slices.Clone(id.Voters), Joined: id.Joined}
}
