package api

import (
	"encoding/json"
	"time"
)

// TaskSpec is a task as submitted. Action and Target are required; the rest
// defaults as documented on each field.
type TaskSpec struct {
	FleetID        string          `json:"fleet_id,omitempty" doc:"Tenant the task belongs to; default \"default\""`
	Action         string          `json:"action" doc:"What is to be done: the first half of the capability action:target"`
	Target         string          `json:"target" doc:"What it is done to: the second half of the capability"`
	Description    string          `json:"description,omitempty"`
	Input          json.RawMessage `json:"input,omitempty" doc:"Any JSON, handed to the agent unchanged"`
	Context        json.RawMessage `json:"context,omitempty" doc:"Any JSON, handed to the agent unchanged"`
	Priority       string          `json:"priority,omitempty" enum:"low,normal,high,critical" doc:"Default normal"`
	Guarantee      string          `json:"guarantee,omitempty" doc:"best_effort, at_least_once (default) or exactly_once; atp-1, atp-2 and atp-3 are aliases"`
	IdempotencyKey string          `json:"idempotency_key,omitempty" doc:"Submitting again with the same key and request answers the existing task"`
	Deadline       *time.Time      `json:"deadline,omitempty" doc:"When it passes, a task that has not ended is timed_out"`
	NotBefore      *time.Time      `json:"not_before,omitempty" doc:"The task is not ready before"`
	After          []string        `json:"after,omitempty" doc:"Task IDs that must be completed first"`
	LeaseSeconds   float64         `json:"lease_seconds,omitempty" doc:"How long an agent may stay silent; default 60"`
	RetryPolicy    *RetryPolicy    `json:"retry_policy,omitempty"`
	Reversible     bool            `json:"reversible,omitempty"`
	Rollback       json.RawMessage `json:"rollback,omitempty" doc:"A Hook: the task that undoes the effect"`
	Verify         json.RawMessage `json:"verify,omitempty" doc:"A Hook: the task that finds out whether the effect happened; its result is true, false, or {\"happened\":true|false|\"partial\",\"result\":…}"`
	Approval       json.RawMessage `json:"approval,omitempty" doc:"An Approval: who must consent first"`
	Compliance     json.RawMessage `json:"compliance,omitempty" doc:"A Compliance: regulations and classification, for rules and the ledger"`
	SessionID      string          `json:"session_id,omitempty"`
	ParentTaskID   string          `json:"parent_task_id,omitempty"`
	Snapshot       json.RawMessage `json:"snapshot,omitempty" doc:"The target's state before the effect, up to 64 KiB: handed to the rollback"`

	OnDependencyFailure string `json:"on_dependency_failure,omitempty" enum:"fail,skip" doc:"What a failed task named in after does to this one; default fail"`
}

// RetryPolicy says how often and how soon a failed attempt is repeated.
type RetryPolicy struct {
	MaxRetries          *int    `json:"max_retries,omitempty" doc:"Attempts beyond the first; default 3"`
	Backoff             string  `json:"backoff,omitempty" enum:"exponential,linear,fixed" doc:"Default exponential"`
	InitialDelaySeconds float64 `json:"initial_delay_seconds,omitempty" doc:"Default 1"`
	MaxDelaySeconds     float64 `json:"max_delay_seconds,omitempty" doc:"Default 60"`
}

// Task is a task as the cluster knows it.
type Task struct {
	TaskID string `json:"task_id"`
	TaskSpec
	State        string          `json:"state"`
	L5           string          `json:"l5_state,omitempty" doc:"The state in the Coordination Protocol's words"`
	L7           string          `json:"l7_state,omitempty" doc:"The state in the Transaction Protocol's words"`
	Epoch        uint64          `json:"epoch" doc:"The newest lease's fencing token; strictly increasing"`
	Attempts     int             `json:"attempts"`
	AgentID      string          `json:"agent_id,omitempty" doc:"Who holds it, or held it last"`
	Result       json.RawMessage `json:"result,omitempty"`
	LastError    string          `json:"error,omitempty" doc:"Why the last attempt failed"`
	Progress     json.RawMessage `json:"progress,omitempty" doc:"What the holder last reported; volatile"`
	StolenFrom   string          `json:"stolen_from,omitempty" doc:"Whom the present holder took it from; volatile"`
	LeaseExpires *time.Time      `json:"lease_expires_at,omitempty"`
	ReadyAt      *time.Time      `json:"ready_at,omitempty"`
	CreatedAt    time.Time       `json:"created_at"`
	UpdatedAt    time.Time       `json:"updated_at"`
	CompletedAt  *time.Time      `json:"completed_at,omitempty"`
	TaskTxn
}

// SubmitVerdict answers one submitted task: the task, or why it was refused.
type SubmitVerdict struct {
	TaskID   string `json:"task_id,omitempty"`
	State    string `json:"state,omitempty"`
	Replayed bool   `json:"idempotent_replayed,omitempty"`
	Error    *Error `json:"error,omitempty"`
}

