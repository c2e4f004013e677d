package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// Every limit of the node: what is at it passes, what is one over is refused
// with its code, and nothing is changed by a refusal.
func TestLimits(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, func(cfg *Config) { cfg.MaxPayloadBytes = 1024 })
	n, ctx := c.nodes[0], t.Context()
	c.register(n, "a", "x:y")
	submit := func(change func(*api.TaskSpec)) error {
		s := api.TaskSpec{Action: "x", Target: "y"}
		change(&s)
		vs, err := n.Submit(ctx, []api.TaskSpec{s}, "test")
		if err == nil && vs[0].Error != nil {
			err = vs[0].Error
		}
		return err
	}
	quoted := func(bytes int) []byte { return []byte(`"` + strings.Repeat("a", bytes-2) + `"`) }
	settle := func(s api.Settlement) error {
		vs, err := n.Settle(ctx, "a", []api.Settlement{s})
		if err == nil && vs[0].Error != nil {
			err = vs[0].Error
		}
		return err
	}
	id := c.submit(n, api.TaskSpec{Action: "x", Target: "y"})
	l := c.lease(n, "a", 5)
	manifest := func(caps, pad int) error {
		m := api.Manifest{AgentID: "m", Description: strings.Repeat("d", pad)}
		for i := range caps {
			m.Capabilities = append(m.Capabilities, api.Capability{Action: "a", Target: fmt.Sprint(i)})
		}
		_, err := n.Register(ctx, m)
		return err
	}
	lease := func(limit int, wait float64) error {
		_, err := n.Lease(ctx, api.LeaseRequest{AgentID: "nobody", Max: limit, WaitSeconds: wait})
		if code(err) == "agent_not_registered" { // past the checks
			return nil
		}
		return err
	}
	cases := []limitCase{
		{"input", "payload_too_large", submit(func(s *api.TaskSpec) { s.Input = quoted(1024) }), submit(func(s *api.TaskSpec) { s.Input = quoted(1025) })},
		{"context", "payload_too_large", submit(func(s *api.TaskSpec) { s.Context = quoted(1024) }), submit(func(s *api.TaskSpec) { s.Context = quoted(1025) })},
		{"target", "invalid_task", submit(func(s *api.TaskSpec) { s.Target = strings.Repeat("t", MaxNameBytes) }), submit(func(s *api.TaskSpec) { s.Target = strings.Repeat("t", MaxNameBytes+1) })},
		{"key", "invalid_task", submit(func(s *api.TaskSpec) { s.IdempotencyKey = strings.Repeat("k", MaxKeyBytes) }), submit(func(s *api.TaskSpec) { s.IdempotencyKey = strings.Repeat("k", MaxKeyBytes+1) })},
		{"description", "invalid_task", submit(func(s *api.TaskSpec) { s.Description = strings.Repeat("d", MaxDescriptionBytes) }), submit(func(s *api.TaskSpec) { s.Description = strings.Repeat("d", MaxDescriptionBytes+1) })},
		{"lease", "invalid_task", submit(func(s *api.TaskSpec) { s.LeaseSeconds = maxLease.Seconds() }), submit(func(s *api.TaskSpec) { s.LeaseSeconds = maxLease.Seconds() + 1 })},
		{"short lease", "invalid_task", submit(func(s *api.TaskSpec) { s.LeaseSeconds = minLease.Seconds() }), submit(func(s *api.TaskSpec) { s.LeaseSeconds = minLease.Seconds() / 2 })},
		{"retries", "invalid_task", submit(retries(maxRetries)), submit(retries(maxRetries + 1))},
		{"batch", "batch_too_large", batch(n, t, MaxSubmit), batch(n, t, MaxSubmit+1)},
		{"result", "payload_too_large", nil, settle(api.Settlement{TaskID: id, Epoch: l.Epoch, Verdict: "complete", Result: quoted(1025)})},
		{"progress", "payload_too_large", progress(n, t, l, quoted(MaxProgressBytes)), progress(n, t, l, quoted(MaxProgressBytes+1))},
		{"capabilities", "invalid_manifest", manifest(MaxCapabilities, 0), manifest(MaxCapabilities+1, 0)},
		{"manifest", "invalid_manifest", manifest(1, MaxManifestBytes/2), manifest(1, MaxManifestBytes)},
		{"max", "bad_max", lease(MaxLeases, 0), lease(MaxLeases+1, 0)},
		{"wait", "bad_wait", lease(1, maxLeaseWait.Seconds()), lease(1, maxLeaseWait.Seconds()+1)},
		{"page", "bad_limit", page(n, t, api.MaxPage), page(n, t, api.MaxPage+1)},
		{"verdict", "unknown_verdict", nil, settle(api.Settlement{TaskID: id, Epoch: l.Epoch, Verdict: "maybe"})},
		{"epoch missing", "epoch_missing", nil, settle(api.Settlement{TaskID: id, Verdict: "complete"})},
		{"shard", "task_not_found", nil, settle(api.Settlement{TaskID: "t00fg38g62m3emkucm877eppi58", Epoch: 1, Verdict: "complete"})},
		{"exactly once without verify or rollback", "verify_or_rollback_missing", nil, submit(func(s *api.TaskSpec) { s.Guarantee, s.IdempotencyKey = "atp-3", "eo1" })},
		{"after nothing there", "dependency_missing", nil, submit(func(s *api.TaskSpec) { s.After = []string{ledger.NewTaskID(1, 1, 1).String()} })},
		{"past deadline", "invalid_task", nil, submit(func(s *api.TaskSpec) { past := time.Now().Add(-time.Second); s.Deadline = &past })},
	}
	for _, x := range cases {
		x.check(t)
	}
	if err := settle(api.Settlement{TaskID: id, Epoch: l.Epoch, Verdict: "complete", Result: quoted(1024)}); err != nil {
		t.Errorf("a refused settlement changed something: %v", err)
	}
}

