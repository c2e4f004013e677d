package ledger

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
)

// Cluster is what a cluster is, entered once.
type Cluster struct {
	ID     [16]byte
	Name   string
	Shards uint32
}

// Node is one peer and where it is reached.
type Node struct {
	RaftID                                         uint64
	NodeID, PeerAddr, APIAddr, GossipAddr, Version string
}

// CapabilitySpec is one thing an agent can do; "*" as target stands for all.
type CapabilitySpec struct {
	Action, Target   string
	ConfidenceMillis uint32 // declared success rate, thousandths
	MaxConcurrent    uint32 // 0: no limit
}

// Agent is a registered agent.
type Agent struct {
	ID                              string
	Manifest                        []byte // JSON, as registered
	Capabilities                    []CapabilitySpec
	MaxTasks                        uint32
	State                           AgentStatus
	Reason                          string
	RegisteredMillis, UpdatedMillis int64
}

// AgentEvent says that an agent changed state.
type AgentEvent struct {
	ID          string
	From, State AgentStatus
	Index       uint64
}

// ClusterInit enters the cluster and its founding members; the first one
// counts.
type ClusterInit struct {
	ClusterID [16]byte
	Name      string
	Shards    uint32
	Members   []Node
}

// NodeUp enters a node's present addresses.
type NodeUp struct {
	RaftID                                         uint64
	NodeID, PeerAddr, APIAddr, GossipAddr, Version string
}

// AgentRegister enters or replaces an agent's manifest.
type AgentRegister struct {
	ID           string
	Manifest     []byte
	Capabilities []CapabilitySpec
	MaxTasks     uint32
}

// AgentState follows how an agent is.
type AgentState struct {
	ID     string
	State  AgentStatus
	Reason string
}

// AgentDeregister removes an agent.
type AgentDeregister struct{ ID string }

func (n *Node) append(b []byte) []byte {
	b = putUint(b, n.RaftID)
	for _, s := range []string{n.NodeID, n.PeerAddr, n.APIAddr, n.GossipAddr, n.Version} {
		b = putBytes(b, s)
	}
	return b
}

func (n *Node) decode(d *decoder) {
	n.RaftID = d.uint()
	for _, s := range []*string{&n.NodeID, &n.PeerAddr, &n.APIAddr, &n.GossipAddr, &n.Version} {
		*s = d.string()
	}
}

// Append implements Command.
func (c *ClusterInit) Append(b []byte) []byte {
	b = append(commandHead(b, kindClusterInit), c.ClusterID[:]...)
	b = putUint(putUint(putBytes(b, c.Name), uint64(c.Shards)), uint64(len(c.Members)))
	for i := range c.Members {
		b = c.Members[i].append(b)
	}
	return b
}

func (c *ClusterInit) decode(d *decoder) {
	copy(c.ClusterID[:], d.fixed(16))
	c.Name, c.Shards = d.string(), d.uint32()
	for range d.count() {
		var n Node
		n.decode(d)
		c.Members = append(c.Members, n)
	}
}

// Append implements Command.
func (c *NodeUp) Append(b []byte) []byte { return (*Node)(c).append(commandHead(b, kindNodeUp)) }
func (c *NodeUp) decode(d *decoder)      { (*Node)(c).decode(d) }

// Append implements Command.
func (c *AgentRegister) Append(b []byte) []byte {
	b = putBytes(putBytes(commandHead(b, kindAgentRegister), c.ID), c.Manifest)
	return putUint(appendCapabilities(b, c.Capabilities), uint64(c.MaxTasks))
}

func (c *AgentRegister) decode(d *decoder) {
	c.ID, c.Manifest = d.string(), d.bytes()
	c.Capabilities, c.MaxTasks = decodeCapabilities(d), d.uint32()
}

func appendCapabilities(b []byte, caps []CapabilitySpec) []byte {
	b = putUint(b, uint64(len(caps)))
	for _, c := range caps {
		b = putBytes(putBytes(b, c.Action), c.Target)
		b = putUint(putUint(b, uint64(c.ConfidenceMillis)), uint64(c.MaxConcurrent))
	}
	return b
}

func decodeCapabilities(d *decoder) (caps []CapabilitySpec) {
	for range d.count() {
		caps = append(caps, CapabilitySpec{Action: d.string(), Target: d.string(), ConfidenceMillis: d.uint32(), MaxConcurrent: d.uint32()})
	}
	return caps
}

// Append implements Command.
func (c *AgentState) Append(b []byte) []byte {
	return putBytes(append(putBytes(commandHead(b, kindAgentState), c.ID), byte(c.State)), c.Reason)
}

func (c *AgentState) decode(d *decoder) {
	c.ID, c.State, c.Reason = d.string(), AgentStatus(d.byte()), d.string()
	if c.State < AgentHealthy || c.State > AgentOffline {
		d.fail("agent state")
	}
}

