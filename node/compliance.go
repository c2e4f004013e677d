package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/compliance"
)

// ruleBook keeps parsed packs. A version never changes, so a name is enough; a
// pack that was removed costs its memory until the node restarts.
type ruleBook struct{ parsed sync.Map } // name → *compliance.Pack

// pack parses what the control shard holds. It was parsed before it was
// entered, so a mistake means that another version of the program entered it.
func (b *ruleBook) pack(p ledger.Pack) (*compliance.Pack, error) {
	if x, ok := b.parsed.Load(p.Name); ok {
		return x.(*compliance.Pack), nil
	}
	x, err := compliance.Parse(p.Text)
	if err != nil {
		return nil, err
	}
	b.parsed.Store(p.Name, x)
	return x, nil
}

// packsOf are the packs that bind a fleet, as this node's control replica has
// them: a binding counts on a node when it is applied there.
func (n *core) packsOf(fleet string) ([]*compliance.Pack, *api.Error) {
	var bound []ledger.Pack
	n.control.view(func(c *ledger.Control) { bound = c.Binding(fleet) })
	if len(bound) == 0 {
		return nil, nil
	}
	return n.parsePacks(bound)
}

func (n *core) parsePacks(bound []ledger.Pack) ([]*compliance.Pack, *api.Error) {
	out := make([]*compliance.Pack, len(bound))
	for i, p := range bound {
		x, err := n.rules.pack(p)
		if err != nil {
			return nil, api.Errorf(503, 7, "rule_pack_unreadable", api.RetryNo, "pack %s does not parse on this node: %v", p.Name, err).
				WithHint("update this node, or bind the fleet to another version")
		}
		out[i] = x
	}
	return out, nil
}

// PutPack checks and enters a rule pack.
func (n *core) PutPack(ctx context.Context, in api.PackText) (api.RulePack, error) {
	p, err := compliance.Parse([]byte(in.Text))
	if err != nil {
		return api.RulePack{}, errPack(err)
	}
	if e := checkNames("by, or the pack's name", in.By, p.Name()); e != nil {
		return api.RulePack{}, e
	}
	if err := n.controlChange(ctx, &ledger.PackPut{Name: p.Name(), Text: []byte(in.Text), By: in.By}); err != nil {
		return api.RulePack{}, err
	}
	return n.Pack(ctx, p.Name())
}

func errPack(err error) *api.Error {
	return api.Errorf(422, 7, "rule_pack_invalid", api.RetryNo, "%v", err).
		WithHint("correct what is named; quorate compliance example prints a pack to start from")
}

// controlChange proposes a change of packs or bindings.
func (n *core) controlChange(ctx context.Context, c ledger.Command) error {
	a := n.do(ctx, controlShard, []ledger.Command{c})[0]
	switch {
	case a.err != nil:
		return asAPIError(a.err)
	case a.outcome.Code == ledger.OK:
		return nil
	}
	status, code := 422, a.outcome.Code.String()
	switch a.outcome.Code {
	case ledger.NotFound:
		status, code = 404, "rule_pack_not_found"
	case ledger.Exists:
		status, code = 409, "rule_pack_version_exists"
	case ledger.BadState:
		status, code = 409, "rule_pack_bound"
	}
	return api.Errorf(status, 7, code, api.RetryNo, "%s", a.outcome.Detail)
}

// packsRequest asks the control shard's leader for packs.
type packsRequest struct {
	Names []string `json:"names,omitempty"`
	Fleet string   `json:"fleet,omitempty"` // those that bind it, when no names are given
	Text  bool     `json:"text,omitempty"`
}

func (n *core) packsHere(ctx context.Context, q packsRequest) ([]api.RulePack, error) {
	if err := n.barrier(ctx, controlShard); err != nil {
		return nil, err
	}
	var packs []ledger.Pack
	var bindings []ledger.Binding
	n.control.view(func(c *ledger.Control) {
		packs, bindings = c.Packs(), c.Bindings()
		if q.Fleet != "" && len(q.Names) == 0 {
			packs = c.Binding(q.Fleet)
		}
	})
	if len(q.Names) > 0 {
		named := make([]ledger.Pack, len(q.Names))
		for k, name := range q.Names {
			i := slices.IndexFunc(packs, func(p ledger.Pack) bool { return p.Name == name })
			if i < 0 {
				return nil, errNoPack(name)
			}
			named[k] = packs[i]
		}
		packs = named
	}
	out := make([]api.RulePack, len(packs))
	for i, p := range packs {
		out[i] = n.renderPack(p, bindings)
		if q.Text {
			out[i].Text = string(p.Text)
		}
	}
	return out, nil
}

