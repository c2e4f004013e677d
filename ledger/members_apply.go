package ledger

import (
	"fmt"
	"slices"
)

// What the commands about members do. Every transition that changes who may
// have replicas ends in replan, so placement is always what the members ask
// for; moving reality there is the administrator's, step by step.

func (c *Control) decideMember(x Command) Outcome {
	switch x := x.(type) {
	case *PlacementInit:
		return c.placementInit(x)
	case *NodeAdmit:
		return c.nodeAdmit(x)
	case *NodeUninvite:
		return c.nodeUninvite(x)
	case *NodeJoin:
		return c.nodeJoin((*Node)(x))
	case *NodeState:
		return c.nodeState(x)
	case *NodeRetire:
		return c.nodeRetire(x)
	}
	return invalid("not a command of the control shard")
}

func (c *Control) placementInit(x *PlacementInit) Outcome {
	switch {
	case len(c.members) > 0:
		return Outcome{Replayed: true}
	case c.cluster.Name == "" || len(x.Members) == 0 || len(x.Members) > maxMembers:
		return invalid("placement begins with the members of a cluster that is there")
	}
	for _, id := range x.Members {
		if _, ok := c.nodeAt(id); !ok {
			return invalid(fmt.Sprintf("raft ID %016x is no node of the cluster", id))
		}
	}
	ids := slices.Clone(x.Members)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	for _, id := range ids {
		i, _ := c.nodeAt(id)
		c.putMember(Member{RaftID: id, NodeID: c.nodes[i].NodeID, State: MemberActive, SinceMillis: c.now})
	}
	c.placements = make([]Placement, c.cluster.Shards)
	for shard := range c.placements {
		c.placements[shard] = Placement{Shard: uint32(shard), Voters: slices.Clone(ids)}
	}
	c.replan()
	c.record(Record{Verb: VerbPlacementInit, Detail: fmt.Sprintf("%d members, %d shards, replication factor %d", len(ids), c.cluster.Shards, ReplicationFactor)})
	return Outcome{}
}

// refuseMember records a refusal that somebody may ask about later.
func (c *Control) refuseMember(verb, who, by string, code Code, format string, args ...any) Outcome {
	detail := fmt.Sprintf(format, args...)
	actor := by
	if actor == "" {
		actor = who
	}
	c.record(Record{Verb: VerbRefused, Actor: actor, Code: code, Detail: cut(verb+" of "+who+": "+detail, maxDetailBytes)})
	return Outcome{Code: code, Detail: detail}
}

func (c *Control) nodeAdmit(x *NodeAdmit) Outcome {
	if x.NodeID == "" || max(len(x.NodeID), len(x.PeerAddr), len(x.By)) > maxNameBytes {
		return invalid("an admitted node needs a node ID, and names of a sane length")
	}
	refuse := func(code Code, format string, args ...any) Outcome {
		return c.refuseMember(VerbNodeAdmit, x.NodeID, x.By, code, format, args...)
	}
	if len(c.members) == 0 {
		return invalid("placement has not begun yet")
	}
	if _, gone := c.retiredAt(x.NodeID); gone {
		return refuse(NodeRemoved, "node %s was removed from the cluster and never returns: give the new node another ID", x.NodeID)
	}
	if i := slices.IndexFunc(c.nodes, func(n Node) bool { return n.NodeID == x.NodeID }); i >= 0 {
		return refuse(Exists, "node %s is in the cluster already, with raft ID %016x", x.NodeID, c.nodes[i].RaftID)
	}
	i, known := c.inviteAt(x.NodeID)
	switch {
	case known && c.invites[i].PeerAddr == x.PeerAddr:
		return Outcome{Replayed: true}
	case known:
		return refuse(Exists, "node %s is admitted already, at peer address %q", x.NodeID, c.invites[i].PeerAddr)
	case len(c.invites) >= maxInvites:
		return refuse(MembersBusy, "%d admitted nodes have not come yet: take some back first", maxInvites)
	}
	c.invites = slices.Insert(c.invites, i, Invite{NodeID: x.NodeID, PeerAddr: x.PeerAddr, By: x.By, SinceMillis: c.now})
	c.touch(rowInvite, x.NodeID)
	c.record(Record{Verb: VerbNodeAdmit, Actor: x.By, Detail: cut(fmt.Sprintf("node %s, peer %s", x.NodeID, x.PeerAddr), maxDetailBytes)})
	return Outcome{}
}

func (c *Control) nodeUninvite(x *NodeUninvite) Outcome {
	i, ok := c.inviteAt(x.NodeID)
	switch {
	case max(len(x.NodeID), len(x.By)) > maxNameBytes:
		return invalid("a name is too long")
	case !ok:
		return Outcome{Code: NotFound, Detail: fmt.Sprintf("node %s is not admitted", cut(x.NodeID, maxDetailBytes))}
	}
	c.dropInvite(i)
	c.record(Record{Verb: VerbNodeUninvite, Actor: x.By, Detail: cut("node "+x.NodeID, maxDetailBytes)})
	return Outcome{}
}

func (c *Control) dropInvite(i int) {
	c.touch(rowInvite, c.invites[i].NodeID)
	c.invites = slices.Delete(c.invites, i, i+1)
}

