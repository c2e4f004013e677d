package execagent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// cluster is as much of a node as an agent meets.
type cluster struct {
	t       *testing.T
	url     string
	leases  chan api.Lease
	settled chan api.Settlement
	renewed chan string           // verb
	events  chan api.SessionEvent // to the connected session
	held    chan []api.Held       // told at each connection
	mu      struct {
		sync.Mutex
		registered int
		known      bool
		renew      func(verb string) *api.Error
		settle     func(n int, s api.Settlement) *api.Error // n: calls so far
		settles    int
	}
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, leases: make(chan api.Lease, 64), settled: make(chan api.Settlement, 64), renewed: make(chan string, 1024),
		events: make(chan api.SessionEvent), held: make(chan []api.Held, 64)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/agents/register", func(w http.ResponseWriter, r *http.Request) {
		var m api.Manifest
		c.read(r, &m)
		c.mu.Lock()
		c.mu.registered++
		c.mu.known = true
		c.mu.Unlock()
		answer(w, api.Agent{Manifest: m})
	})
	mux.HandleFunc("POST /v1/leases", c.lease)
	mux.HandleFunc("POST /v1/leases/settle", c.settle)
	for _, verb := range []string{"start", "renew"} {
		mux.HandleFunc("POST /v1/tasks/{id}/"+verb, func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			refuse := c.mu.renew
			c.mu.Unlock()
			c.renewed <- verb
			if refuse != nil {
				if e := refuse(verb); e != nil {
					problem(w, e)
					return
				}
			}
			answer(w, api.Renewal{TaskID: r.PathValue("id")})
		})
	}
	mux.HandleFunc("POST /v1/agents/{id}/session", c.session)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

func (c *cluster) read(r *http.Request, v any) {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		c.t.Errorf("%s: %v", r.URL.Path, err)
	}
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func problem(w http.ResponseWriter, e *api.Error) {
	w.WriteHeader(e.Status)
	answer(w, e)
}

func (c *cluster) lease(w http.ResponseWriter, r *http.Request) {
	var q api.LeaseRequest
	c.read(r, &q)
	c.mu.Lock()
	known := c.mu.known
	c.mu.Unlock()
	if !known {
		problem(w, api.Errorf(404, 3, "agent_not_registered", api.RetryNo, "who is %s", q.AgentID))
		return
	}
	out := api.Leases{Tasks: []api.Lease{}}
	select {
	case l := <-c.leases:
		out.Tasks = append(out.Tasks, l)
	case <-r.Context().Done():
		return
	}
	for len(out.Tasks) < q.Max && len(c.leases) > 0 {
		out.Tasks = append(out.Tasks, <-c.leases)
	}
	answer(w, out)
}

func (c *cluster) settle(w http.ResponseWriter, r *http.Request) {
	var q struct {
		AgentID  string           `json:"agent_id"`
		Outcomes []api.Settlement `json:"outcomes"`
	}
	c.read(r, &q)
	out := make([]api.SettleVerdict, len(q.Outcomes))
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range q.Outcomes {
		out[i].TaskID = s.TaskID
		if c.mu.settles++; c.mu.settle != nil {
			if out[i].Error = c.mu.settle(c.mu.settles, s); out[i].Error != nil {
				continue
			}
		}
		c.settled <- s
	}
	answer(w, map[string]any{"outcomes": out})
}

func (c *cluster) session(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Held []api.Held `json:"held"`
	}
	c.read(r, &q)
	c.held <- q.Held
	rc := http.NewResponseController(w)
	for {
		answer(w, api.SessionEvent{Type: "ping"})
		_ = rc.Flush()
		select {
		case ev := <-c.events:
			answer(w, ev)
			_ = rc.Flush()
			if ev.Type == "end" {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// agent runs `sh -c script` as an agent until the test ends or stop is called;
// ended delivers Run's error.
type agent struct {
	*Agent
	stop  func()
	ended chan error
}

func (c *cluster) run(script string, change ...func(*Config)) *agent {
	c.t.Helper()
	cl, err := client.New(client.Config{URLs: []string{c.url}})
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := Config{Client: cl, Command: []string{"sh", "-c", script}, Grace: 200 * time.Millisecond,
		Manifest: api.Manifest{AgentID: "a", Capabilities: []api.Capability{{Action: "vet", Target: "go"}}}}
	for _, f := range change {
		f(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := contextOf(c.t)
	r := &agent{Agent: a, stop: cancel, ended: make(chan error, 1)}
	finished := make(chan struct{})
	go func() { defer close(finished); r.ended <- a.Run(ctx) }()
	c.t.Cleanup(func() { cancel(); a.Abort(); <-finished; cl.Close() })
	return r
}

var tasks int

// lease hands out one task.
func (c *cluster) give(change ...func(*api.Lease)) api.Lease {
	tasks++
	l := api.Lease{TaskID: fmt.Sprintf("t%d", tasks), Epoch: 1<<20 + uint64(tasks), FleetID: "f", Action: "vet", Target: "go", Attempt: 2,
		LeaseSeconds: 60, IdempotencyKey: "k", Input: json.RawMessage(`{"dir":"net/http"}`)}
	for _, f := range change {
		f(&l)
	}
	c.leases <- l
	return l
}

// next waits for an event of the cluster's.
func next[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second): // a deadline for a broken test
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}
