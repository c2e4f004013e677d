package ledger

// Node is a member of the cluster as the control shard knows it.
type Node struct {
	RaftID                        uint64
	NodeID                        string
	PeerAddr, APIAddr, GossipAddr string
	Version                       string
}

func (n *Node) append(dst []byte) []byte {
	dst = appendUint(dst, n.RaftID)
	dst = appendString(dst, n.NodeID)
	dst = appendString(dst, n.PeerAddr)
	dst = appendString(dst, n.APIAddr)
	dst = appendString(dst, n.GossipAddr)
	return appendString(dst, n.Version)
}

func (n *Node) read(r *reader) {
	n.RaftID, n.NodeID = r.uint(), r.string()
	n.PeerAddr, n.APIAddr, n.GossipAddr, n.Version = r.string(), r.string(), r.string(), r.string()
}

const minNodeBytes = 6

// ClusterInit enters what was settled when the cluster formed.
type ClusterInit struct {
	ClusterID [16]byte
	Name      string
	Shards    uint32
	Members   []Node
}

func (*ClusterInit) kind() kind { return kindClusterInit }

// Append implements Command.
func (c *ClusterInit) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindClusterInit), c.ClusterID[:]...)
	dst = appendString(dst, c.Name)
	dst = appendUint(dst, uint64(c.Shards))
	dst = appendUint(dst, uint64(len(c.Members)))
	for i := range c.Members {
		dst = c.Members[i].append(dst)
	}
	return dst
}

func (c *ClusterInit) read(r *reader) {
	r.fixed(c.ClusterID[:])
	c.Name, c.Shards = r.string(), r.uint32()
	n := r.count(minNodeBytes)
	if n > 0 {
		c.Members = make([]Node, n)
	}
	for i := range c.Members {
		c.Members[i].read(r)
	}
}

// NodeUp enters a node's present addresses. A node ID belongs to the raft
// identity that entered it first.
type NodeUp struct {
	RaftID                        uint64
	NodeID                        string
	PeerAddr, APIAddr, GossipAddr string
	Version                       string
}

func (*NodeUp) kind() kind { return kindNodeUp }

// Append implements Command.
func (c *NodeUp) Append(dst []byte) []byte {
	return (*Node)(c).append(appendHead(dst, kindNodeUp))
}

func (c *NodeUp) read(r *reader) { (*Node)(c).read(r) }

// NodeRemove takes a node out of the registry. Its raft identity never
// returns; its node ID is free for another.
type NodeRemove struct {
	RaftID uint64
	By     string
}

func (*NodeRemove) kind() kind { return kindNodeRemove }

// Append implements Command.
func (c *NodeRemove) Append(dst []byte) []byte {
	return appendString(appendUint(appendHead(dst, kindNodeRemove), c.RaftID), c.By)
}

func (c *NodeRemove) read(r *reader) { c.RaftID, c.By = r.uint(), r.string() }

// CapabilitySpec is one thing an agent can do, as its manifest declares it.
type CapabilitySpec struct {
	Action, Target   string // * stands for every one
	ConfidenceMillis uint32 // declared success rate in thousandths
	MaxConcurrent    uint32 // 0: no limit of its own
}

const minCapabilityBytes = 4

func appendCapabilities(dst []byte, caps []CapabilitySpec) []byte {
	dst = appendUint(dst, uint64(len(caps)))
	for i := range caps {
		dst = appendString(dst, caps[i].Action)
		dst = appendString(dst, caps[i].Target)
		dst = appendUint(dst, uint64(caps[i].ConfidenceMillis))
		dst = appendUint(dst, uint64(caps[i].MaxConcurrent))
	}
	return dst
}

func readCapabilities(r *reader) []CapabilitySpec {
	n := r.count(minCapabilityBytes)
	if n == 0 {
		return nil
	}
	caps := make([]CapabilitySpec, n)
	for i := range caps {
		caps[i] = CapabilitySpec{Action: r.string(), Target: r.string(), ConfidenceMillis: r.uint32(), MaxConcurrent: r.uint32()}
	}
	return caps
}

// AgentRegister enters an agent's manifest, or replaces the one it had. The
// agent is healthy afterwards.
type AgentRegister struct {
	ID           string
	Manifest     []byte // JSON, kept byte for byte
	Capabilities []CapabilitySpec
	MaxTasks     uint32 // 0: as many as it asks for
}

func (*AgentRegister) kind() kind { return kindAgentRegister }

// Append implements Command.
func (c *AgentRegister) Append(dst []byte) []byte {
	dst = appendString(appendHead(dst, kindAgentRegister), c.ID)
	dst = appendBytes(dst, c.Manifest)
	dst = appendCapabilities(dst, c.Capabilities)
	return appendUint(dst, uint64(c.MaxTasks))
}

func (c *AgentRegister) read(r *reader) {
	c.ID, c.Manifest = r.string(), r.bytes()
	c.Capabilities, c.MaxTasks = readCapabilities(r), r.uint32()
}

// AgentState says that an agent was found to be in another state.
type AgentState struct {
	ID          string
	State       AgentStatus
	Reason      string
	Incarnation uint64 // of the registration it was seen of; 0: any
}

func (*AgentState) kind() kind { return kindAgentState }

// Append implements Command.
func (c *AgentState) Append(dst []byte) []byte {
	dst = appendString(appendHead(dst, kindAgentState), c.ID)
	dst = appendString(append(dst, uint8(c.State)), c.Reason)
	return appendUint(dst, c.Incarnation)
}

func (c *AgentState) read(r *reader) {
	c.ID, c.State, c.Reason, c.Incarnation = r.string(), AgentStatus(r.u8()), r.string(), r.uint()
}

// AgentDeregister removes an agent.
type AgentDeregister struct{ ID string }

func (*AgentDeregister) kind() kind { return kindAgentDeregister }

// Append implements Command.
func (c *AgentDeregister) Append(dst []byte) []byte {
	return appendString(appendHead(dst, kindAgentDeregister), c.ID)
}

func (c *AgentDeregister) read(r *reader) { c.ID = r.string() }
