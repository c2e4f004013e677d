package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
)

var (
	builtIn   string // removed by TestMain
	buildOnce = sync.OnceValues(func() (string, error) { return proc.Build(context.Background(), builtIn) })
)

// executable is the quorate of this source tree, built once.
func executable(t *testing.T) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMain(m *testing.M) {
	var err error
	if builtIn, err = os.MkdirTemp("", "bench"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(builtIn)
	os.Exit(code)
}

// TestLifecycleForReal measures three real nodes for a moment, once as fast as
// it goes and once at a rate with a kill. It asserts that nothing is lost and
// that the figures are there, not what they are: that is the machine's matter.
func TestLifecycleForReal(t *testing.T) {
	binary := executable(t)
	for _, cfg := range []LifecycleConfig{
		{Duration: time.Second, WarmUp: 200 * time.Millisecond},
		{Duration: 3 * time.Second, WarmUp: 200 * time.Millisecond, Rate: 500, Kill: true},
	} {
		var out bytes.Buffer
		cfg.Binary, cfg.JSON, cfg.Out = binary, true, &out
		rep, err := Lifecycle(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		var printed LifecycleReport
		if err := json.Unmarshal(out.Bytes(), &printed); err != nil {
			t.Fatalf("%v in %s", err, out.Bytes())
		}
		if rep.Lost != 0 || rep.Completed == 0 || printed.Completed != rep.Completed || rep.Latency.P50Millis <= 0 || rep.NodesCoreMicros <= 0 {
			t.Errorf("report %+v", rep)
		}
		if cfg.Kill && (rep.Kill == nil || len(rep.Kill.FirstMillis) == 0 || rep.Kill.WorstMillis < 0) {
			t.Errorf("kill report %+v", rep.Kill)
		}
	}
}

// TestIdleForReal: the figures are there.
func TestIdleForReal(t *testing.T) {
	binary := executable(t)
	r, err := Idle(t.Context(), IdleConfig{Binary: binary, Shards: 2, Settle: time.Millisecond, Duration: 200 * time.Millisecond})
	if err != nil || len(r.Nodes) != 3 || r.Nodes[2].RSSMiB < 5 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Idle(t.Context(), IdleConfig{Binary: binary, Duration: maxDuration + 1}); err == nil {
		t.Error("a measurement of more than an hour was begun")
	}
}

// TestEdgePresetIsSmall: idle nodes on the preset for small devices stay below its 64 MiB.
func TestEdgePresetIsSmall(t *testing.T) {
	r, err := Idle(t.Context(), IdleConfig{Binary: executable(t), Preset: "edge", Settle: time.Second, Duration: time.Second})
	if err != nil || len(r.Nodes) != 3 || r.TaskShards != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, n := range r.Nodes {
		if n.RSSMiB > 64 {
			t.Errorf("%s has %.0f MiB resident", n.NodeID, n.RSSMiB)
		}
	}
}

// TestIdleAgents: they are all connected before anything counts.
func TestIdleAgents(t *testing.T) {
	binary := executable(t)
	var out bytes.Buffer
	r, err := Idle(t.Context(), IdleConfig{Binary: binary, Shards: 1, Agents: 30, Settle: time.Millisecond, Duration: 200 * time.Millisecond, Out: &out})
	if err != nil || r.Agents != 30 || r.GeneratorPercent <= 0 || !strings.Contains(out.String(), "30 agents connected") {
		t.Errorf("%+v, %v: %s", r, err, out.Bytes())
	}
	if _, err := Idle(t.Context(), IdleConfig{Binary: binary, Agents: maxAgents + 1}); err == nil {
		t.Error("one agent over the limit was connected")
	}
}

// TestSubmits: nothing is refused, and the figures are there, both ways and in batches.
func TestSubmits(t *testing.T) {
	binary := executable(t)
	for _, cfg := range []SubmitsConfig{{Connections: 4}, {Connections: 3, Via: ViaStream, Batch: 8, PayloadBytes: 4096}, {Connections: 2, Batch: 3}} {
		cfg.Binary, cfg.Duration, cfg.WarmUp = binary, 500*time.Millisecond, 100*time.Millisecond
		var out bytes.Buffer
		cfg.JSON, cfg.Out = true, &out
		r, err := Submits(t.Context(), cfg)
		var printed SubmitsReport
		if err != nil || json.Unmarshal(out.Bytes(), &printed) != nil || printed != r {
			t.Fatalf("%v: %+v, printed %s", err, r, out.Bytes())
		}
		if r.Acknowledged == 0 || r.Refused != 0 || r.Latency.P50Millis <= 0 || r.NodesCoreMicros <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if _, err := Submits(t.Context(), SubmitsConfig{Connections: maxAgents + 1, Batch: maxBatch + 1, PayloadBytes: maxPayload + 1, Via: "mail", Duration: -1}); err == nil ||
		strings.Count(err.Error(), "want") != 5 {
		t.Errorf("not every mistake is told at once: %v", err)
	}
}

// TestActions: every action that was answered with go is confirmed.
func TestActions(t *testing.T) {
	bin := executable(t)
	rep, err := Actions(t.Context(), ActionsConfig{Binary: bin, Duration: time.Second, WarmUp: 200 * time.Millisecond, Rate: 400, Agents: 3})
	if err != nil || rep.Confirmed == 0 || rep.Refused != 0 || rep.Latency.P50Millis <= 0 {
		t.Errorf("%v: %+v", err, rep)
	}
}
