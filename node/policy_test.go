package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// denyPack refuses deploys that nobody described, and allows others.
const denyPack = `pack: deny
version: "7"
rules:
- id: described
  trigger: {verbs: ["deploy:*"]}
  validations: [{field: description, exists: true}]
  on_violation: refuse
  message: say why
`

// decisions are what packs decided about a task, and what ended it, in order.
func (c *governed) trail(id string) (list []string) {
	c.t.Helper()
	p, err := c.nodes[0].Audit(c.t.Context(), api.AuditFilter{TaskID: id, Shard: -1, Limit: 100})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range p.Records {
		if r.Verb == "compliance" {
			list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Code, r.RulePack, r.Detail)))
		} else if r.Verb == "cancel" || r.Verb == "lease" {
			list = append(list, r.Verb)
		}
	}
	return list
}

// TestRulesAreAskedAgain: who comes back for the go of an intent, by its key or
// by the ID it was given, is refused by rules that have come since, also while
// it waits; what they decide is recorded with the pack's version.
func TestRulesAreAskedAgain(t *testing.T) {
	t.Parallel()
	c := &governed{startCluster(t, 3, nil)}
	ctx, n := t.Context(), c.nodes[0]
	intent := func(key, description string) api.ActionRequest {
		return api.ActionRequest{AgentID: "a1", TaskSpec: api.TaskSpec{FleetID: "f", Action: "deploy", Target: "web", IdempotencyKey: key,
			Description: description, Approval: []byte(`{"approvers":1}`)}}
	}
	declared := map[string]api.ActionVerdict{}
	for name, a := range map[string]api.ActionRequest{"approved": intent("k1", ""), "approved, without a key": intent("", ""), "waits": intent("k2", ""),
		"waits, without a key": intent("", ""), "allowed": intent("k3", "because")} {
		v := c.want(c.declare(n, a), api.DecisionWait)
		if !strings.HasPrefix(name, "waits") {
			if _, err := n.Approve(ctx, v.TaskID, api.Judgement{By: "ann"}); err != nil {
				t.Fatal(err)
			}
		}
		declared[name] = v
	}
	if _, err := n.PutPack(ctx, api.PackText{Text: denyPack}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.BindFleet(ctx, api.FleetPacks{FleetID: "f", Packs: []string{"deny@7"}}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the rules count everywhere", func() error {
		for _, m := range c.nodes {
			if v := c.verdict(m, "f", "deploy:web", `{}`, nil); v.Error == nil {
				return fmt.Errorf("%+v", v)
			}
		}
		return nil
	})
	refused := []string{"compliance_refused deny@7 asked again: refuse: rule described of deny@7: say why", "cancel"}
	for name, v := range declared {
		t.Run(name, func(t *testing.T) {
			key, description, want, trail := v.IdempotencyKey, "", api.DecisionRefused, refused
			if name == "allowed" {
				description, want, trail = "because", api.DecisionGo, []string{"deny@7 asked again: allowed by 1 rules", "lease"}
			}
			again := c.declare(c.nodes[1], intent(key, description))
			if again.Decision != want || again.TaskID != v.TaskID {
				t.Errorf("declared again with key %q: %s of %s (%v), want %s of %s", key, again.Decision, again.TaskID, again.Error, want, v.TaskID)
			}
			c.eventually("its records on the first node", func() error {
				if got := c.trail(v.TaskID); fmt.Sprint(got) != fmt.Sprint(trail) {
					return fmt.Errorf("recorded\n%q, want\n%q", got, trail)
				}
				return nil
			})
		})
	}
}

