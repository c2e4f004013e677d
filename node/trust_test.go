package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// Tiers at their bounds.
func TestTrustTiers(t *testing.T) {
	for _, x := range []struct {
		completed, failed, lost uint64
		want                    string
	}{
		{0, 0, 0, "unproven"}, {19, 0, 0, "unproven"}, {20, 0, 0, "high"}, {0, 20, 0, "high"}, // a failure that is told is no breach
		{75, 0, 3, "high"}, {74, 0, 4, "fair"}, {15, 0, 3, "unproven"}, {19, 0, 4, "fair"}, {18, 1, 5, "low"}, {0, 0, 20, "low"},
	} {
		n := tally{x.completed, x.failed, x.lost}
		if got := trustOf(&api.Agent{Completed: x.completed, Failed: x.failed, Lost: x.lost, Trust: n.trust()}).Tier; got != x.want {
			t.Errorf("%+v is %s (%.3f), want %s", n, got, n.trust(), x.want)
		}
	}
}

// What is told over HTTP is what was measured, by whom and since when.
func TestTrust(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, single)
	n := c.nodes[0]
	get := func(path string, status int, v any) {
		t.Helper()
		resp, err := http.Get("http://" + n.APIAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(v); err != nil || resp.StatusCode != status {
			t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
		}
	}
	c.register(n, "good", "do:it")
	c.register(n, "new", "other:work")
	for i := range api.ProvenLeases {
		id := c.submit(n, api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: fmt.Sprint(i)})
		if v := c.settle(n, "good", c.lease(n, "good", 10), "complete"); v.Error != nil || v.TaskID != id {
			t.Fatalf("%+v", v)
		}
	}
	var one api.Trust
	get("/v1/trust/good", 200, &one)
	if one.Tier != "high" || one.Completed != api.ProvenLeases || one.Trust <= .95 || one.MeasuredBy != n.NodeID() || one.MeasuredFrom.IsZero() {
		t.Errorf("%+v", one)
	}
	for _, x := range []struct{ query, want string }{{"", "[good new]"}, {"?tier=high", "[good]"}, {"?tier=unproven", "[new]"}, {"?tier=low", "[]"}, {"?limit=1", "[good]"}} {
		var p api.TrustPage
		get("/v1/trust"+x.query, 200, &p)
		ids := []string{}
		for _, a := range p.Trust {
			ids = append(ids, a.AgentID)
		}
		if fmt.Sprint(ids) != x.want {
			t.Errorf("%s: %v", x.query, ids)
		}
		if x.query == "?limit=1" {
			var rest api.TrustPage
			if get("/v1/trust?cursor="+p.NextCursor, 200, &rest); len(rest.Trust) != 1 || rest.Trust[0].AgentID != "new" || rest.NextCursor != "" {
				t.Errorf("the second page: %+v", rest)
			}
		}
	}
	var e api.Error
	if get("/v1/trust/nobody", 404, &e); e.Code != "agent_not_registered" || e.Layer != 3 {
		t.Errorf("%+v", e)
	}
	if get("/v1/trust?tier=golden", 422, &e); e.Code != "unknown_tier" {
		t.Errorf("%+v", e)
	}
}
