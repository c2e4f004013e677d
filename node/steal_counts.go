package node

import (
	"cmp"
	"slices"
	"sync"

	"github.com/quorate/quorate/node/api"
)

// stealCounts counts the thefts that shards led here recorded, since this node
// started.
type stealCounts struct {
	mu struct {
		sync.Mutex
		nodes  map[[2]string]uint64 // from, to
		agents map[string]*api.AgentSteals
	}
}

const (
	maxStealAgents   = 10_000 // counted; later ones are not
	stealAgentsShown = 20
)

// stole counts one task.
func (c *stealCounts) stole(q *transferRequest, name func(uint64) string) {
	nodes := [2]string{name(q.FromNode), name(q.Node)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.nodes == nil {
		c.mu.nodes, c.mu.agents = map[[2]string]uint64{}, map[string]*api.AgentSteals{}
	}
	c.mu.nodes[nodes]++
	if a := c.agent(q.From); a != nil {
		a.StolenFrom++
	}
	if a := c.agent(q.To); a != nil {
		a.Stole++
	}
}

func (c *stealCounts) agent(id string) *api.AgentSteals {
	a := c.mu.agents[id]
	if a == nil && len(c.mu.agents) < maxStealAgents {
		a = &api.AgentSteals{AgentID: id}
		c.mu.agents[id] = a
	}
	return a
}

// list is what was counted: by pairs of nodes, and the agents with most.
func (c *stealCounts) list() api.Steals {
	c.mu.Lock()
	defer c.mu.Unlock()
	var s api.Steals
	for k, v := range c.mu.nodes {
		s.Nodes = append(s.Nodes, api.NodeSteals{From: k[0], To: k[1], Tasks: v})
	}
	for _, a := range c.mu.agents {
		s.Agents = append(s.Agents, *a)
	}
	return sortSteals(s)
}

// addSteals adds up what two nodes counted.
func addSteals(a, b api.Steals) api.Steals {
	var s api.Steals
	nodes, agents := map[[2]string]uint64{}, map[string]api.AgentSteals{}
	for _, x := range []api.Steals{a, b} {
		for _, p := range x.Nodes {
			nodes[[2]string{p.From, p.To}] += p.Tasks
		}
		for _, p := range x.Agents {
			sum := agents[p.AgentID]
			agents[p.AgentID] = api.AgentSteals{AgentID: p.AgentID, Stole: sum.Stole + p.Stole, StolenFrom: sum.StolenFrom + p.StolenFrom}
		}
	}
	for k, v := range nodes {
		s.Nodes = append(s.Nodes, api.NodeSteals{From: k[0], To: k[1], Tasks: v})
	}
	for _, v := range agents {
		s.Agents = append(s.Agents, v)
	}
	return sortSteals(s)
}

func sortSteals(s api.Steals) api.Steals {
	slices.SortFunc(s.Nodes, func(a, b api.NodeSteals) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	slices.SortFunc(s.Agents, func(a, b api.AgentSteals) int {
		return cmp.Or(cmp.Compare(b.Stole+b.StolenFrom, a.Stole+a.StolenFrom), cmp.Compare(a.AgentID, b.AgentID))
	})
	if len(s.Agents) > stealAgentsShown {
		s.Agents = s.Agents[:stealAgentsShown]
	}
	return s
}