// Append implements Command.
func (c *AgentDeregister) Append(b []byte) []byte {
	return putBytes(commandHead(b, kindAgentDeregister), c.ID)
}
func (c *AgentDeregister) decode(d *decoder) { c.ID = d.string() }

// Control is the state machine of the control shard: the cluster, its nodes,
// the agents. It is small and lives in memory whole; the checkpoint is its
// meta.
//
// Apply, Freeze, Thaw and Restore need exclusive access; everything else may
// run concurrently with itself.
type Control struct {
	chain   chain
	now     int64
	cluster Cluster
	nodes   []Node  // by raft ID
	agents  []Agent // by ID
}

// NewControl makes an empty control shard; Restore follows.
func NewControl(_ Cold, appendRecord func([]byte)) *Control {
	return &Control{chain: newChain(0, appendRecord)}
}

// Restore rebuilds the state from its meta; nil is empty.
func (s *Control) Restore(meta []byte) error {
	*s = *NewControl(nil, s.chain.appendRecord)
	if meta == nil {
		return nil
	}
	d := decoder{b: slices.Clone(meta)}
	if v := d.byte(); v != metaVersion && d.err == nil {
		d.fail("meta version")
	}
	s.now = d.int()
	s.chain.restore(&d)
	copy(s.cluster.ID[:], d.fixed(16))
	s.cluster.Name, s.cluster.Shards = d.string(), d.uint32()
	for range d.count() {
		var n Node
		n.decode(&d)
		s.nodes = append(s.nodes, n)
	}
	for range d.count() {
		s.agents = append(s.agents, Agent{ID: d.string(), Manifest: d.bytes(), Capabilities: decodeCapabilities(&d), MaxTasks: d.uint32(),
			State: AgentStatus(d.byte()), Reason: d.string(), RegisteredMillis: d.int(), UpdatedMillis: d.int()})
	}
	if err := d.end(); err != nil {
		return fmt.Errorf("ledger: control shard: checkpoint meta: %w", err)
	}
	return nil
}

func (s *Control) meta() []byte {
	b := s.chain.append(putInt([]byte{metaVersion}, s.now))
	b = append(b, s.cluster.ID[:]...)
	b = putUint(putUint(putBytes(b, s.cluster.Name), uint64(s.cluster.Shards)), uint64(len(s.nodes)))
	for i := range s.nodes {
		b = s.nodes[i].append(b)
	}
	b = putUint(b, uint64(len(s.agents)))
	for i := range s.agents {
		a := &s.agents[i]
		b = appendCapabilities(putBytes(putBytes(b, a.ID), a.Manifest), a.Capabilities)
		b = append(putUint(b, uint64(a.MaxTasks)), byte(a.State))
		b = putInt(putInt(putBytes(b, a.Reason), a.RegisteredMillis), a.UpdatedMillis)
	}
	return b
}

// Freeze hands out the whole state as meta.
func (s *Control) Freeze() (puts []KV, deletes [][]byte, meta []byte) { return nil, nil, s.meta() }

// Thaw does nothing: nothing is kept outside memory.
func (s *Control) Thaw() {}

// Cluster is the cluster, its name empty until it was entered.
func (s *Control) Cluster() Cluster { return s.cluster }

// Nodes are the peers, by raft ID.
func (s *Control) Nodes() []Node { return slices.Clone(s.nodes) }

// Agents are the agents, by ID.
func (s *Control) Agents() []Agent { return slices.Clone(s.agents) }

// Agent is one agent.
func (s *Control) Agent(id string) (Agent, bool) {
	if i, ok := s.agentAt(id); ok {
		return s.agents[i], true
	}
	return Agent{}, false
}

func (s *Control) agentAt(id string) (int, bool) {
	return slices.BinarySearchFunc(s.agents, id, func(a Agent, id string) int { return strings.Compare(a.ID, id) })
}

// Head is where the audit chain ends.
func (s *Control) Head() Head { return s.chain.head }

// Digest is equal on all replicas at equal index.
func (s *Control) Digest() uint64 {
	h := fnv.New64a()
	h.Write(s.meta())
	return h.Sum64()
}

// Apply decides one command, as Tasks.Apply does.
func (s *Control) Apply(at At, cmd []byte, events []AgentEvent) (Outcome, []AgentEvent) {
	c, err := DecodeCommand(cmd)
	if err != nil {
		panic(fmt.Sprintf("ledger: control shard: entry %d: %v", at.Index, err))
	}
	s.now = max(s.now, at.TimeMillis)
	var o Outcome
	switch c := c.(type) {
	case *ClusterInit:
		o = s.clusterInit(at, c)
	case *NodeUp:
		o = s.nodeUp(at, (*Node)(c))
	case *AgentRegister:
		o, events = s.register(at, c, events)
	case *AgentState:
		o, events = s.agentState(at, c, events)
	case *AgentDeregister:
		o, events = s.deregister(at, c, events)
	default:
		panic(fmt.Sprintf("ledger: control shard: entry %d: %T belongs to a task shard", at.Index, c))
	}
	return o, events
}

