package ledger

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// ReplicationFactor is how many voters a shard has when there are nodes
// enough.
const ReplicationFactor = 3

// minMembers are left when a node is removed: a shard is never reduced below
// two voters.
const minMembers = 2

// maxInvites bounds the nodes that are admitted and have not come.
const maxInvites = 64

// MemberState is where a node stands in the cluster. Numbers are part of the
// codec.
type MemberState uint8

// The states of a member. One that was retired is in the registry of the
// removed and is no member.
const (
	MemberJoining  MemberState = iota + 1 // a learner of the control shard
	MemberActive                          // gets replicas
	MemberDraining                        // its replicas move away
	MemberRemoving                        // the same, and then it leaves for good
)

var memberStateNames = []string{"", "joining", "member", "draining", "removing"}

func (s MemberState) String() string { return word(memberStateNames, uint8(s)) }

// Member is a node's place in the cluster.
type Member struct {
	RaftID      uint64
	NodeID      string
	State       MemberState
	SinceMillis int64 // when it came to that state
}

// Invite is an admitted node that has not come yet.
type Invite struct {
	NodeID, PeerAddr, By string
	SinceMillis          int64
}

// Placement says where a shard's replicas belong. Epoch grows with each
// change. The first voter should lead.
type Placement struct {
	Shard            uint32
	Epoch            uint64
	Voters, Learners []uint64
}

// membership is the part of Control about nodes and where shards live.
type membership struct {
	members    []Member      // by raft ID
	invites    []Invite      // by node ID
	placements []Placement   // by shard, all of them or none
	retired    []RemovedNode // by node ID
}

// RemovedNode is an identity that never returns.
type RemovedNode struct {
	NodeID string
	RaftID uint64
}

// Members are the nodes of the cluster, by raft ID; none before placement
// began.
func (c *Control) Members() []Member { return slices.Clone(c.members) }

// Member is one node of the cluster.
func (c *Control) Member(raftID uint64) (Member, bool) {
	if i, ok := c.memberAt(raftID); ok {
		return c.members[i], true
	}
	return Member{}, false
}

// Invites are the admitted nodes that have not come, by node ID.
func (c *Control) Invites() []Invite { return slices.Clone(c.invites) }

// Retired are the identities of removed nodes, by node ID.
func (c *Control) Retired() []RemovedNode { return slices.Clone(c.retired) }

// IsRemoved says that a raft identity was removed and never returns.
func (c *Control) IsRemoved(raftID uint64) bool { return c.isRemoved(raftID) }

// Placements say where shards belong, by shard. The slices in them are shared
// and read only.
func (c *Control) Placements() []Placement { return slices.Clone(c.placements) }

func (c *Control) memberAt(raftID uint64) (int, bool) {
	return slices.BinarySearchFunc(c.members, raftID, func(m Member, id uint64) int { return cmp.Compare(m.RaftID, id) })
}

func (c *Control) inviteAt(nodeID string) (int, bool) {
	return slices.BinarySearchFunc(c.invites, nodeID, func(v Invite, id string) int { return strings.Compare(v.NodeID, id) })
}

func (c *Control) retiredAt(nodeID string) (int, bool) {
	return slices.BinarySearchFunc(c.retired, nodeID, func(v RemovedNode, id string) int { return strings.Compare(v.NodeID, id) })
}

// active counts the full members, one left out.
func (c *Control) active(without uint64) (n int) {
	for i := range c.members {
		if c.members[i].State == MemberActive && c.members[i].RaftID != without {
			n++
		}
	}
	return n
}

// inTheWay is a member that leaves, so that another must not begin to; 0 for
// none. One removal is not in the way of another: of two nodes that died, each
// may be placed what the other held, and would keep it from leaving for ever.
func (c *Control) inTheWay(of uint64, to MemberState) uint64 {
	for i := range c.members {
		if m := &c.members[i]; m.RaftID != of && (m.State == MemberDraining || m.State == MemberRemoving && to != MemberRemoving) {
			return m.RaftID
		}
	}
	return 0
}

func (c *Control) putMember(m Member) {
	if i, ok := c.memberAt(m.RaftID); ok {
		c.members[i] = m
	} else {
		c.members = slices.Insert(c.members, i, m)
	}
	c.touch(rowMember, raftName(m.RaftID))
}

