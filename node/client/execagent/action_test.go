package execagent

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// actionNode is as much of a node as an action meets.
type actionNode struct {
	mu       sync.Mutex
	verdict  api.ActionVerdict
	start    *api.Error
	cut      bool // renewals are not answered
	gone     chan struct{}
	outcomes []api.Settlement
}

func (n *actionNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	answer := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	switch path := r.URL.Path; {
	case path == "/v1/actions":
		answer(n.verdict)
	case strings.HasSuffix(path, "/start"):
		if n.start != nil {
			w.WriteHeader(n.start.Status)
			answer(n.start)
			return
		}
		answer(api.Renewal{})
	case strings.HasSuffix(path, "/renew"):
		if n.cut {
			n.mu.Unlock()
			select {
			case <-r.Context().Done():
			case <-n.gone:
			}
			n.mu.Lock()
			return
		}
		answer(api.Renewal{})
	case path == "/v1/leases/settle":
		var in struct{ Outcomes []api.Settlement }
		_ = json.NewDecoder(r.Body).Decode(&in)
		n.outcomes = append(n.outcomes, in.Outcomes...)
		answer(map[string]any{"outcomes": []api.SettleVerdict{{TaskID: in.Outcomes[0].TaskID}}})
	default:
		http.NotFound(w, r)
	}
}

// TestPerform: what the wrapper says of a command's end. It never says of an effect that may have happened that it did
// not: not if the command printed too much, not if a rule raised the level, not if its lease may be over.
func TestPerform(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "ran")
	for _, c := range []struct {
		name, script, asked, granted string
		cut                          bool
		start                        *api.Error
		verdict                      string // settled; empty: nothing is
		decision                     string
	}{
		{"done", "true", "exactly_once", "exactly_once", false, nil, "complete", api.DecisionDone},
		{"failed", "exit 3", "exactly_once", "exactly_once", false, nil, "fail", api.DecisionGo},
		{"a large output", "head -c 2000000 /dev/zero", "exactly_once", "exactly_once", false, nil, "complete", api.DecisionDone},
		{"a large output, plain", "head -c 2000000 /dev/zero", "at_least_once", "at_least_once", false, nil, "complete", api.DecisionDone},
		{"killed", "kill -9 $$", "exactly_once", "exactly_once", false, nil, "unknown", api.DecisionUnknown},
		{"killed at a level that a rule raised", "kill -9 $$", "at_least_once", "exactly_once", false, nil, "unknown", api.DecisionUnknown},
		{"cut off", "exec sleep 1000", "exactly_once", "exactly_once", true, nil, "unknown", api.DecisionUnknown},
		{"its lease was over before it began", "touch " + marker, "exactly_once", "exactly_once", false,
			api.Errorf(409, 5, "stale_lease", api.RetryNo, "over"), "", api.DecisionGo},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &actionNode{cut: c.cut, start: c.start, gone: make(chan struct{}), verdict: api.ActionVerdict{Decision: api.DecisionGo, TaskID: "t1",
				State: "running", Epoch: 7, LeaseSeconds: 1.5, Guarantee: c.granted, IdempotencyKey: "k"}}
			s := httptest.NewServer(n)
			defer s.Close()
			defer close(n.gone)
			cl, err := client.New(client.Config{URLs: []string{s.URL}})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			v, err := Perform(t.Context(), ActionConfig{Declare: cl, Settle: cl, Command: []string{"sh", "-c", c.script}, Grace: 50 * time.Millisecond,
				Action: api.ActionRequest{TaskSpec: api.TaskSpec{Action: "pay", Target: "x", Guarantee: c.asked, IdempotencyKey: "k"}, AgentID: "a"}})
			if v.Decision != c.decision || (err == nil) != (c.decision == api.DecisionDone) {
				t.Errorf("%s, %v; want %s", v.Decision, err, c.decision)
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			got := ""
			for _, o := range n.outcomes {
				got += o.Verdict
			}
			if got != c.verdict {
				t.Errorf("settled %q, want %q", got, c.verdict)
			}
			if c.cut && time.Since(began) < time.Second {
				t.Errorf("stopped after %v, its lease lasts 1.5 s", time.Since(began))
			}
		})
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a command ran though its lease was over")
	}
}
