package ledger

// Commands about the cluster's members. Numbers 70 to 89 are theirs.
const (
	kindPlacementInit kind = iota + 70
	kindNodeAdmit
	kindNodeJoin
	kindNodeState
	kindNodeRetire
	kindNodeUninvite
)

// memberCommand makes an empty command of a kind of this file, or nil.
func memberCommand(k kind) Command {
	switch k {
	case kindPlacementInit:
		return new(PlacementInit)
	case kindNodeAdmit:
		return new(NodeAdmit)
	case kindNodeJoin:
		return new(NodeJoin)
	case kindNodeState:
		return new(NodeState)
	case kindNodeRetire:
		return new(NodeRetire)
	case kindNodeUninvite:
		return new(NodeUninvite)
	}
	return nil
}

// PlacementInit makes the nodes that founded the cluster its members, each
// with a replica of every shard. It is the first command about placement.
type PlacementInit struct{ Members []uint64 }

func (*PlacementInit) kind() kind { return kindPlacementInit }

// Append implements Command.
func (c *PlacementInit) Append(dst []byte) []byte {
	return appendRaftIDs(appendHead(dst, kindPlacementInit), c.Members)
}

func (c *PlacementInit) read(r *reader) { c.Members = readRaftIDs(r) }

func appendRaftIDs(dst []byte, ids []uint64) []byte {
	dst = appendUint(dst, uint64(len(ids)))
	for _, id := range ids {
		dst = appendUint(dst, id)
	}
	return dst
}

func readRaftIDs(r *reader) []uint64 {
	n := r.count(1)
	if n == 0 {
		return nil
	}
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = r.uint()
	}
	return ids
}

// NodeAdmit lets a node that is to be started join, by its node ID.
type NodeAdmit struct {
	NodeID   string
	PeerAddr string // it must listen there; empty: anywhere
	By       string
}

func (*NodeAdmit) kind() kind { return kindNodeAdmit }

// Append implements Command.
func (c *NodeAdmit) Append(dst []byte) []byte {
	return appendString(appendString(appendString(appendHead(dst, kindNodeAdmit), c.NodeID), c.PeerAddr), c.By)
}

func (c *NodeAdmit) read(r *reader) { c.NodeID, c.PeerAddr, c.By = r.string(), r.string(), r.string() }

// NodeUninvite takes back a NodeAdmit that no node has used.
type NodeUninvite struct{ NodeID, By string }

func (*NodeUninvite) kind() kind { return kindNodeUninvite }

// Append implements Command.
func (c *NodeUninvite) Append(dst []byte) []byte {
	return appendString(appendString(appendHead(dst, kindNodeUninvite), c.NodeID), c.By)
}

func (c *NodeUninvite) read(r *reader) { c.NodeID, c.By = r.string(), r.string() }

// NodeJoin is what an admitted node asks for: its raft identity is bound to
// its node ID, and it gets the control shard's log as a learner.
type NodeJoin Node

func (*NodeJoin) kind() kind { return kindNodeJoin }

// Append implements Command.
func (c *NodeJoin) Append(dst []byte) []byte {
	return (*Node)(c).append(appendHead(dst, kindNodeJoin))
}

func (c *NodeJoin) read(r *reader) { (*Node)(c).read(r) }

// NodeState moves a member to another state: a joining one is made a full
// member, a full one is drained (or not any more), any is removed.
type NodeState struct {
	RaftID uint64
	State  MemberState
	By     string
}

func (*NodeState) kind() kind { return kindNodeState }

// Append implements Command.
func (c *NodeState) Append(dst []byte) []byte {
	dst = appendUint(appendHead(dst, kindNodeState), c.RaftID)
	return appendString(append(dst, uint8(c.State)), c.By)
}

func (c *NodeState) read(r *reader) {
	c.RaftID, c.State, c.By = r.uint(), MemberState(r.u8()), r.string()
}

// NodeRetire ends a removal: nothing is left of the node in any shard. Its
// raft identity and its node ID never return.
type NodeRetire struct{ RaftID uint64 }

func (*NodeRetire) kind() kind { return kindNodeRetire }

// Append implements Command.
func (c *NodeRetire) Append(dst []byte) []byte {
	return appendUint(appendHead(dst, kindNodeRetire), c.RaftID)
}

func (c *NodeRetire) read(r *reader) { c.RaftID = r.uint() }