// limitCase is what came of something at a limit, and of something over it.
type limitCase struct {
	name, code string
	at, over   error
}

func (x *limitCase) check(t *testing.T) {
	t.Helper()
	if x.at != nil {
		t.Errorf("%s: at the limit: %v", x.name, x.at)
	}
	if code(x.over) != x.code {
		t.Errorf("%s: over the limit: %v, want %s", x.name, x.over, x.code)
	}
	var e *api.Error
	if errors.As(x.over, &e) && (e.Layer < 1 || e.Layer > 7 || e.Retry == "" || e.Status < 400) {
		t.Errorf("%s: %+v has no layer, retry or status", x.name, e)
	}
}

func retries(n int) func(*api.TaskSpec) {
	return func(s *api.TaskSpec) { s.RetryPolicy = &api.RetryPolicy{MaxRetries: &n} }
}

func batch(n *Node, t *testing.T, count int) error {
	specs := make([]api.TaskSpec, count)
	for i := range specs {
		specs[i] = api.TaskSpec{Action: "other", Target: "y"}
	}
	_, err := n.Submit(t.Context(), specs, "test")
	return err
}

func progress(n *Node, t *testing.T, l api.Lease, b []byte) error {
	_, err := n.Progress(t.Context(), l.TaskID, api.Claim{AgentID: "a", Epoch: l.Epoch, Progress: b})
	return err
}

func page(n *Node, t *testing.T, limit int) error {
	_, err := n.Tasks(t.Context(), api.TaskFilter{Limit: limit})
	return err
}

// A configuration's mistakes are all told at once.
func TestConfigMistakes(t *testing.T) {
	_, err := Open(Config{NodeID: "-x-", APIAddr: "0.0.0.0:1", PeerAddr: "nonsense", BootstrapExpect: 2, Shards: 100, Cluster: "a b"})
	for _, want := range []string{"data directory is missing", `node ID "-x-"`, "outside loopback", `peer address "nonsense"`, "bootstrap-expect 2", "shards 100", `cluster name "a b"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
