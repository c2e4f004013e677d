package ledger

import "fmt"

// State is where a task stands. Numbers are part of the codec: they never
// change. Assigned and running are told apart by the shard leader's leases
// only: the ledger keeps such tasks in ready.
type State uint8

// The states.
const (
	StateSubmitted State = iota + 1
	StateAwaitingApproval
	StateReady
	StateAssigned
	StateRunning
	StateCompleted
	StateFailed
	StateCancelled
	StateTimedOut
	StateUnknown
	StateRollingBack
	StateRolledBack

	stateEnd
)

// NumStates bounds arrays indexed by State; index 0 is unused.
const NumStates = int(stateEnd)

// stateNames: name, L5 name (Coordination Protocol), L7 name (Transaction
// Protocol).
var stateNames = [NumStates][3]string{
	StateSubmitted:        {"submitted", "SUBMITTED", "INTENDED"},
	StateAwaitingApproval: {"awaiting_approval", "SUBMITTED", "INTENDED"},
	StateReady:            {"ready", "SUBMITTED", "APPROVED"},
	StateAssigned:         {"assigned", "ASSIGNED", "APPROVED"},
	StateRunning:          {"running", "IN_PROGRESS", "EXECUTING"},
	StateCompleted:        {"completed", "COMPLETED", "COMPLETED"},
	StateFailed:           {"failed", "FAILED", "FAILED"},
	StateCancelled:        {"cancelled", "CANCELLED", "FAILED"},
	StateTimedOut:         {"timed_out", "TIMED_OUT", "FAILED"},
	StateUnknown:          {"unknown", "IN_PROGRESS", "EXECUTING"},
	StateRollingBack:      {"rolling_back", "FAILED", "ROLLING_BACK"},
	StateRolledBack:       {"rolled_back", "FAILED", "ROLLED_BACK"},
}

// String is the state's name; empty for a number that is no state.
func (s State) String() string { return s.name(0) }

// L5 is the state in the Coordination Protocol's words.
func (s State) L5() string { return s.name(1) }

// L7 is the state in the Transaction Protocol's words.
func (s State) L7() string { return s.name(2) }

func (s State) name(i int) string {
	if s >= stateEnd {
		return ""
	}
	return stateNames[s][i]
}

// Terminal says that nothing but a retry leaves the state.
func (s State) Terminal() bool {
	return s >= StateCompleted && s <= StateTimedOut || s == StateRolledBack
}

