package api

import (
	"encoding/json"
	"time"
)

// Hook is a task that the cluster makes about another one: verify or rollback.
type Hook struct {
	Action       string          `json:"action"`
	Target       string          `json:"target,omitempty" doc:"Default: the task's own"`
	Input        json.RawMessage `json:"input,omitempty" doc:"Handed to the agent; what the task is about stands in its context"`
	MaxRetries   *int            `json:"max_retries,omitempty" doc:"Default 10"`
	LeaseSeconds float64         `json:"lease_seconds,omitempty" doc:"Default: the task's own"`
	OnUnknown    *bool           `json:"on_unknown,omitempty" doc:"rollback: run it when nobody can tell whether the effect happened; default: if there is no verify"`
	OnFailure    string          `json:"on_failure,omitempty" enum:"nothing,task,session" doc:"rollback: what to undo when the last attempt failed; default nothing"`
}

// Approval says who must consent before a task may run.
type Approval struct {
	Approvers int      `json:"approvers,omitempty" doc:"Distinct people; default 1"`
	Allowed   []string `json:"allowed,omitempty" doc:"Who may; default anyone but the submitter and the agent"`
}

// Compliance is what rules and the ledger are told of a task.
type Compliance struct {
	Regulations    []string `json:"regulation_refs,omitempty"`
	Classification string   `json:"data_classification,omitempty" doc:"Of the data touched"`
}

// Checkpoint is an agent's saved progress.
type Checkpoint struct {
	Version uint64          `json:"version"`
	State   json.RawMessage `json:"state"`
	AgentID string          `json:"agent_id,omitempty"`
	Epoch   uint64          `json:"epoch,omitempty"`
	SavedAt *time.Time      `json:"saved_at,omitempty"`
}

// SaveRequest saves a checkpoint, or the target's state before the effect, for
// a held task.
type SaveRequest struct {
	AgentID string          `json:"agent_id"`
	Epoch   uint64          `json:"epoch"`
	Version uint64          `json:"version,omitempty" doc:"Greater than the one before; default the next"`
	State   json.RawMessage `json:"state" doc:"Any JSON, up to 256 KiB (a snapshot: 64 KiB)"`
}

// Consent is one person's consent.
type Consent struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// TaskTxn is what a task shows that is more than a plain one.
type TaskTxn struct {
	RequestDigest   string      `json:"request_digest,omitempty" doc:"SHA-256 of the whole request: what an approval is bound to"`
	ApproversNeeded int         `json:"approvers_needed,omitempty"`
	ApprovedBy      []Consent   `json:"approved_by,omitempty"`
	Rule            string      `json:"rule,omitempty" doc:"The rule that decided about approval"`
	RulePack        string      `json:"rule_pack,omitempty"`
	WaitsFor        []string    `json:"waits_for,omitempty"`
	Role            string      `json:"role,omitempty" doc:"verify, rollback or saga: the ledger made this task itself"`
	AboutTaskID     string      `json:"about_task_id,omitempty" doc:"verify, rollback: the task it is about"`
	VerifyTaskID    string      `json:"verify_task_id,omitempty"`
	RollbackTaskID  string      `json:"rollback_task_id,omitempty"`
	RollbackFailed  bool        `json:"rollback_failed,omitempty" doc:"Nobody has settled it yet"`
	SagaTaskID      string      `json:"saga_task_id,omitempty"`
	Steps           []string    `json:"steps,omitempty" doc:"saga: what is rolled back, in order"`
	StepsDone       int         `json:"steps_done,omitempty"`
	SelfLeased      bool        `json:"self_leased,omitempty"`
	InstanceID      string      `json:"instance_id,omitempty"`
	Checkpoint      *Checkpoint `json:"checkpoint,omitempty"`
}

// ActionRequest declares an intent: the agent that declares it performs it.
type ActionRequest struct {
	TaskSpec
	AgentID     string  `json:"agent_id"`
	InstanceID  string  `json:"instance_id,omitempty" doc:"Which process of the agent it is: another one of the same agent is told that the action is under way, instead of go again"`
	WaitSeconds float64 `json:"wait_seconds,omitempty" doc:"How long to wait for approval, or for another holder's end; default 0, at most 60"`
}

// Decisions on an intent.
const (
	DecisionGo         = "go"          // perform it, with this epoch
	DecisionDone       = "done"        // it was done before: here is the result
	DecisionWait       = "wait"        // for approval, or for the tasks it comes after
	DecisionInProgress = "in_progress" // another holder performs it
	DecisionUnknown    = "unknown"     // it may have happened: verify first
	DecisionRefused    = "refused"
)

// ActionVerdict answers a declared intent.
type ActionVerdict struct {
	Decision       string          `json:"decision" enum:"go,done,wait,in_progress,unknown,refused"`
	TaskID         string          `json:"task_id,omitempty"`
	State          string          `json:"state,omitempty"`
	Guarantee      string          `json:"guarantee,omitempty" doc:"go: the level the effect is performed at, which a rule may have raised"`
	Epoch          uint64          `json:"epoch,omitempty" doc:"The fencing token: complete and fail carry it, and so should calls to the target"`
	Replayed       bool            `json:"idempotent_replayed,omitempty"`
	LeaseSeconds   float64         `json:"lease_seconds,omitempty" doc:"Complete, fail or renew before"`
	IdempotencyKey string          `json:"idempotency_key,omitempty" doc:"For the target to honour"`
	RequestDigest  string          `json:"request_digest,omitempty"`
	Result         json.RawMessage `json:"result,omitempty" doc:"done: what the first performance answered"`
	Error          *Error          `json:"error,omitempty"`
}

// Judgement approves or rejects.
type Judgement struct {
	By     string `json:"by,omitempty" doc:"Who decides; default the X-Quorate-Actor header, else the remote address"`
	Reason string `json:"reason,omitempty"`
	Digest string `json:"request_digest,omitempty" doc:"Of the request that was looked at; default the one the ID names, which never changes"`
}

// Resolution settles a task in doubt, or one whose rollback failed.
type Resolution struct {
	As       string          `json:"as" enum:"completed,not-done,rolled-back"`
	Evidence string          `json:"evidence"`
	By       string          `json:"by,omitempty" doc:"Who says so; default the X-Quorate-Actor header, else the remote address"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// SessionRollback asks that a session's steps be undone, the last one first.
type SessionRollback struct {
	FleetID          string `json:"fleet_id,omitempty"`
	By               string `json:"by,omitempty"`
	Reason           string `json:"reason,omitempty"`
	SkipIrreversible bool   `json:"skip_irreversible,omitempty" doc:"Leave steps without a rollback as they are; default: refuse"`
}
