package ledger

import (
	"fmt"
	"slices"
)

// Apply decides about one command of the log, as Tasks.Apply does.
func (c *Control) Apply(at At, cmd []byte, events []AgentEvent) (Outcome, []AgentEvent) {
	c.now, c.index, c.events = max(c.now, at.TimeMillis), at.Index, events
	o := c.decide(cmd)
	c.noteChanged()
	events, c.events = c.events, nil
	return o, events
}

func (c *Control) decide(b []byte) Outcome {
	r := newReader(b)
	x := newCommand(readHead(&r))
	if r.err == nil && x == nil {
		r.fail(fmt.Sprintf("command kind %d is not known", b[1]))
	}
	if x != nil {
		x.read(&r)
	}
	if err := r.end(); err != nil {
		panic(fmt.Sprintf("ledger: control shard entry %d: %v", c.index, err))
	}
	switch x := x.(type) {
	case *ClusterInit:
		return c.clusterInit(x)
	case *ClusterRestored:
		return c.restored(x)
	case *NodeUp:
		return c.nodeUp((*Node)(x))
	case *NodeRemove:
		return c.nodeRemove(x)
	case *AgentRegister:
		return c.agentRegister(x)
	case *AgentState:
		return c.agentState(x)
	case *AgentDeregister:
		return c.agentDeregister(x)
	case *NodeKey:
		return c.nodeKey(x)
	case *FleetRetention:
		return c.fleetRetention(x)
	case *FleetRecords:
		return c.fleetRecords(x)
	case *AuditFormat:
		return c.journal.setFormat(x, c.index, c.now)
	}
	if o, ok := c.decidePack(x); ok {
		return o
	}
	return c.decideMember(x)
}

func invalid(detail string) Outcome { return Outcome{Code: Invalid, Detail: detail} }

func (c *Control) record(r Record) {
	r.Index, r.TimeMillis = c.index, c.now
	c.journal.write(&r)
}

func (c *Control) tell(id string, from, to AgentStatus, reason string) {
	c.events = append(c.events, AgentEvent{ID: id, From: from, State: to, Index: c.index, Reason: reason})
}

func (c *Control) clusterInit(x *ClusterInit) Outcome {
	switch {
	case x.Name == "" || len(x.Name) > maxNameBytes || x.Shards < 2 || len(x.Members) > maxMembers:
		return invalid("a cluster needs a name, two shards or more, and a sane number of members")
	case c.cluster.Name != "" && c.cluster.ID == x.ClusterID && c.cluster.Name == x.Name && c.cluster.Shards == x.Shards:
		return Outcome{Replayed: true}
	case c.cluster.Name != "":
		return Outcome{Code: Exists, Detail: fmt.Sprintf("this is cluster %s, ID %x, with %d shards", c.cluster.Name, c.cluster.ID, c.cluster.Shards)}
	}
	for i := range x.Members {
		if detail := badNode(&x.Members[i]); detail != "" {
			return invalid(detail)
		}
	}
	c.cluster = Cluster{ID: x.ClusterID, Name: x.Name, Shards: x.Shards}
	c.touch(rowCluster, "")
	for i := range x.Members {
		m := &x.Members[i]
		if _, known := c.nodeAt(m.RaftID); !known && c.claim(m) == OK { // what a node says of itself is newer
			c.putNode(m)
		}
	}
	c.record(Record{Verb: VerbClusterInit, Detail: fmt.Sprintf("%s %x, %d shards, %d members", x.Name, x.ClusterID, x.Shards, len(x.Members))})
	return Outcome{}
}

func badNode(n *Node) string {
	switch {
	case n.RaftID == 0 || n.NodeID == "":
		return "a node needs a raft ID and a node ID"
	case max(len(n.NodeID), len(n.PeerAddr), len(n.APIAddr), len(n.GossipAddr), len(n.Version)) > maxNameBytes:
		return "a node's name or address is too long"
	}
	return ""
}

// claim says whether a raft identity may bear a node ID: both belong to each
// other from the first time on, until the node is removed.
func (c *Control) claim(n *Node) Code {
	if c.isRemoved(n.RaftID) {
		return NodeRemoved
	}
	for i := range c.nodes {
		if o := &c.nodes[i]; (o.NodeID == n.NodeID) != (o.RaftID == n.RaftID) {
			return NodeIDTaken
		}
	}
	return OK
}

func (c *Control) nodeUp(n *Node) Outcome {
	if detail := badNode(n); detail != "" {
		return invalid(detail)
	}
	if _, ok := c.Member(n.RaftID); len(c.members) > 0 && !ok && !c.isRemoved(n.RaftID) {
		return c.refuseMember(VerbNodeUp, n.NodeID, "", NotAdmitted, "raft ID %016x is no member of the cluster", n.RaftID)
	}
	if code := c.claim(n); code != OK {
		c.record(Record{Verb: VerbRefused, Actor: n.NodeID, Code: code, Detail: fmt.Sprintf("%s of raft ID %016x", VerbNodeUp, n.RaftID)})
		if code == NodeRemoved {
			return Outcome{Code: code, Detail: fmt.Sprintf("raft ID %016x was removed from the cluster and never returns", n.RaftID)}
		}
		return Outcome{Code: code, Detail: c.takenBy(n)}
	}
	if i, known := c.nodeAt(n.RaftID); known && c.nodes[i] == *n {
		return Outcome{Replayed: true}
	}
	c.putNode(n)
	c.record(Record{Verb: VerbNodeUp, Actor: n.NodeID, Detail: cut(fmt.Sprintf("raft ID %016x, peer %s, api %s, gossip %s, version %s",
		n.RaftID, n.PeerAddr, n.APIAddr, n.GossipAddr, n.Version), maxDetailBytes)})
	return Outcome{}
}

