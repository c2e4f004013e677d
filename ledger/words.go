package ledger

import "fmt"

// State is where a task stands.
type State uint8

// The states, with the numbers of the log's format.
const (
	StateSubmitted State = iota + 1
	StateAwaitingApproval
	StateReady
	StateAssigned // known to the leader only
	StateRunning  // known to the leader only
	StateCompleted
	StateFailed
	StateCancelled
	StateTimedOut
	StateUnknown
	StateRollingBack
	StateRolledBack
	stateEnd
)

var states = [stateEnd]struct{ name, l5, l7 string }{
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

// String is the state's name; "" for what is none.
func (s State) String() string {
	if s >= stateEnd {
		return ""
	}
	return states[s].name
}

// L5 is the state in the Coordination Protocol's words, L7 in the Transaction
// Protocol's.
func (s State) L5() string {
	if s >= stateEnd {
		return ""
	}
	return states[s].l5
}

// L7 is the state in the Transaction Protocol's words.
func (s State) L7() string {
	if s >= stateEnd {
		return ""
	}
	return states[s].l7
}

// Terminal says that only a retry leaves the state.
func (s State) Terminal() bool {
	switch s {
	case StateCompleted, StateFailed, StateCancelled, StateTimedOut, StateRolledBack:
		return true
	}
	return false
}

// ParseState reads a state's name.
func ParseState(s string) (State, error) {
	for i := StateSubmitted; i < stateEnd; i++ {
		if states[i].name == s {
			return i, nil
		}
	}
	return 0, fmt.Errorf("ledger: no state %q", s)
}

// Priority orders tasks of a class.
type Priority uint8

// The priorities.
const (
	PriorityLow Priority = iota
	PriorityNormal
	PriorityHigh
	PriorityCritical
)

var priorityNames = []string{"low", "normal", "high", "critical"}

func (p Priority) String() string { return nameOf(priorityNames, int(p)) }

// ParsePriority reads a priority's name.
func ParsePriority(s string) (Priority, error) {
	i, err := indexOf(priorityNames, s, "priority")
	return Priority(i), err
}

// Guarantee is what happens when the agent disappears.
type Guarantee uint8

// The guarantee levels.
const (
	BestEffort Guarantee = iota + 1
	AtLeastOnce
	ExactlyOnce
)

var guaranteeNames = []string{"", "best_effort", "at_least_once", "exactly_once"}

func (g Guarantee) String() string { return nameOf(guaranteeNames, int(g)) }

// ParseGuarantee reads a level's name or its alias atp-1, atp-2, atp-3.
func ParseGuarantee(s string) (Guarantee, error) {
	switch s {
	case "atp-1":
		return BestEffort, nil
	case "atp-2":
		return AtLeastOnce, nil
	case "atp-3":
		return ExactlyOnce, nil
	case "":
		return 0, fmt.Errorf("ledger: no guarantee %q", s)
	}
	i, err := indexOf(guaranteeNames, s, "guarantee")
	return Guarantee(i), err
}

// Backoff is how the delay before a further attempt grows.
type Backoff uint8

// The kinds of backoff.
const (
	BackoffExponential Backoff = iota
	BackoffLinear
	BackoffFixed
)

var backoffNames = []string{"exponential", "linear", "fixed"}

func (b Backoff) String() string { return nameOf(backoffNames, int(b)) }

// ParseBackoff reads a kind's name.
func ParseBackoff(s string) (Backoff, error) {
	i, err := indexOf(backoffNames, s, "backoff")
	return Backoff(i), err
}

// Code says what was decided about a command.
type Code uint8

// The codes, with the numbers of the log's format.
const (
	OK Code = iota
	KeyReused
	NotFound
	StaleLease
	BadState
	NotDue
	Invalid
	Exists
	NodeIDTaken
	NodeRemoved
	NotYetSupported
	codeEnd
)

var codeNames = [codeEnd]string{"ok", "idempotency_key_reused", "not_found", "stale_lease", "bad_state", "not_due", "invalid",
	"exists", "node_id_taken", "node_removed", "not_yet_supported"}

// String is the stable name used in errors.
func (c Code) String() string { return nameOf(codeNames[:], int(c)) }

// AgentStatus is how an agent is.
type AgentStatus uint8

// The agent states.
const (
	AgentHealthy AgentStatus = iota + 1
	AgentDraining
	AgentUnresponsive
	AgentOffline
	AgentGone // deregistered: only in events and records
)

var agentStateNames = []string{"", "healthy", "draining", "unresponsive", "offline", "gone"}

func (s AgentStatus) String() string { return nameOf(agentStateNames, int(s)) }

// Reasons of an Expire.
const (
	ReasonLeaseExpired = "lease_expired"
	ReasonAgentLost    = "agent_lost"
)

func nameOf(names []string, i int) string {
	if i >= len(names) {
		return ""
	}
	return names[i]
}

func indexOf(names []string, s, what string) (int, error) {
	for i, n := range names {
		if n == s {
			return i, nil
		}
	}
	return 0, fmt.Errorf("ledger: no %s %q", what, s)
}