func (n *core) readPacks(ctx context.Context, q packsRequest) ([]api.RulePack, error) {
	return read(ctx, n, controlShard, methodPacks, q, n.packsHere)
}

// Packs lists the rule packs.
func (n *core) Packs(ctx context.Context) (api.PackPage, error) {
	list, err := n.readPacks(ctx, packsRequest{})
	return api.PackPage{Packs: list}, err
}

// Pack reads one, with its rules and its text.
func (n *core) Pack(ctx context.Context, name string) (api.RulePack, error) {
	list, err := n.readPacks(ctx, packsRequest{Names: []string{name}, Text: true})
	if err != nil {
		return api.RulePack{}, err
	}
	p := list[0]
	if x, err := n.rules.pack(ledger.Pack{Name: p.Name, Text: []byte(p.Text)}); err == nil {
		if p.Rules, err = json.Marshal(x.Rules); err != nil {
			return p, err
		}
	}
	return p, nil
}

func errNoPack(name string) *api.Error {
	return api.Errorf(404, 7, "rule_pack_not_found", api.RetryNo, "there is no rule pack %q", name).
		WithHint("names are ID@version; GET /v1/compliance/packs lists them")
}

func (n *core) renderPack(p ledger.Pack, bindings []ledger.Binding) api.RulePack {
	out := api.RulePack{Name: p.Name, EnteredBy: p.By, EnteredAt: time.UnixMilli(p.Millis).UTC(), Fleets: []string{}}
	for _, b := range bindings {
		if slices.Contains(b.Packs, p.Name) {
			out.Fleets = append(out.Fleets, b.Fleet)
		}
	}
	if x, err := n.rules.pack(p); err == nil {
		out.Title, out.Regulation, out.RuleCount, out.SHA256 = x.Title, x.Regulation, len(x.Rules), x.DigestHex()
	}
	return out
}

// RemovePack removes a rule pack that binds no fleet.
func (n *core) RemovePack(ctx context.Context, name, by string) error {
	if e := checkNames("by", by); e != nil {
		return e
	}
	return n.controlChange(ctx, &ledger.PackRemove{Name: name, By: by})
}

// BindFleet replaces the packs of a fleet.
func (n *core) BindFleet(ctx context.Context, in api.FleetPacks) (api.FleetPacks, error) {
	if in.FleetID == "" || len(in.FleetID) > MaxNameBytes {
		return api.FleetPacks{}, errInvalid("fleet_id is missing or too long")
	}
	if e := checkNames("by or fleet_id", in.By, in.FleetID); e != nil {
		return api.FleetPacks{}, e
	}
	err := n.controlChange(ctx, &ledger.FleetBind{Fleet: in.FleetID, Packs: in.Packs, By: in.By})
	if in.Packs == nil {
		in.Packs = []string{}
	}
	return api.FleetPacks{FleetID: in.FleetID, Packs: in.Packs}, err
}

// ValidateCompliance says what the rules would make of an intent.
func (n *core) ValidateCompliance(ctx context.Context, in api.ComplianceRequest) (api.ComplianceDecision, error) {
	spec, apiErr := n.parseSpec(&in.Task, n.nowMillis())
	if apiErr != nil {
		return api.ComplianceDecision{}, apiErr
	}
	terms, _, apiErr := n.parseTerms(&in.Task, spec)
	if apiErr != nil {
		return api.ComplianceDecision{}, apiErr
	}
	list, err := n.readPacks(ctx, packsRequest{Names: in.Packs, Fleet: spec.Fleet, Text: true})
	if err != nil {
		return api.ComplianceDecision{}, err
	}
	bound := make([]ledger.Pack, len(list))
	for i, p := range list {
		bound[i] = ledger.Pack{Name: p.Name, Text: []byte(p.Text)}
	}
	packs, apiErr := n.parsePacks(bound)
	if apiErr != nil {
		return api.ComplianceDecision{}, apiErr
	}
	if in.Text != "" {
		p, err := compliance.Parse([]byte(in.Text))
		if err != nil {
			return api.ComplianceDecision{}, errPack(err)
		}
		packs = append(packs, p)
	}
	d, err := compliance.Evaluate(packs, complianceIntent(intentOf(spec, &terms, in.AgentID)))
	if err != nil {
		return api.ComplianceDecision{}, errInvalid(err.Error())
	}
	return renderDecision(&d), nil
}

