package ledger

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// Cluster is what was settled when the cluster formed; Name is empty before.
type Cluster struct {
	ID     [16]byte
	Name   string
	Shards uint32
}

// Agent is a registered agent.
type Agent struct {
	ID               string
	Manifest         []byte // JSON as registered; shared, read only
	Capabilities     []CapabilitySpec
	MaxTasks         uint32
	State            AgentStatus
	Reason           string // why it is in State
	Incarnation      uint64 // of this registration: the log index of its command
	RegisteredMillis int64
	UpdatedMillis    int64
}

// AgentEvent says that an agent registered, changed state or is gone.
type AgentEvent struct {
	ID          string
	From, State AgentStatus // From 0: it is new
	Index       uint64
	Reason      string
}

// Control is the state machine of the control shard: the cluster, its nodes
// and the registered agents. All of it is small and stays in memory; the
// checkpoint holds a row each. It has Tasks' life cycle and rules of use.
type Control struct {
	cold    Cold
	journal journal
	now     int64
	index   uint64 // of the entry being applied

	cluster Cluster
	nodes   []Node   // by raft ID
	keys    []Key    // by text; of removed nodes as well
	removed []uint64 // raft IDs that never return, ascending
	agents  []*Agent // by ID; an Agent is replaced, never changed
	membership

	packs    []Pack    // by name
	bindings []Binding // by fleet

	retentions       []Retention       // by fleet
	recordRetentions []RecordRetention // likewise

	dirty   []rowName // rows changed since the last Freeze
	changed []rowName // by this command
	changes uint64    // see Changed
	events  []AgentEvent
}

// ControlShard is the number of the control shard.
const ControlShard = 0

// Limits of what a control command carries, above what a node lets in.
const (
	maxManifestBytes = 256 << 10
	maxCapabilities  = 1 << 10
	maxMembers       = 1 << 10
	maxConfidence    = 1000 // thousandths
)

// NewControl makes the state machine of the control shard; appendRecord as
// for NewTasks. Restore comes before anything else.
func NewControl(cold Cold, appendRecord func([]byte)) *Control {
	return &Control{cold: cold, journal: newJournal(ControlShard, appendRecord)}
}

// Cluster is the cluster; its name is empty until it was entered.
func (c *Control) Cluster() Cluster { return c.cluster }

// Nodes are the registered nodes, by raft ID.
func (c *Control) Nodes() []Node { return slices.Clone(c.nodes) }

// Removed are the raft IDs of removed nodes, ascending.
func (c *Control) Removed() []uint64 { return slices.Clone(c.removed) }

// Agents are the registered agents, by ID.
func (c *Control) Agents() []Agent {
	out := make([]Agent, len(c.agents))
	for i, a := range c.agents {
		out[i] = *a
	}
	return out
}

// Agent is one agent.
func (c *Control) Agent(id string) (Agent, bool) {
	if i, ok := c.agentAt(id); ok {
		return *c.agents[i], true
	}
	return Agent{}, false
}

// Head is the end of the shard's audit chain.
func (c *Control) Head() Head { return c.journal.head }

// NowMillis is the ledger's time.
func (c *Control) NowMillis() int64 { return c.now }

func (c *Control) agentAt(id string) (int, bool) {
	return slices.BinarySearchFunc(c.agents, id, func(a *Agent, id string) int { return strings.Compare(a.ID, id) })
}

func (c *Control) nodeAt(raftID uint64) (int, bool) {
	return slices.BinarySearchFunc(c.nodes, raftID, func(n Node, id uint64) int { return cmp.Compare(n.RaftID, id) })
}

func (c *Control) isRemoved(raftID uint64) bool {
	_, ok := slices.BinarySearch(c.removed, raftID)
	return ok
}

func sameRegistration(a *Agent, r *AgentRegister) bool {
	return bytes.Equal(a.Manifest, r.Manifest) && slices.Equal(a.Capabilities, r.Capabilities) && a.MaxTasks == r.MaxTasks
}