// ParseState reads a state's name.
func ParseState(name string) (State, error) {
	for s := StateSubmitted; s < stateEnd; s++ {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("ledger: no state %q", name)
}

// Priority orders ready tasks.
type Priority uint8

// The priorities.
const (
	PriorityLow Priority = iota
	PriorityNormal
	PriorityHigh
	PriorityCritical
)

var priorityNames = []string{"low", "normal", "high", "critical"}

func (p Priority) String() string { return word(priorityNames, uint8(p)) }

// ParsePriority reads a priority's name.
func ParsePriority(name string) (Priority, error) {
	i, err := parseWord("priority", priorityNames, name)
	return Priority(i), err
}

// Guarantee says what happens to a task whose agent disappears.
type Guarantee uint8

// The guarantees.
const (
	BestEffort Guarantee = iota + 1
	AtLeastOnce
	ExactlyOnce
)

var guaranteeNames = []string{"", "best_effort", "at_least_once", "exactly_once"}
var guaranteeAliases = []string{"", "atp-1", "atp-2", "atp-3"}

func (g Guarantee) String() string { return word(guaranteeNames, uint8(g)) }

// ParseGuarantee reads a guarantee's name or its Transaction Protocol alias.
func ParseGuarantee(name string) (Guarantee, error) {
	i, err := parseWord("guarantee", guaranteeNames[1:], name)
	if err != nil {
		alias, aerr := parseWord("guarantee", guaranteeAliases[1:], name)
		if aerr != nil {
			return 0, err
		}
		i = alias
	}
	return Guarantee(i + 1), nil
}

// Backoff is how the delay between attempts grows.
type Backoff uint8

// The backoffs.
const (
	BackoffExponential Backoff = iota
	BackoffLinear
	BackoffFixed
)

var backoffNames = []string{"exponential", "linear", "fixed"}

func (b Backoff) String() string { return word(backoffNames, uint8(b)) }

// ParseBackoff reads a backoff's name.
func ParseBackoff(name string) (Backoff, error) {
	i, err := parseWord("backoff", backoffNames, name)
	return Backoff(i), err
}

// Reason is why a lease ended without its holder.
type Reason uint8

// The reasons.
const (
	ReasonLeaseExpired Reason = iota
	ReasonAgentLost
)

var reasonNames = []string{"lease_expired", "agent_lost"}

func (r Reason) String() string { return word(reasonNames, uint8(r)) }

// Resolution is what a human says of a task in doubt.
type Resolution uint8

// The resolutions.
const (
	ResolveCompleted  Resolution = iota + 1 // the effect happened
	ResolveNotDone                          // it did not
	ResolveRolledBack                       // it was undone
	resolutionEnd
)

var resolutionNames = []string{"", "completed", "not-done", "rolled-back"}

func (r Resolution) String() string { return word(resolutionNames, uint8(r)) }

// ParseResolution reads a resolution's name.
func ParseResolution(name string) (Resolution, error) {
	i, err := parseWord("resolution", resolutionNames[1:], name)
	return Resolution(i + 1), err
}

var roleNames = []string{"", "verify", "rollback", "saga"}

func (r Role) String() string { return word(roleNames, uint8(r)) }

// AgentStatus is the state of an agent.
type AgentStatus uint8

// The agent states. AgentGone is said of an agent that was deregistered; none is
// kept in it.
const (
	AgentHealthy AgentStatus = iota + 1
	AgentDraining
	AgentUnresponsive
	AgentOffline
	AgentGone
)

var agentStatusNames = []string{"", "healthy", "draining", "unresponsive", "offline", "gone"}

func (s AgentStatus) String() string { return word(agentStatusNames, uint8(s)) }

// Code is what became of a command: OK, or why it was refused. Numbers are
// part of the codec: they never change.
type Code uint8

// The codes.
const (
	OK                Code = iota
	KeyReused              // the idempotency key belongs to another request
	NotFound               // no such task or agent
	StaleLease             // the epoch is over
	BadState               // not possible in the state the task is in
	NotDue                 // nothing to do (yet): the clock, the epoch or the task has moved
	Invalid                // malformed whatever the state; Detail says what
	Exists                 // the ID, or the cluster, is there already
	NodeIDTaken            // the node ID belongs to another raft identity
	NodeRemoved            // that raft identity was removed and never returns
	NotYetSupported        // a later version does this
	InProgress             // another holder performs it
	DigestMismatch         // another request than the one the task was declared with
	SelfApproval           // who asks for it, or performs it, may not approve it
	AlreadyApproved        // one person approves once
	NotApprover            // not one of those who may approve it
	DeadlinePassed         // the task's deadline has passed
	Irreversible           // no compensation was declared
	ResultDiffers          // confirmed before, with another result
	CheckpointStale        // a newer task checkpoint is there
	DependencyMissing      // a task named in after does not exist
	NotAdmitted            // the node was not admitted to the cluster
	MembersBusy            // another node is leaving, or too many are about to come
	LastMembers            // too few nodes would be left
	ComplianceRefused      // a rule of a pack that binds the fleet is violated
	TooManyDependents      // as many tasks as may be wait for that one

	codeEnd
)

var codeNames = []string{"ok", "idempotency_key_reused", "not_found", "stale_lease", "bad_state", "not_due", "invalid", "exists",
	"node_id_taken", "node_removed", "not_yet_supported", "in_progress", "digest_mismatch", "self_approval", "already_approved", "not_an_approver",
	"deadline_passed", "irreversible", "result_differs", "checkpoint_stale", "dependency_missing",
	"not_admitted", "membership_change_under_way", "too_few_nodes_left", "compliance_refused",
	"too_many_dependents"}

// String is the stable name used in errors and records.
func (c Code) String() string { return word(codeNames, uint8(c)) }

func word(names []string, i uint8) string {
	if int(i) >= len(names) {
		return ""
	}
	return names[i]
}

func parseWord(what string, names []string, name string) (int, error) {
	for i, n := range names {
		if n == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("ledger: no %s %q", what, name)
}