func (c *Control) nodeJoin(n *Node) Outcome {
	if detail := badNode(n); detail != "" {
		return invalid(detail)
	}
	if m, ok := c.Member(n.RaftID); ok && m.NodeID == n.NodeID {
		if at, _ := c.nodeAt(n.RaftID); c.nodes[at] == *n {
			return Outcome{Replayed: true}
		}
		c.putNode(n)
		return Outcome{}
	}
	refuse := func(code Code, format string, args ...any) Outcome { // the node asks again and again: not recorded
		return Outcome{Code: code, Detail: fmt.Sprintf(format, args...)}
	}
	if _, gone := c.retiredAt(n.NodeID); gone || c.isRemoved(n.RaftID) {
		return refuse(NodeRemoved, "this node was removed from the cluster and never returns: start a new one, with another ID and an empty data directory")
	}
	if code := c.claim(n); code != OK {
		return refuse(code, "%s", c.takenBy(n))
	}
	i, ok := c.inviteAt(n.NodeID)
	switch {
	case !ok:
		return refuse(NotAdmitted, "node %s is not admitted: run `quorate node add --node-id %s` on the cluster", n.NodeID, n.NodeID)
	case c.invites[i].PeerAddr != "" && c.invites[i].PeerAddr != n.PeerAddr:
		return refuse(NotAdmitted, "node %s is admitted at peer address %s, not %s", n.NodeID, c.invites[i].PeerAddr, n.PeerAddr)
	}
	c.dropInvite(i)
	c.putNode(n)
	c.putMember(Member{RaftID: n.RaftID, NodeID: n.NodeID, State: MemberJoining, SinceMillis: c.now})
	c.replan()
	c.record(Record{Verb: VerbNodeJoin, Actor: n.NodeID, Detail: cut(fmt.Sprintf("raft ID %016x, peer %s", n.RaftID, n.PeerAddr), maxDetailBytes)})
	return Outcome{}
}

func (c *Control) nodeState(x *NodeState) Outcome {
	if x.State < MemberActive || x.State > MemberRemoving || len(x.By) > maxNameBytes {
		return invalid("no such state of a member, or a name is too long")
	}
	if c.isRemoved(x.RaftID) {
		return Outcome{Code: NodeRemoved, Detail: fmt.Sprintf("raft ID %016x was removed from the cluster", x.RaftID)}
	}
	i, ok := c.memberAt(x.RaftID)
	if !ok {
		return Outcome{Code: NotFound, Detail: fmt.Sprintf("there is no member with raft ID %016x", x.RaftID)}
	}
	m := c.members[i]
	if m.State == x.State {
		return Outcome{Replayed: true}
	}
	if code, detail := c.stateFlaw(&m, x.State); code != OK {
		return c.refuseMember(VerbNodeState+" "+x.State.String(), m.NodeID, x.By, code, "%s", detail)
	}
	from := m.State
	m.State, m.SinceMillis = x.State, c.now
	c.putMember(m)
	c.replan()
	c.record(Record{Verb: VerbNodeState, Actor: x.By, Detail: fmt.Sprintf("node %s: %s to %s", m.NodeID, from, m.State)})
	return Outcome{}
}

// stateFlaw says why a member must not come to a state.
func (c *Control) stateFlaw(m *Member, to MemberState) (Code, string) {
	others := c.active(m.RaftID)
	switch {
	case to == MemberActive: // which also takes draining and removing back, until it has retired
		return OK, ""
	case m.State == MemberJoining && to == MemberDraining:
		return BadState, fmt.Sprintf("node %s has just joined and holds nothing: remove it instead", m.NodeID)
	case m.State == MemberJoining:
		return OK, ""
	case c.inTheWay(m.RaftID, to) != 0:
		i, _ := c.memberAt(c.inTheWay(m.RaftID, to))
		return MembersBusy, fmt.Sprintf("node %s is %s: let it come to its end, or take that back, first", c.members[i].NodeID, c.members[i].State)
	case to == MemberDraining && others < ReplicationFactor:
		return LastMembers, fmt.Sprintf("without node %s there are %d nodes for %d replicas: add another first", m.NodeID, others, ReplicationFactor)
	case others < minMembers:
		return LastMembers, fmt.Sprintf("without node %s there are %d nodes: fewer than %d lose every majority with the next failure; add another first", m.NodeID, others, minMembers)
	}
	return OK, ""
}

func (c *Control) nodeRetire(x *NodeRetire) Outcome {
	if c.isRemoved(x.RaftID) {
		return Outcome{Replayed: true}
	}
	i, ok := c.memberAt(x.RaftID)
	switch {
	case !ok:
		return Outcome{Code: NotFound, Detail: fmt.Sprintf("there is no member with raft ID %016x", x.RaftID)}
	case c.members[i].State != MemberRemoving:
		return Outcome{Code: BadState, Detail: fmt.Sprintf("node %s is %s, not being removed", c.members[i].NodeID, c.members[i].State)}
	}
	nodeID := c.members[i].NodeID
	c.members = slices.Delete(c.members, i, i+1)
	c.touch(rowMember, raftName(x.RaftID))
	if at, ok := c.nodeAt(x.RaftID); ok {
		c.nodes = slices.Delete(c.nodes, at, at+1)
		c.touch(rowNode, raftName(x.RaftID))
	}
	at, _ := slices.BinarySearch(c.removed, x.RaftID)
	c.removed = slices.Insert(c.removed, at, x.RaftID)
	c.touch(rowRemoved, raftName(x.RaftID))
	if at, known := c.retiredAt(nodeID); !known {
		c.retired = slices.Insert(c.retired, at, RemovedNode{NodeID: nodeID, RaftID: x.RaftID})
		c.touch(rowRetired, nodeID)
	}
	c.replan()
	c.record(Record{Verb: VerbNodeRetire, Detail: fmt.Sprintf("node %s, raft ID %016x", nodeID, x.RaftID)})
	return Outcome{}
}
