package node

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// Intent is what a rule decides about: a task before it is declared, and again
// before its agent is told to go.
type Intent struct {
	Fleet, Action, Target string
	Agent                 string // of an action: who declares it
	By, Session           string
	Guarantee             ledger.Guarantee
	Classification        string
	Regulations           []string
	Description           string
	Reversible            bool
	Approvers             int // asked for so far
	Input, Context        json.RawMessage
}

// Ruling is what the rules say of an intent. The zero Ruling lets it pass.
type Ruling struct {
	Refuse    bool             // it is not to happen; Rule and Message say why
	Approve   bool             // exactly_once: no human has to
	Approvers int              // at least so many people must approve
	Guarantee ledger.Guarantee // at least this level; 0: as it is
	Rule      string           // the rule that decided
	Pack      string           // its pack, id@version
	Message   string
}

// Policy decides about intents. It is called often, from many goroutines, and
// says the same of the same intent while the rules stay the same.
type Policy func(Intent) Ruling

// autoApprove is the policy of the configuration: actions that match a pattern
// need no human. A star stands for every action, or every target.
func autoApprove(patterns []string) Policy {
	return func(in Intent) Ruling {
		for _, p := range patterns {
			action, target, _ := strings.Cut(p, ":")
			if (action == "*" || action == in.Action) && (target == "*" || target == in.Target) {
				return Ruling{Approve: true, Rule: "auto-approve " + p, Pack: "configuration"}
			}
		}
		return Ruling{}
	}
}

func intentOf(s *ledger.Spec, m *ledger.Terms, agent string) Intent {
	return Intent{Fleet: s.Fleet, Action: s.Action, Target: s.Target, Agent: agent, By: s.SubmittedBy, Session: s.Session, Guarantee: s.Guarantee,
		Classification: m.Classification, Regulations: m.Regulations, Description: s.Description, Reversible: s.Reversible,
		Approvers: int(m.Approvers), Input: s.Input, Context: s.Context}
}

// rule applies policy and rule packs to a task about to be declared. What packs
// decided is to be recorded first; nil when none has a rule about it.
func (n *core) rule(id ledger.TaskID, hash [32]byte, s *ledger.Spec, m *ledger.Terms, agent string) (*ledger.Ruled, *api.Error) {
	r, d, err := n.ruling(intentOf(s, m, agent))
	if err != nil {
		return nil, err
	}
	var record *ledger.Ruled
	if d != nil {
		record = ruled(id, s, m, hash, d)
	}
	if r.Refuse {
		return record, errRule(r)
	}
	raised := r.Guarantee > s.Guarantee
	s.Guarantee = max(s.Guarantee, r.Guarantee)
	if raised && s.Guarantee == ledger.ExactlyOnce {
		if err := onceTerms(s, m); err != nil {
			err.Detail = fmt.Sprintf("rule %s (%s) raises the level: %s", r.Rule, r.Pack, err.Detail)
			return record, err
		}
	}
	need := approvalsNeeded(s.Guarantee, int(m.Approvers), r)
	if need != int(m.Approvers) || r.Approve || raised {
		m.Rule, m.Pack = r.Rule, r.Pack
	}
	m.Approvers = uint32(need)
	return record, nil
}

// approvalsNeeded is how many people must approve a task of a level, asked of
// which its submitter has asked for some: one for exactly_once, unless a rule
// says that none has to.
func approvalsNeeded(g ledger.Guarantee, asked int, r Ruling) int {
	need := max(asked, r.Approvers)
	if g == ledger.ExactlyOnce && need == 0 && !r.Approve {
		need = 1
	}
	return min(need, ledger.MaxApprovers)
}

func errRule(r Ruling) *api.Error {
	return api.Errorf(403, 7, "rule_violated", api.RetryNo, "rule %s (%s): %s", r.Rule, r.Pack, r.Message).
		WithHint("change the request, or the rules")
}

// revalidate asks the rules again about a task whose agent may be told to go
// next: what they decided, to be recorded first, and with stop the command to
// decide instead. A task that waits is asked about too, for an approval under
// way may precede the intent in the log; that it passes is recorded only once
// it is ready, or each look at it would be. An agent, if one is named, that
// approved the task is stopped.
func (n *core) revalidate(id ledger.TaskID, agent string) (cmds []ledger.Command, stop bool, e *api.Error) {
	m := n.taskShard(id.Shard())
	if m == nil {
		return nil, false, nil
	}
	t, ok, err := m.task(id)
	if err != nil || !ok || t.Txn == nil || t.Txn.Role != ledger.RoleNone {
		return nil, false, nil
	}
	if agent != "" && approvedBy(&t, agent) { // the ledger would refuse, and record it, each time
		return nil, true, nil
	}
	ready := t.State == ledger.StateReady
	if !ready && t.State != ledger.StateAwaitingApproval && t.State != ledger.StateSubmitted {
		return nil, false, nil
	}
	r, d, unreadable := n.ruling(intentOf(&t.Spec, &t.Txn.Terms, t.Agent))
	switch {
	case unreadable != nil && !ready: // nobody learns anything until the rules can be asked
		return nil, true, unreadable
	case unreadable != nil: // it waits for a person until then
		return []ledger.Command{&ledger.Hold{ID: id, Approvers: uint32(len(t.Txn.Approvals) + 1), Rule: unreadable.Code}}, true, nil
	}
	if d != nil {
		c := ruled(id, &t.Spec, &t.Txn.Terms, t.RequestHash, d)
		c.Detail = "asked again: " + c.Detail
		cmds = append(cmds, c)
	}
	have := len(t.Txn.Approvals) // a task that waits gets what it asks for
	if !ready {
		have = int(t.Txn.Terms.Approvers)
	}
	need := approvalsNeeded(t.Spec.Guarantee, int(t.Txn.Terms.Approvers), r)
	if ready && r.Guarantee > t.Spec.Guarantee && (r.Rule != t.Txn.Terms.Rule || r.Pack != t.Txn.Terms.Pack) {
		need = min(max(need, have+1), ledger.MaxApprovers) // its level stays what was declared: one more person decides
	}
	switch {
	case r.Refuse:
		return append(cmds, &ledger.Cancel{ID: id, By: "rule " + r.Rule, Reason: r.Message}), true, nil
	case need > have:
		return append(cmds, &ledger.Hold{ID: id, Approvers: uint32(need), Rule: r.Rule, Pack: r.Pack}), true, nil
	case !ready:
		return nil, false, nil
	}
	return cmds, false, nil
}

// approvedBy says that a person approved a task, who may not perform it then.
func approvedBy(t *ledger.Task, by string) bool {
	return t.Txn != nil && slices.ContainsFunc(t.Txn.Approvals, func(a ledger.Approval) bool { return a.By == by })
}
