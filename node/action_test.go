package node

import (
	"context"
	"errors"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// An action is performed once; declared again, it answers what it answered.
func TestClientAction(t *testing.T) {
	c := startCluster(t, 1, func(cfg *Config) { cfg.BootstrapExpect = 1 })
	cl := clientOf(t, c.nodes[0])
	c.register(c.nodes[0], "payer", "pay:invoice")
	intent := api.ActionRequest{AgentID: "payer", TaskSpec: api.TaskSpec{Action: "pay", Target: "invoice", IdempotencyKey: "17", LeaseSeconds: 1}}
	calls := 0
	for range 2 {
		got, err := cl.Action(t.Context(), intent, func(_ context.Context, v api.ActionVerdict) (any, error) {
			if calls++; v.Epoch == 0 {
				t.Error("no epoch")
			}
			return "paid", nil
		})
		if err != nil || string(got) != `"paid"` {
			t.Fatalf("%s, %v", got, err)
		}
	}
	if calls != 1 {
		t.Errorf("%d calls", calls)
	}
	intent.Target = "other"
	var e *api.Error
	if _, err := cl.Action(t.Context(), intent, nil); !errors.As(err, &e) || e.Code != "idempotency_key_reused" {
		t.Errorf("another request under the same key: %v", err)
	}
}