func (s *Control) record(at At, r Record) {
	r.Index, r.TimeMillis = at.Index, s.now
	s.chain.add(&r)
}

func (s *Control) clusterInit(at At, c *ClusterInit) Outcome {
	if s.cluster.Name != "" {
		if s.cluster.ID == c.ClusterID {
			return Outcome{Replayed: true}
		}
		return Outcome{Code: Exists, Detail: "the cluster has another ID"}
	}
	s.cluster = Cluster{ID: c.ClusterID, Name: c.Name, Shards: c.Shards}
	for i := range c.Members {
		if !s.hasNode(c.Members[i].RaftID) { // what a node says of itself is newer
			s.putNode(&c.Members[i])
		}
	}
	s.record(at, Record{Verb: "cluster_init", Detail: fmt.Sprintf("%s %x, %d shards, %d members", c.Name, c.ClusterID, c.Shards, len(c.Members))})
	return Outcome{}
}

func (s *Control) nodeUp(at At, n *Node) Outcome {
	for i := range s.nodes {
		if o := &s.nodes[i]; o.NodeID == n.NodeID && o.RaftID != n.RaftID {
			s.record(at, Record{Verb: "refused", Actor: n.NodeID, Code: NodeIDTaken, Detail: "node_up"})
			return Outcome{Code: NodeIDTaken, Detail: fmt.Sprintf("node ID %s belongs to raft ID %016x", n.NodeID, o.RaftID)}
		}
	}
	if s.putNode(n) {
		s.record(at, Record{Verb: "node_up", Actor: n.NodeID, Detail: fmt.Sprintf("peer %s, api %s, gossip %s, version %s", n.PeerAddr, n.APIAddr, n.GossipAddr, n.Version)})
	}
	return Outcome{}
}

func (s *Control) hasNode(id uint64) bool {
	return slices.ContainsFunc(s.nodes, func(n Node) bool { return n.RaftID == id })
}

// putNode says whether anything changed.
func (s *Control) putNode(n *Node) bool {
	i, ok := slices.BinarySearchFunc(s.nodes, n.RaftID, func(x Node, id uint64) int {
		if x.RaftID < id {
			return -1
		} else if x.RaftID > id {
			return 1
		}
		return 0
	})
	if !ok {
		s.nodes = slices.Insert(s.nodes, i, *n)
		return true
	}
	changed := s.nodes[i] != *n
	s.nodes[i] = *n
	return changed
}

func (s *Control) register(at At, c *AgentRegister, events []AgentEvent) (Outcome, []AgentEvent) {
	a := Agent{ID: c.ID, Manifest: keep(c.Manifest), Capabilities: c.Capabilities, MaxTasks: c.MaxTasks, State: AgentHealthy,
		Reason: "registered", RegisteredMillis: s.now, UpdatedMillis: s.now}
	i, ok := s.agentAt(c.ID)
	var from AgentStatus
	if ok {
		from = s.agents[i].State
		s.agents[i] = a
	} else {
		s.agents = slices.Insert(s.agents, i, a)
	}
	s.record(at, Record{Verb: "agent_register", Agent: c.ID, RequestDigest: digest(c.Manifest)})
	return Outcome{}, append(events, AgentEvent{ID: c.ID, From: from, State: AgentHealthy, Index: at.Index})
}

func (s *Control) agentState(at At, c *AgentState, events []AgentEvent) (Outcome, []AgentEvent) {
	i, ok := s.agentAt(c.ID)
	if !ok {
		return Outcome{Code: NotFound}, events
	}
	a := &s.agents[i]
	if a.State == c.State {
		return Outcome{Replayed: true}, events
	}
	from := a.State
	a.State, a.Reason, a.UpdatedMillis = c.State, c.Reason, s.now
	s.record(at, Record{Verb: "agent_" + c.State.String(), Agent: c.ID, Detail: c.Reason})
	return Outcome{}, append(events, AgentEvent{ID: c.ID, From: from, State: c.State, Index: at.Index})
}

func (s *Control) deregister(at At, c *AgentDeregister, events []AgentEvent) (Outcome, []AgentEvent) {
	i, ok := s.agentAt(c.ID)
	if !ok {
		return Outcome{Code: NotFound}, events
	}
	from := s.agents[i].State
	s.agents = slices.Delete(s.agents, i, i+1)
	s.record(at, Record{Verb: "agent_deregister", Agent: c.ID})
	return Outcome{}, append(events, AgentEvent{ID: c.ID, From: from, State: AgentGone, Index: at.Index})
}