func (c *Control) takenBy(n *Node) string {
	if i, ok := c.nodeAt(n.RaftID); ok {
		return fmt.Sprintf("raft ID %016x belongs to node ID %s", n.RaftID, c.nodes[i].NodeID)
	}
	i := slices.IndexFunc(c.nodes, func(o Node) bool { return o.NodeID == n.NodeID })
	return fmt.Sprintf("node ID %s belongs to raft ID %016x", n.NodeID, c.nodes[i].RaftID)
}

func (c *Control) putNode(n *Node) {
	if i, ok := c.nodeAt(n.RaftID); ok {
		c.nodes[i] = *n
	} else {
		c.nodes = slices.Insert(c.nodes, i, *n)
	}
	c.touch(rowNode, raftName(n.RaftID))
}

func (c *Control) nodeRemove(x *NodeRemove) Outcome {
	if len(x.By) > maxNameBytes {
		return invalid("the name of who asks is too long")
	}
	if len(c.members) > 0 {
		return invalid("members are removed step by step")
	}
	i, ok := c.nodeAt(x.RaftID)
	switch {
	case c.isRemoved(x.RaftID):
		return Outcome{Replayed: true}
	case !ok:
		return Outcome{Code: NotFound, Detail: fmt.Sprintf("there is no node with raft ID %016x", x.RaftID)}
	}
	nodeID := c.nodes[i].NodeID
	c.nodes = slices.Delete(c.nodes, i, i+1)
	at, _ := slices.BinarySearch(c.removed, x.RaftID)
	c.removed = slices.Insert(c.removed, at, x.RaftID)
	c.touch(rowNode, raftName(x.RaftID))
	c.touch(rowRemoved, raftName(x.RaftID))
	c.record(Record{Verb: VerbNodeRemove, Actor: x.By, Detail: fmt.Sprintf("node %s, raft ID %016x", nodeID, x.RaftID)})
	return Outcome{}
}

func (c *Control) agentRegister(x *AgentRegister) Outcome {
	if detail := badRegistration(x); detail != "" {
		return invalid(detail)
	}
	i, known := c.agentAt(x.ID)
	a := &Agent{ID: x.ID, Manifest: x.Manifest, Capabilities: x.Capabilities, MaxTasks: x.MaxTasks, State: AgentHealthy,
		Reason: "registered", Incarnation: c.index, RegisteredMillis: c.now, UpdatedMillis: c.now}
	var from AgentStatus
	if known {
		old := c.agents[i]
		if old.State == AgentHealthy && sameRegistration(old, x) {
			return Outcome{Replayed: true}
		}
		from, c.agents[i] = old.State, a
	} else {
		c.agents = slices.Insert(c.agents, i, a)
	}
	c.touch(rowAgent, x.ID)
	c.record(Record{Verb: VerbAgentRegister, Agent: x.ID, RequestDigest: digest(x.Manifest), Detail: fmt.Sprintf("%d capabilities", len(x.Capabilities))})
	c.tell(x.ID, from, AgentHealthy, a.Reason)
	return Outcome{}
}

func badRegistration(x *AgentRegister) string {
	switch {
	case x.ID == "" || len(x.ID) > maxNameBytes:
		return "the agent's ID is missing or too long"
	case len(x.Manifest) > maxManifestBytes:
		return "the manifest is too long"
	case len(x.Capabilities) == 0 || len(x.Capabilities) > maxCapabilities:
		return "an agent has one capability or more, and a sane number of them"
	}
	for i := range x.Capabilities {
		k := &x.Capabilities[i]
		switch {
		case k.Action == "" || k.Target == "" || max(len(k.Action), len(k.Target)) > maxNameBytes:
			return "a capability's action or target is missing or too long"
		case k.ConfidenceMillis > maxConfidence:
			return "a confidence is above 1"
		}
	}
	return ""
}

func (c *Control) agentState(x *AgentState) Outcome {
	if x.State < AgentHealthy || x.State > AgentOffline || len(x.Reason) > maxErrorBytes {
		return invalid("no such state of an agent, or the reason is too long")
	}
	i, ok := c.agentAt(x.ID)
	switch {
	case !ok:
		return Outcome{Code: NotFound}
	case x.Incarnation != 0 && x.Incarnation != c.agents[i].Incarnation:
		return Outcome{Code: NotDue, Detail: "the agent has registered again since"}
	case c.agents[i].State == x.State:
		return Outcome{Replayed: true}
	}
	a := *c.agents[i]
	from := a.State
	a.State, a.Reason, a.UpdatedMillis = x.State, cut(x.Reason, maxDetailBytes), c.now
	c.agents[i] = &a
	c.touch(rowAgent, a.ID)
	c.record(Record{Verb: VerbAgentState, Agent: a.ID, Detail: c.journal.words(a.State.String() + ": " + x.Reason)})
	c.tell(a.ID, from, a.State, a.Reason)
	return Outcome{}
}

func (c *Control) agentDeregister(x *AgentDeregister) Outcome {
	i, ok := c.agentAt(x.ID)
	if !ok {
		return Outcome{Code: NotFound}
	}
	from := c.agents[i].State
	c.agents = slices.Delete(c.agents, i, i+1)
	c.touch(rowAgent, x.ID)
	c.record(Record{Verb: VerbAgentDeregister, Agent: x.ID})
	c.tell(x.ID, from, AgentGone, "deregistered")
	return Outcome{}
}