func renderDecision(d *compliance.Decision) api.ComplianceDecision {
	out := api.ComplianceDecision{Decision: "allow", Packs: d.Packs, Triggered: d.Triggered, Approvers: d.Approvers, Guarantee: d.Level,
		Violations: []api.RuleViolation{}}
	if v := d.Decisive(); v != nil {
		out.Decision = string(v.Effect)
	}
	for _, v := range d.Violations {
		out.Violations = append(out.Violations, api.RuleViolation{Pack: v.Pack, Rule: v.Rule, Reference: v.Reference, Severity: string(v.Severity),
			Effect: string(v.Effect), Message: v.Message, Why: v.Why, Evidence: v.Evidence})
	}
	return out
}

// ExamplePack is a small rule pack to start from, as YAML.
func ExamplePack() []byte { return slices.Clone(compliance.Example) }

func complianceIntent(in Intent) *compliance.Intent {
	return &compliance.Intent{Fleet: in.Fleet, Agent: in.Agent, Session: in.Session, Action: in.Action, Target: in.Target, Description: in.Description,
		Guarantee: in.Guarantee.String(), Reversible: in.Reversible, Approvers: in.Approvers, Classification: in.Classification,
		Regulations: in.Regulations, Input: in.Input, Context: in.Context}
}

// ruling is what policy and rule packs together say of an intent; the stricter
// wins. d is nil when no rule of a pack is about it.
func (n *core) ruling(in Intent) (r Ruling, d *compliance.Decision, e *api.Error) {
	r = n.policy(in)
	packs, e := n.packsOf(in.Fleet)
	if e != nil || len(packs) == 0 {
		return r, nil, e
	}
	x, err := compliance.Evaluate(packs, complianceIntent(in))
	if err != nil {
		return r, nil, errInvalid(err.Error())
	}
	if x.Triggered == 0 {
		return r, nil, nil
	}
	if v := x.Decisive(); v != nil && !r.Refuse {
		r.Rule, r.Pack, r.Message = v.Rule, v.Pack, v.Message
		r.Refuse = x.Refused
		r.Approvers = max(r.Approvers, x.Approvers)
		r.Approve = r.Approve && x.Approvers == 0
		if level, err := ledger.ParseGuarantee(x.Level); err == nil {
			r.Guarantee = max(r.Guarantee, level)
		}
	}
	return r, &x, nil
}

// ruled is the record of what rule packs decided about an intent.
func ruled(id ledger.TaskID, s *ledger.Spec, m *ledger.Terms, hash [32]byte, d *compliance.Decision) *ledger.Ruled {
	c := &ledger.Ruled{ID: id, Fleet: s.Fleet, Capability: s.Action + ":" + s.Target, Guarantee: s.Guarantee, By: s.SubmittedBy,
		Packs: strings.Join(d.Packs, ","), Classification: m.Classification, RequestHash: hash,
		Regulations: d.References(&compliance.Intent{Regulations: m.Regulations})}
	if d.Refused {
		c.Code = ledger.ComplianceRefused
	}
	var says, evidence []string
	for _, v := range d.Violations {
		says = append(says, fmt.Sprintf("%s: rule %s of %s: %s", v.Effect, v.Rule, v.Pack, v.Message))
		for _, f := range slices.Sorted(maps.Keys(v.Evidence)) {
			evidence = append(evidence, f+" sha256:"+v.Evidence[f])
		}
	}
	if len(says) == 0 {
		says = []string{fmt.Sprintf("allowed by %d rules", d.Triggered)}
	}
	c.Detail, c.Evidence = strings.Join(says, "; "), strings.Join(slices.Compact(evidence), " ")
	return c
}
