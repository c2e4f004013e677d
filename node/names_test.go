package node

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

const secretName = "token=sk-hunter2secret"

func refusedSecret(t *testing.T, what string, e *api.Error) {
	t.Helper()
	if e == nil || e.Code != "secret_in_name" || e.Status != 422 || strings.Contains(e.Detail+e.Hint, "hunter2") {
		t.Errorf("%s: %v", what, e)
	}
}

// TestNoSecretInARecord: a name that holds a secret is refused wherever it would
// come into a record, and words lose theirs, wherever the record cuts them.
func TestNoSecretInARecord(t *testing.T) {
	t.Parallel()
	const url, key = "https://bob:hunter2secret@host/x", secretName
	c := startCluster(t, 1, nil)
	n, ctx := c.nodes[0], t.Context()
	refused := func(what string, e *api.Error) { t.Helper(); refusedSecret(t, what, e) }
	for what, change := range map[string]func(*api.ActionRequest){
		"target":         func(a *api.ActionRequest) { a.Target = url },
		"action":         func(a *api.ActionRequest) { a.Action = key },
		"session":        func(a *api.ActionRequest) { a.SessionID = key },
		"fleet":          func(a *api.ActionRequest) { a.FleetID = key },
		"hook":           func(a *api.ActionRequest) { a.Verify = json.RawMessage(`{"action":"check","target":"` + url + `"}`) },
		"classification": func(a *api.ActionRequest) { a.Compliance = json.RawMessage(`{"data_classification":"` + key + `"}`) },
		"regulation":     func(a *api.ActionRequest) { a.Compliance = json.RawMessage(`{"regulation_refs":["` + key + `"]}`) },
		"agent":          func(a *api.ActionRequest) { a.AgentID = key },
	} {
		a := api.ActionRequest{AgentID: "a1", TaskSpec: api.TaskSpec{Action: "deploy", Target: "web"}}
		change(&a)
		refused(what, c.want(c.declare(n, a), api.DecisionRefused).Error)
		if what == "agent" {
			continue
		}
		v, err := n.Submit(ctx, []api.TaskSpec{a.TaskSpec}, "ann")
		if err != nil {
			t.Fatal(err)
		}
		refused(what+" of a task", v[0].Error)
	}
	_, err := n.Register(ctx, api.Manifest{AgentID: key, Capabilities: []api.Capability{{Action: "deploy", Target: "web"}}})
	refused("agent's manifest", asAPIError(err))
	_, err = n.Submit(ctx, []api.TaskSpec{{Action: "deploy", Target: "web"}}, key)
	refused("who submits", asAPIError(err))

	v := c.want(c.declare(n, api.ActionRequest{AgentID: "a1", TaskSpec: api.TaskSpec{Action: "deploy", Target: "web", Approval: []byte(`{"approvers":1}`)}}), api.DecisionWait)
	_, err = n.Approve(ctx, v.TaskID, api.Judgement{By: key})
	refused("who approves", asAPIError(err))
	_, err = n.Cancel(ctx, v.TaskID, key, "")
	refused("who cancels", asAPIError(err))
	// Cut at 512 bytes, this credential would stand there without its @.
	if _, err = n.Cancel(ctx, v.TaskID, "ann", strings.Repeat("x", 512-len("https://bob:hunter2secret")-1)+" "+url); err != nil {
		t.Fatal(err)
	}
	p, err := n.Audit(ctx, api.AuditFilter{Shard: -1, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(p)
	if err != nil || strings.Contains(string(text), "hunter2") || !strings.Contains(string(text), "[redacted]") {
		t.Errorf("records: %s, %v", text, err)
	}
}

// TestNoSecretInARecordOfControl: the same of what the cluster is told.
func TestNoSecretInARecordOfControl(t *testing.T) {
	t.Parallel()
	const key = secretName
	n, ctx := startCluster(t, 1, nil).nodes[0], t.Context()
	refused := func(what string, e *api.Error) { t.Helper(); refusedSecret(t, what, e) }
	_, err := n.RollbackSession(ctx, key, api.SessionRollback{By: "ann"})
	refused("a session rolled back", asAPIError(err))
	for what, change := range map[string]func(fleet, by string) error{
		"a pack": func(_, by string) error {
			_, err := n.PutPack(ctx, api.PackText{Text: string(ExamplePack()), By: by})
			return err
		},
		"a pack removed": func(_, by string) error { return n.RemovePack(ctx, "p", by) },
		"a binding": func(fleet, by string) error {
			_, err := n.BindFleet(ctx, api.FleetPacks{FleetID: fleet, By: by})
			return err
		},
		"a retention": func(fleet, by string) error {
			_, err := n.SetRetention(ctx, api.Retention{FleetID: fleet, By: by})
			return err
		},
		"a retention of records": func(fleet, by string) error { return n.RemoveRecordRetention(ctx, fleet, by) },
		"a node": func(id, by string) error {
			_, err := n.AddNode(ctx, id, "127.0.0.1:1", by)
			return err
		},
		"a node removed": func(_, by string) error {
			_, err := n.RemoveNode(ctx, "n9", by)
			return err
		},
	} {
		refused(what+": by", asAPIError(change("f1", key)))
		if !strings.HasPrefix(what, "a pack") && !strings.HasPrefix(what, "a node") { // whose IDs have no room for one
			refused(what, asAPIError(change(key, "ann")))
		}
	}
}