// TaskFilter selects tasks in a list; zero fields match all.
type TaskFilter struct {
	FleetID, Action, Target, AgentID, SessionID string
	States                                      []string
	RollbackFailed                              bool   // only those whose rollback failed and that nobody has settled
	Limit                                       int    // 1..[MaxPage], 0 = [DefaultPage]
	Cursor                                      string // from the page before
}

// Page sizes of every list.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// MaxBatch is how many tasks or settlements one request carries at most.
const MaxBatch = 1024

// TaskPage is one page of tasks.
type TaskPage struct {
	Tasks      []Task `json:"tasks"`
	NextCursor string `json:"next_cursor,omitempty"`
}

// LeaseRequest asks for work for one agent.
type LeaseRequest struct {
	AgentID     string  `json:"agent_id"`
	Max         int     `json:"max,omitempty" doc:"1 to 1024; default 1"`
	WaitSeconds float64 `json:"wait_seconds,omitempty" doc:"How long to wait for work; default 0, at most 60"`
}

// Lease is a task handed to an agent, with its fencing token.
type Lease struct {
	TaskID         string          `json:"task_id"`
	Epoch          uint64          `json:"epoch"`
	FleetID        string          `json:"fleet_id,omitempty"`
	Action         string          `json:"action"`
	Target         string          `json:"target"`
	Description    string          `json:"description,omitempty"`
	Input          json.RawMessage `json:"input,omitempty"`
	Context        json.RawMessage `json:"context,omitempty"`
	Priority       string          `json:"priority,omitempty"`
	Guarantee      string          `json:"guarantee,omitempty"`
	Attempt        int             `json:"attempt" doc:"1 for the first"`
	LeaseSeconds   float64         `json:"lease_seconds"`
	IdempotencyKey string          `json:"idempotency_key,omitempty"`
	Deadline       *time.Time      `json:"deadline,omitempty"`
	SessionID      string          `json:"session_id,omitempty"`
	ParentTaskID   string          `json:"parent_task_id,omitempty"`
	Checkpoint     *Checkpoint     `json:"checkpoint,omitempty" doc:"What the holder before saved"`
}

// Leases answers a LeaseRequest; empty when nothing came within the wait.
type Leases struct {
	Tasks []Lease `json:"tasks"`
}

// Claim proves that the caller holds a task.
type Claim struct {
	AgentID  string          `json:"agent_id"`
	Epoch    uint64          `json:"epoch"`
	Progress json.RawMessage `json:"progress,omitempty" doc:"progress only: any JSON up to 4 KiB"`
}

// Settlement ends one held task: complete or fail.
type Settlement struct {
	TaskID  string          `json:"task_id"`
	AgentID string          `json:"agent_id,omitempty" doc:"In a batch, default the batch's agent"`
	Epoch   uint64          `json:"epoch"`
	Verdict string          `json:"verdict" enum:"complete,fail,unknown" doc:"unknown: the agent can't tell whether the effect happened"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   string          `json:"error,omitempty" doc:"fail: why"`
	NoRetry bool            `json:"no_retry,omitempty" doc:"fail: do not try again whatever the policy"`
}

// SettleVerdict answers one settlement.
type SettleVerdict struct {
	TaskID   string `json:"task_id"`
	State    string `json:"state,omitempty"`
	Replayed bool   `json:"idempotent_replayed,omitempty"`
	Error    *Error `json:"error,omitempty"`
}

// Held is one task an agent believes it holds, told when it reconnects.
type Held struct {
	TaskID string `json:"task_id"`
	Epoch  uint64 `json:"epoch"`
}

// SessionEvent is one line of an agent's session stream.
type SessionEvent struct {
	Type   string `json:"type" enum:"hello,revoked,recall,ping,end" doc:"recall, over streams only: give the task back if it was not started"`
	TaskID string `json:"task_id,omitempty"`
	Epoch  uint64 `json:"epoch,omitempty"`
	Reason string `json:"reason,omitempty" doc:"cancelled, timed_out, stale_lease, …"`
	Error  *Error `json:"error,omitempty" doc:"end: why the node ended the session"`
}

// EventRecall is the type of an event that asks for a task.
const EventRecall = "recall"

// Why explains where a task stands and why.
type Why struct {
	TaskID  string   `json:"task_id"`
	State   string   `json:"state"`
	Summary string   `json:"summary"`
	Details []string `json:"details,omitempty"`
}

// Renewal answers start, renew and progress.
type Renewal struct {
	TaskID    string    `json:"task_id"`
	Epoch     uint64    `json:"epoch"`
	State     string    `json:"state"`
	ExpiresAt time.Time `json:"lease_expires_at"`
}

// ExactlyOnce says that a guarantee level, as a task or a lease names it, is
// exactly_once.
func ExactlyOnce(level string) bool { return level == "exactly_once" || level == "atp-3" }
