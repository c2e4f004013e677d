package compliance

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Intent is what is about to be done.
type Intent struct {
	Fleet, Agent, Session string
	Action, Target        string
	Description           string
	Guarantee             string // best_effort, at_least_once or exactly_once
	Reversible            bool
	Approvers             int // asked for by the submitter
	Classification        string
	Regulations           []string
	Input, Context        json.RawMessage
}

// Violation is one rule that does not hold.
type Violation struct {
	Pack      string            `json:"pack"` // ID@version
	Rule      string            `json:"rule"`
	Reference string            `json:"regulation_ref,omitempty"`
	Severity  Severity          `json:"severity"`
	Effect    Effect            `json:"effect"`
	Message   string            `json:"message"`
	Why       string            `json:"why"`                       // which validation, and what it found
	Evidence  map[string]string `json:"evidence_sha256,omitempty"` // field → SHA-256 of its JSON
	approvers int
	level     string
}

// Decision is what the packs say about an intent.
type Decision struct {
	Packs      []string    `json:"packs"` // that were asked, ID@version
	Triggered  int         `json:"rules_triggered"`
	Refused    bool        `json:"refused"`
	Approvers  int         `json:"approvers_required"`           // at least so many
	Level      string      `json:"guarantee_required,omitempty"` // at least this one
	Violations []Violation `json:"violations"`
}

// Decisive is the first violation of the strictest effect that took place, nil
// without one.
func (d *Decision) Decisive() *Violation {
	var out *Violation
	rank := map[Effect]int{RaiseLevel: 1, RequireApproval: 2, Refuse: 3}
	for i := range d.Violations {
		if v := &d.Violations[i]; rank[v.Effect] > 0 && (out == nil || rank[v.Effect] > rank[out.Effect]) {
			out = v
		}
	}
	return out
}

// References are the regulations of all violated rules and of the intent,
// without repetition, in order.
func (d *Decision) References(in *Intent) []string {
	var out []string
	seen := map[string]bool{}
	add := func(ref string) {
		if ref != "" && !seen[ref] {
			seen[ref] = true
			out = append(out, ref)
		}
	}
	for _, ref := range in.Regulations {
		add(ref)
	}
	for i := range d.Violations {
		add(d.Violations[i].Reference)
	}
	return out
}

func levelRank(level string) int {
	switch level {
	case "at_least_once":
		return 1
	case "exactly_once":
		return 2
	}
	return 0
}

// Evaluate checks an intent against packs, in their order. An error means that
// the intent's JSON does not parse.
func Evaluate(packs []*Pack, in *Intent) (Decision, error) {
	d := Decision{Packs: []string{}, Violations: []Violation{}}
	var task map[string]any
	for _, p := range packs {
		d.Packs = append(d.Packs, p.Name())
		for i := range p.Rules {
			r := &p.Rules[i]
			if !r.Trigger.fits(in.Action, in.Target, in.Classification) {
				continue
			}
			if task == nil {
				var err error
				if task, err = in.fields(); err != nil {
					return d, err
				}
			}
			d.Triggered++
			if v, ok := r.violated(p, task); ok {
				d.add(v, in)
			}
		}
	}
	return d, nil
}

// add notes a violation and its effect. A level that is there already, or
// approvers that are asked for already, fulfil the rule.
func (d *Decision) add(v Violation, in *Intent) {
	switch v.Effect {
	case RequireApproval:
		if in.Approvers >= v.approvers {
			return
		}
		d.Approvers = max(d.Approvers, v.approvers)
	case RaiseLevel:
		if levelRank(in.Guarantee) >= levelRank(v.level) {
			return
		}
		if levelRank(v.level) > levelRank(d.Level) {
			d.Level = v.level
		}
	case Refuse:
		d.Refused = true
	}
	d.Violations = append(d.Violations, v)
}

func (r *Rule) violated(p *Pack, task map[string]any) (Violation, bool) {
	for i := range r.Validations {
		check := &r.Validations[i]
		ok, why := check.holds(task)
		if ok {
			continue
		}
		message := check.Message
		if message == "" {
			message = r.Message
		}
		return Violation{Pack: p.Name(), Rule: r.ID, Reference: r.Reference, Severity: r.Severity, Effect: r.Effect, Message: message,
			Why: why, Evidence: r.evidence(task), approvers: r.Approvers, level: r.Level}, true
	}
	return Violation{}, false
}

// evidence keeps digests: what a rule looked at can be proved later by who has
// the value, and the record tells nobody else.
func (r *Rule) evidence(task map[string]any) map[string]string {
	if len(r.Evidence) == 0 {
		return nil
	}
	out := make(map[string]string, len(r.Evidence))
	for _, f := range r.Evidence {
		if value, ok := lookup(task, f); ok {
			b, err := json.Marshal(value) // sorted keys, what JSON decoding made
			if err != nil {
				continue
			}
			sum := sha256.Sum256(b)
			out[f] = hex.EncodeToString(sum[:])
		}
	}
	return out
}

// fields are what rules see.
func (in *Intent) fields() (map[string]any, error) {
	refs := make([]any, len(in.Regulations))
	for i, s := range in.Regulations {
		refs[i] = s
	}
	task := map[string]any{
		"action": in.Action, "target": in.Target, "verb": in.Action + ":" + in.Target, "reversible": in.Reversible,
		"approvers": in.Approvers, "regulation_refs": refs, "guarantee": in.Guarantee,
	}
	for name, text := range map[string]string{"fleet_id": in.Fleet, "agent_id": in.Agent, "session_id": in.Session,
		"description": in.Description, "data_classification": in.Classification} {
		if text != "" {
			task[name] = text
		}
	}
	for name, raw := range map[string]json.RawMessage{"input": in.Input, "context": in.Context} {
		if len(raw) == 0 {
			continue
		}
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("%s is not JSON: %w", name, err)
		}
		task[name] = v
	}
	return task, nil
}
