package node

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

func TestDoctorOnReplicas(t *testing.T) {
	for _, c := range []struct {
		shards []api.ShardStatus
		status string
		says   string
	}{
		{[]api.ShardStatus{{Shard: 1}, {Shard: 2}}, "ok", "no replica"},
		{[]api.ShardStatus{{Shard: 1}, {Shard: 2, Diverged: []string{"n3"}}}, "fail", "shard 2 (n3)"},
	} {
		got := 0
		checkReplicas(&api.Cluster{Shards: c.shards}, func(layer int, name, status, hint, format string, args ...any) {
			got++
			if layer != 5 || status != c.status || !strings.Contains(fmt.Sprintf(format, args...), c.says) || (hint == "") != (status == "ok") {
				t.Errorf("%d %s %s %q %q", layer, name, status, hint, fmt.Sprintf(format, args...))
			}
		})
		if got != 1 {
			t.Errorf("%d checks", got)
		}
	}
}

func TestDoctorOnDisks(t *testing.T) {
	for _, c := range []struct {
		disk         *api.DiskStatus
		status, says string
	}{
		{nil, "ok", "room"},
		{&api.DiskStatus{FreeBytes: -1}, "ok", "room"},
		{&api.DiskStatus{FreeBytes: 5 << 20, ReserveBytes: 8 << 20, Low: true}, "fail", "n2 (5 MiB free, 8 MiB reserved)"},
		{&api.DiskStatus{Stalled: true}, "warn", "stand still on n2"},
	} {
		got := 0
		checkDisks(&api.Cluster{Nodes: []api.NodeStatus{{NodeID: "n1"}, {NodeID: "n2", Disk: c.disk}}}, func(layer int, name, status, hint, format string, args ...any) {
			got++
			if says := fmt.Sprintf(format, args...); layer != 5 || status != c.status || !strings.Contains(says, c.says) || (hint == "") != (status == "ok") {
				t.Errorf("%d %s %s %q %q", layer, name, status, hint, says)
			}
		})
		if got != 1 {
			t.Errorf("%d checks", got)
		}
	}
}

// TestDiskFull: with the reserve gone new tasks are refused, and what was
// there can be ended.
func TestDiskFull(t *testing.T) {
	c := startCluster(t, 1, nil)
	n := c.nodes[0]
	c.register(n, "a", "do:it")
	done, gone := c.submit(n, api.TaskSpec{Action: "do", Target: "it"}), c.submit(n, api.TaskSpec{Action: "not", Target: "it"})
	c.close()
	c.open(1, func(cfg *Config) { cfg.DiskReserveBytes = 1 << 60 })
	n = c.nodes[0]
	var refused *api.Error
	c.eventually("a refusal", func() error {
		vs, err := n.Submit(t.Context(), []api.TaskSpec{{Action: "new", Target: "work"}}, "test")
		if err != nil || vs[0].Error == nil {
			return fmt.Errorf("%+v, %v", vs, err)
		}
		refused = vs[0].Error
		return nil
	})
	if refused.Code != "disk_full" || refused.Layer != 5 || refused.Status != 507 || refused.Retry != api.RetryLater {
		t.Errorf("refused with %+v", refused)
	}
	l := c.lease(n, "a", 10)
	if v := c.settle(n, "a", l, "complete"); l.TaskID != done || v.Error != nil {
		t.Errorf("complete %s: %+v", l.TaskID, v)
	}
	if _, err := n.Cancel(t.Context(), gone, "test", "no room"); err != nil {
		t.Errorf("cancel: %v", err)
	}
	d, err := n.Doctor(t.Context())
	if err != nil || d.Healthy {
		t.Errorf("doctor: %+v, %v", d, err)
	}
	w := httptest.NewRecorder()
	n.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(w.Body.String(), "quorate_l5_disk_low 1") {
		t.Error("metrics do not say so")
	}
	c.close()
	c.open(1, nil)
	c.submit(c.nodes[0], api.TaskSpec{Action: "new", Target: "work"})
}