// TestIDIsTheKeyOfAnIntentWithout: the key that go names for an intent without
// one names the same task, on every node.
func TestIDIsTheKeyOfAnIntentWithout(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	a := api.ActionRequest{AgentID: "a1", TaskSpec: api.TaskSpec{Action: "deploy", Target: "web", Input: []byte(`1`), LeaseSeconds: 30}}
	for _, n := range c.nodes { // each call has another shard
		go1 := c.want(c.declare(n, a), api.DecisionGo)
		again := a
		if again.IdempotencyKey = go1.IdempotencyKey; again.IdempotencyKey != go1.TaskID {
			t.Fatalf("key %q of task %s", again.IdempotencyKey, go1.TaskID)
		}
		for _, m := range c.nodes {
			if v := c.want(c.declare(m, again), api.DecisionGo); v.TaskID != go1.TaskID || v.Epoch != go1.Epoch || !v.Replayed {
				t.Errorf("again %+v, first %+v", v, go1)
			}
		}
		other := again
		other.Input = []byte(`2`)
		if v := c.want(c.declare(n, other), api.DecisionRefused); v.Error.Code != "idempotency_key_reused" || v.Error.Status != 422 {
			t.Errorf("another request: %v", v.Error)
		}
		if v := c.settle(n, "a1", api.Lease{TaskID: go1.TaskID, Epoch: go1.Epoch}, "complete"); v.Error != nil {
			t.Fatal(v.Error)
		}
		if v := c.want(c.declare(n, again), api.DecisionDone); v.TaskID != go1.TaskID {
			t.Errorf("done: %+v", v)
		}
	}
	waits := a
	waits.Approval = []byte(`{"approvers":1}`)
	v := c.want(c.declare(c.nodes[0], waits), api.DecisionWait)
	if _, err := c.nodes[0].Approve(t.Context(), v.TaskID, api.Judgement{By: "ann"}); err != nil {
		t.Fatal(err)
	}
	waits.IdempotencyKey, waits.WaitSeconds = v.IdempotencyKey, (5 * time.Second).Seconds()
	if again := c.want(c.declare(c.nodes[1], waits), api.DecisionGo); again.TaskID != v.TaskID {
		t.Errorf("approved: %+v, was %+v", again, v)
	}
}

// raisePack wants deploys exactly_once.
const raisePack = `pack: raise
version: "1"
rules:
- id: once
  trigger: {verbs: ["deploy:*"]}
  validations: [{field: guarantee, equals: exactly_once}]
  on_violation: raise_level
  level: exactly_once
  message: a deploy happens once
`

// A task keeps the level that it was declared with: when a rule has come since
// that wants a higher one, one more person decides, once.
func TestLevelRaisedLater(t *testing.T) {
	t.Parallel()
	c := &governed{startCluster(t, 1, nil)}
	ctx, n := t.Context(), c.nodes[0]
	intent := api.ActionRequest{AgentID: "a1", TaskSpec: api.TaskSpec{FleetID: "f", Action: "deploy", Target: "web", IdempotencyKey: "k",
		Guarantee: "at_least_once", Approval: []byte(`{"approvers":1}`)}}
	v := c.want(c.declare(n, intent), api.DecisionWait)
	approve := func(by string) {
		t.Helper()
		if _, err := n.Approve(ctx, v.TaskID, api.Judgement{By: by}); err != nil {
			t.Fatal(err)
		}
	}
	approve("ann")
	if _, err := n.PutPack(ctx, api.PackText{Text: raisePack}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.BindFleet(ctx, api.FleetPacks{FleetID: "f", Packs: []string{"raise@1"}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if again := c.want(c.declare(n, intent), api.DecisionWait); again.TaskID != v.TaskID {
			t.Fatalf("%+v", again)
		}
	}
	if x := c.task(n, v.TaskID); x.State != "awaiting_approval" || x.Guarantee != "at_least_once" {
		t.Errorf("%s, %s", x.State, x.Guarantee)
	}
	approve("ben")
	again := c.want(c.declare(n, intent), api.DecisionGo)
	if again.TaskID != v.TaskID {
		t.Errorf("%+v", again)
	}
	want := "[raise@1 asked again: raise_level: rule once of raise@1: a deploy happens once raise@1 asked again: raise_level: rule once of raise@1: a deploy happens once lease]"
	if got := fmt.Sprint(c.trail(v.TaskID)); got != want {
		t.Errorf("recorded\n%s, want\n%s", got, want)
	}
}