// Rows of the membership, beside those in control_rows.go:
//
//	'm' raft ID u64 BE  a member: raft ID, node ID, state u8, since
//	'i' node ID         an admitted node: node ID, peer address, by, since
//	'p' shard u32 BE    a placement: epoch, voters, learners
//	'y' node ID         a retired identity: node ID, raft ID
const (
	rowMember    = 'm'
	rowInvite    = 'i'
	rowPlacement = 'p'
	rowRetired   = 'y'
)

func shardRow(shard uint32) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], shard)
	return string(b[:])
}

func (m *Member) append(dst []byte) []byte {
	dst = appendString(appendUint(dst, m.RaftID), m.NodeID)
	return appendInt(append(dst, uint8(m.State)), m.SinceMillis)
}

func (v *Invite) append(dst []byte) []byte {
	return appendInt(appendString(appendString(appendString(dst, v.NodeID), v.PeerAddr), v.By), v.SinceMillis)
}

func (p *Placement) append(dst []byte) []byte {
	return appendRaftIDs(appendRaftIDs(appendUint(dst, p.Epoch), p.Voters), p.Learners)
}

// memberRow encodes a row of the membership; nil when it is no more.
func (c *Control) memberRow(b []byte, d rowName) []byte {
	switch d.prefix {
	case rowMember:
		if i, ok := c.memberAt(binary.BigEndian.Uint64([]byte(d.name))); ok {
			return c.members[i].append(b)
		}
	case rowInvite:
		if i, ok := c.inviteAt(d.name); ok {
			return c.invites[i].append(b)
		}
	case rowPlacement:
		if shard := binary.BigEndian.Uint32([]byte(d.name)); int(shard) < len(c.placements) {
			return c.placements[shard].append(b)
		}
	case rowRetired:
		if i, ok := c.retiredAt(d.name); ok {
			return appendUint(appendString(b, c.retired[i].NodeID), c.retired[i].RaftID)
		}
	}
	return nil
}

// restoreMemberRow reads a row of the membership and says whose it is.
func (c *Control) restoreMemberRow(prefix byte, r *reader) (name string) {
	switch prefix {
	case rowMember:
		m := Member{RaftID: r.uint(), NodeID: r.string(), State: MemberState(r.u8()), SinceMillis: r.int()}
		if m.State < MemberJoining || m.State > MemberRemoving {
			r.fail("no such state of a member")
		}
		c.members = append(c.members, m)
		return raftName(m.RaftID)
	case rowInvite:
		v := Invite{NodeID: r.string(), PeerAddr: r.string(), By: r.string(), SinceMillis: r.int()}
		c.invites = append(c.invites, v)
		return v.NodeID
	case rowPlacement:
		p := Placement{Shard: uint32(len(c.placements)), Epoch: r.uint(), Voters: readRaftIDs(r), Learners: readRaftIDs(r)}
		c.placements = append(c.placements, p)
		return shardRow(p.Shard)
	case rowRetired:
		v := RemovedNode{NodeID: r.string(), RaftID: r.uint()}
		c.retired = append(c.retired, v)
		return v.NodeID
	}
	r.fail("not a row of the control shard")
	return ""
}

// digest hashes the membership; it leaves h as it is while there is none.
func (m *membership) digest(h uint64) uint64 {
	var buf []byte
	for i := range m.members {
		buf = m.members[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	for i := range m.invites {
		buf = m.invites[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	for i := range m.placements {
		buf = m.placements[i].append(buf[:0])
		h = hashBytes(h, buf)
	}
	for i := range m.retired {
		h = mix(hashBytes(h, []byte(m.retired[i].NodeID)), m.retired[i].RaftID)
	}
	return h
}

// clearMembers forgets the members of a cluster that this one was made of;
// whoever was removed stays removed.
func (c *Control) clearMembers() {
	for i := range c.members {
		c.touch(rowMember, raftName(c.members[i].RaftID))
	}
	for i := range c.invites {
		c.touch(rowInvite, c.invites[i].NodeID)
	}
	for i := range c.placements {
		c.touch(rowPlacement, shardRow(uint32(i)))
	}
	c.members, c.invites, c.placements = nil, nil, nil
}

func (p *Placement) String() string {
	return fmt.Sprintf("epoch %d, voters %x, learners %x", p.Epoch, p.Voters, p.Learners)
}
