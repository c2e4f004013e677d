package api

import (
	"encoding/json"
	"time"
)

// RulePack is a compliance rule pack as the cluster has it. A version never
// changes: another text wants another version.
type RulePack struct {
	Name       string          `json:"name" doc:"ID@version"`
	Title      string          `json:"title,omitempty"`
	Regulation string          `json:"regulation,omitempty"`
	RuleCount  int             `json:"rule_count"`
	SHA256     string          `json:"sha256" doc:"Of the text, hexadecimal"`
	EnteredBy  string          `json:"entered_by,omitempty"`
	EnteredAt  time.Time       `json:"entered_at"`
	Fleets     []string        `json:"fleets" doc:"Fleets whose intents are checked against it"`
	Rules      json.RawMessage `json:"rules,omitempty" doc:"One pack only: the rules as parsed"`
	Text       string          `json:"text,omitempty" doc:"One pack only: the YAML as entered"`
}

// PackPage lists rule packs, by name.
type PackPage struct {
	Packs []RulePack `json:"packs"`
}

// PackText enters a rule pack.
type PackText struct {
	Text string `json:"text" doc:"YAML"`
	By   string `json:"by,omitempty" doc:"Who asks; default the X-Quorate-Actor header, else the remote address"`
}

// FleetPacks says which packs a fleet's intents are checked against, in order.
type FleetPacks struct {
	FleetID string   `json:"fleet_id,omitempty"`
	Packs   []string `json:"packs" doc:"Names, ID@version; none: the fleet is not checked"`
	By      string   `json:"by,omitempty"`
}

// ComplianceRequest asks what the rules say of an intent. Nothing is declared.
type ComplianceRequest struct {
	Task    TaskSpec `json:"task" doc:"The intent as it would be submitted"`
	AgentID string   `json:"agent_id,omitempty" doc:"Who would perform it"`
	Packs   []string `json:"packs,omitempty" doc:"In place of those that bind the fleet"`
	Text    string   `json:"pack_text,omitempty" doc:"A pack in YAML to try, asked after the others"`
}

// RuleViolation is one rule that does not hold.
type RuleViolation struct {
	Pack      string            `json:"pack"`
	Rule      string            `json:"rule"`
	Reference string            `json:"regulation_ref,omitempty"`
	Severity  string            `json:"severity" enum:"critical,warning"`
	Effect    string            `json:"effect" enum:"refuse,require_approval,raise_level,warn"`
	Message   string            `json:"message"`
	Why       string            `json:"why" doc:"Which validation, and what it found"`
	Evidence  map[string]string `json:"evidence_sha256,omitempty" doc:"Field to SHA-256 of its JSON"`
}

// ComplianceDecision is what the rules say of an intent.
type ComplianceDecision struct {
	Decision   string          `json:"decision" enum:"allow,refuse,require_approval,raise_level" doc:"The strictest effect; the fields below have all"`
	Packs      []string        `json:"packs" doc:"Asked, in order"`
	Triggered  int             `json:"rules_triggered"`
	Approvers  int             `json:"approvers_required,omitempty" doc:"At least so many people must approve"`
	Guarantee  string          `json:"guarantee_required,omitempty" doc:"At least this level"`
	Violations []RuleViolation `json:"violations"`
}
