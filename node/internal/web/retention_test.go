package web

import (
	"context"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// keeping is a backend that takes note of retentions.
type keeping struct {
	*fake
	set     api.Retention
	removed string
}

func (k *keeping) SetRetention(_ context.Context, r api.Retention) (api.Retention, error) {
	k.set = r
	return r, nil
}

func (k *keeping) RemoveRetention(_ context.Context, fleet, by string) error {
	k.removed = fleet + " by " + by
	return nil
}

func TestRetention(t *testing.T) {
	k := &keeping{fake: &fake{}}
	h := New(k, Config{})
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/v1/fleets/pay/retention", `{"tasks_ms":3600000}`, 200},
		{"PUT", "/v1/fleets/pay/retention", `{"fleet_id":"other","tasks_ms":1}`, 400},
		{"PUT", "/v1/fleets/pay/retention", `{"taks_ms":1}`, 400},
		{"DELETE", "/v1/fleets/pay/retention", "", 204},
	} {
		if w := do(h, c.method, c.path, c.body, "X-Quorate-Actor", "ann"); w.Code != c.status {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.body, w.Code, c.status, w.Body)
		}
	}
	if k.set.FleetID != "pay" || k.set.By != "ann" || k.set.TasksMillis != 3600_000 || k.removed != "pay by ann" {
		t.Errorf("set %+v, removed %s", k.set, k.removed)
	}
}
