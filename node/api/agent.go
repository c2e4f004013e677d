package api

import (
	"encoding/json"
	"time"
)

// Manifest is an Agent Capability Manifest (Works With Agents, CC BY 4.0). The
// minimal form has agent_id and capabilities only.
type Manifest struct {
	AgentID      string          `json:"agent_id"`
	Name         string          `json:"name,omitempty"`
	Version      string          `json:"version,omitempty"`
	Description  string          `json:"description,omitempty"`
	FleetID      string          `json:"fleet_id,omitempty"`
	Capabilities []Capability    `json:"capabilities"`
	MaxTasks     int             `json:"max_concurrent_tasks,omitempty" doc:"Default: as many as it asks for"`
	Endpoint     string          `json:"endpoint,omitempty"`
	Tools        []string        `json:"tools,omitempty"`
	Limits       json.RawMessage `json:"limits,omitempty"`
	Metadata     json.RawMessage `json:"metadata,omitempty"`
}

// Capability is one thing an agent can do. In JSON the short form is the
// string "action:target".
type Capability struct {
	Action        string   `json:"action"`
	Target        string   `json:"target" doc:"* stands for every target of the action"`
	Confidence    *float64 `json:"confidence,omitempty" doc:"0 to 1; the declared success rate, a prior only"`
	MaxConcurrent int      `json:"max_concurrent,omitempty"`
	AvgSeconds    float64  `json:"avg_duration_seconds,omitempty"`
	Description   string   `json:"description,omitempty"`
}

// UnmarshalJSON accepts the full form and the string "action:target".
func (c *Capability) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		a, t, err := SplitCapability(s)
		if err != nil {
			return err
		}
		*c = Capability{Action: a, Target: t}
		return nil
	}
	type plain Capability
	return json.Unmarshal(b, (*plain)(c))
}

// Agent states.
const (
	AgentHealthy      = "healthy"
	AgentDraining     = "draining"
	AgentUnresponsive = "unresponsive"
	AgentOffline      = "offline"
)

// Agent is a registered agent as the cluster knows it.
type Agent struct {
	Manifest
	State         string     `json:"state"`
	StateReason   string     `json:"state_reason,omitempty"`
	RegisteredAt  time.Time  `json:"registered_at"`
	LastHeartbeat *time.Time `json:"last_heartbeat_at,omitempty"`
	Load          float64    `json:"load" doc:"0 to 1, as last reported"`
	CurrentTasks  int        `json:"current_tasks"`
	NodeID        string     `json:"node_id,omitempty" doc:"Where it is connected"`
	Completed     uint64     `json:"completed_tasks" doc:"Since the leaders' start; volatile"`
	Failed        uint64     `json:"failed_tasks"`
	Success       float64    `json:"measured_success" doc:"Smoothed share of completed attempts"`
	Lost          uint64     `json:"lost_tasks" doc:"Leases that ended without a word of it; volatile"`
	Trust         float64    `json:"measured_trust" doc:"Smoothed share of leases it ended itself"`
	MeasuredBy    string     `json:"measured_by,omitempty" doc:"The node whose counts these are"`
	MeasuredFrom  time.Time  `json:"measured_since,omitzero" doc:"When that node began to count; earlier attempts are not in the counts"`
}

// AgentFilter selects agents; zero fields match all.
type AgentFilter struct {
	Action, Target, FleetID, State string
	Limit                          int
	Cursor                         string
}

// AgentPage is one page of agents, best first when an action was asked for.
type AgentPage struct {
	Agents      []Agent `json:"agents"`
	Count       int     `json:"count"`
	Recommended string  `json:"recommended,omitempty"`
	NextCursor  string  `json:"next_cursor,omitempty"`
}

// Heartbeat is what an agent says of itself.
type Heartbeat struct {
	Load         float64 `json:"load,omitempty"`
	CurrentTasks int     `json:"current_tasks,omitempty"`
	State        string  `json:"state,omitempty" enum:"healthy,draining"`
	Status       string  `json:"status,omitempty" doc:"Alias of state"`
}

// HeartbeatAck tells the agent when to come again.
type HeartbeatAck struct {
	AgentID         string  `json:"agent_id"`
	State           string  `json:"state"`
	IntervalSeconds float64 `json:"interval_seconds"`
}
