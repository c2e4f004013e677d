package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// TestCompliance walks a fleet under the example pack through three nodes: what
// is refused, held for approval, raised and allowed, and that each decision is
// in the audit log with the pack's version.
func TestCompliance(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	ctx := t.Context()
	a, b := c.nodes[0], c.nodes[1]
	if _, err := a.PutPack(ctx, api.PackText{Text: "pack: x"}); code(err) != "rule_pack_invalid" {
		t.Errorf("a pack with mistakes: %v", err)
	}
	p, err := a.PutPack(ctx, api.PackText{Text: string(ExamplePack()), By: "alice"})
	if err != nil || p.Name != "gdpr-basics@1.0.0" || p.RuleCount != 6 {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := b.PutPack(ctx, api.PackText{Text: string(ExamplePack()) + "\n# changed\n"}); code(err) != "rule_pack_version_exists" {
		t.Errorf("the same version with another text: %v", err)
	}
	if _, err := b.BindFleet(ctx, api.FleetPacks{FleetID: "eu", Packs: []string{"gdpr-basics@9"}}); code(err) != "rule_pack_not_found" {
		t.Errorf("an unknown pack: %v", err)
	}
	if _, err := b.BindFleet(ctx, api.FleetPacks{FleetID: "eu", Packs: []string{p.Name}, By: "alice"}); err != nil {
		t.Fatal(err)
	}
	if err := a.RemovePack(ctx, p.Name, "alice"); code(err) != "rule_pack_bound" {
		t.Errorf("removing a bound pack: %v", err)
	}
	g := &governed{c}
	g.decisions(a, b)
	g.recorded(a)
	g.recalled(a)
	if _, err := a.BindFleet(ctx, api.FleetPacks{FleetID: "eu"}); err != nil {
		t.Error(err)
	}
	if err := a.RemovePack(ctx, p.Name, "alice"); err != nil {
		t.Error(err)
	}
}

// governed is a cluster whose fleet eu is bound to the example pack.
type governed struct{ *testCluster }

func (c *governed) verdict(n *Node, fleet, verb, input string, change func(*api.TaskSpec)) api.SubmitVerdict {
	c.t.Helper()
	action, target, _ := strings.Cut(verb, ":")
	spec := api.TaskSpec{FleetID: fleet, Action: action, Target: target, Input: []byte(input), Compliance: []byte(`{"data_classification":"personal"}`)}
	if change != nil {
		change(&spec)
	}
	v, err := n.Submit(c.t.Context(), []api.TaskSpec{spec}, "bob")
	if err != nil {
		c.t.Fatal(err)
	}
	return v[0]
}

// decisions: what is refused, held, raised and allowed.
func (c *governed) decisions(a, b *Node) {
	t, ctx := c.t, c.t.Context()
	c.eventually("the binding reaches every node", func() error {
		for _, n := range c.nodes {
			if v := c.verdict(n, "eu", "export:crm", `{}`, nil); v.Error == nil || v.Error.Code != "rule_violated" || !strings.Contains(v.Error.Detail, "export-lawful-basis (gdpr-basics@1.0.0)") {
				return v.Error
			}
		}
		return nil
	})
	if v := c.verdict(a, "us", "export:crm", `{}`, nil); v.Error != nil || v.State != "ready" {
		t.Errorf("a fleet without packs: %+v", v)
	}
	held := c.verdict(b, "eu", "export:crm", `{"legal_basis":"contract","destination_region":"US","record_count":1}`, nil)
	if held.Error != nil || held.State != "awaiting_approval" {
		t.Errorf("an export abroad: %+v", held)
	}
	if v := c.verdict(b, "eu", "export:crm", `{"legal_basis":"contract","destination_region":"EU","record_count":1}`, nil); v.Error != nil || v.State != "ready" {
		t.Errorf("an export inside the EEA: %+v", v)
	}
	erase := `{"subject_ref":"s1","request_id":"r1"}`
	if v := c.verdict(b, "eu", "erase:crm", erase, nil); v.Error == nil || v.Error.Code != "idempotency_key_missing" || !strings.Contains(v.Error.Detail, "erasure-happens-once") {
		t.Errorf("an erasure that can't be raised: %+v", v)
	}
	raised := c.verdict(b, "eu", "erase:crm", erase, func(s *api.TaskSpec) {
		s.IdempotencyKey, s.Verify = "erase s1", []byte(`{"action":"check","target":"crm"}`)
	})
	if raised.Error != nil {
		t.Fatalf("an erasure that is raised: %+v", raised)
	}
	if x, err := b.Task(ctx, raised.TaskID, 0); err != nil || x.Guarantee != "exactly_once" {
		t.Errorf("it is %s, %v", x.Guarantee, err)
	}
	d, err := a.ValidateCompliance(ctx, api.ComplianceRequest{Task: api.TaskSpec{FleetID: "eu", Action: "export", Target: "crm", Compliance: []byte(`{"data_classification":"special_category"}`)}})
	if err != nil || d.Decision != "refuse" || d.Approvers != 2 || len(d.Violations) != 4 {
		t.Errorf("validate: %+v, %v", d, err)
	}
}

// recorded: each decision is in the audit log, with the pack's version.
func (c *governed) recorded(a *Node) {
	t, ctx := c.t, c.t.Context()
	got := map[string]int{}
	for shard := 1; shard <= 2; shard++ {
		page, err := a.Audit(ctx, api.AuditFilter{Verb: "compliance", Shard: shard, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Records {
			got[r.Code]++
			if r.RulePack != "gdpr-basics@1.0.0" || r.Classification != "personal" || r.Actor != "bob" {
				t.Errorf("record %+v", r)
			}
		}
	}
	if got["compliance_refused"] < 3 || got[""]+got["ok"] < 3 {
		t.Errorf("decisions recorded: %v", got)
	}
}

// recalled: an intent from before its fleet had rules is answered from what is
// stored, with no decision recorded; a new one under another key is refused.
func (c *governed) recalled(n *Node) {
	c.t.Helper()
	keyed := func(key string) func(*api.TaskSpec) {
		return func(s *api.TaskSpec) { s.IdempotencyKey = key }
	}
	act := api.ActionRequest{AgentID: "w", TaskSpec: api.TaskSpec{FleetID: "late", Action: "export", Target: "crm", IdempotencyKey: "k2",
		Compliance: []byte(`{"data_classification":"personal"}`)}}
	first := c.verdict(n, "late", "export:crm", `{}`, keyed("k1"))
	goes := c.want(c.declare(n, act), api.DecisionGo)
	if _, err := n.BindFleet(c.t.Context(), api.FleetPacks{FleetID: "late", Packs: []string{"gdpr-basics@1.0.0"}}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the rules count here", func() error { // without a key, which would be answered from before
		v, err := n.Submit(c.t.Context(), []api.TaskSpec{{FleetID: "late", Action: "export", Target: "crm", Input: []byte(`{}`), Compliance: act.Compliance}}, "carol")
		if err == nil && v[0].Error == nil {
			err = fmt.Errorf("%+v", v)
		}
		return err
	})
	if v := c.verdict(n, "late", "export:crm", `{}`, keyed("k1")); v.Error != nil || !v.Replayed || v.TaskID != first.TaskID {
		c.t.Errorf("a known key: %+v, was %+v", v, first)
	}
	if v := c.verdict(n, "late", "export:crm", `{"other":1}`, keyed("k1")); v.Error == nil || v.Error.Code != "idempotency_key_reused" {
		c.t.Errorf("a known key, another request: %+v", v)
	}
	if v := c.want(c.declare(n, act), api.DecisionGo); v.Epoch != goes.Epoch || !v.Replayed {
		c.t.Errorf("an action declared again: %+v, was %+v", v, goes)
	}
	for _, m := range c.nodes { // the shards' leaders have applied it
		p, err := m.Audit(c.t.Context(), api.AuditFilter{Verb: "compliance", FleetID: "late", Shard: -1, Limit: 1000})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, r := range p.Records {
			if r.Actor != "carol" {
				c.t.Errorf("a decision recorded about a known key: %+v", r)
			}
		}
	}
	if _, err := n.BindFleet(c.t.Context(), api.FleetPacks{FleetID: "late"}); err != nil {
		c.t.Error(err)
	}
}
