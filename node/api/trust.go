package api

import "time"

// Tiers of trust, by what was measured.
const (
	TrustUnproven = "unproven" // fewer than ProvenLeases have ended
	TrustLow      = "low"      // below FairTrust
	TrustFair     = "fair"     // below HighTrust
	TrustHigh     = "high"
)

// Bounds of the tiers.
const (
	ProvenLeases = 20
	FairTrust    = 0.8
	HighTrust    = 0.95
)

// Trust is what one node measured of an agent since it started: it is neither
// replicated nor kept over a restart, and says nothing of the quality of
// results.
type Trust struct {
	AgentID      string    `json:"agent_id"`
	FleetID      string    `json:"fleet_id,omitempty"`
	Tier         string    `json:"tier" enum:"unproven,low,fair,high"`
	Trust        float64   `json:"trust" doc:"0 to 1: (completed+failed+1)/(completed+failed+lost+2), the share of leases that the agent ended itself"`
	Success      float64   `json:"success" doc:"0 to 1: share of completed attempts, with the declared confidence as prior"`
	Completed    uint64    `json:"completed_tasks"`
	Failed       uint64    `json:"failed_tasks"`
	Lost         uint64    `json:"lost_tasks"`
	MeasuredBy   string    `json:"measured_by" doc:"The node that counted: the control shard's leader"`
	MeasuredFrom time.Time `json:"measured_since" doc:"When it began to count; what was before is not known to it"`
}

// TrustFilter selects; an empty tier is all.
type TrustFilter struct {
	Tier   string
	Limit  int
	Cursor string
}

// TrustPage is one page, in the order of agent IDs.
type TrustPage struct {
	Trust      []Trust `json:"trust"`
	NextCursor string  `json:"next_cursor,omitempty"`
}
