package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate/quorate/node/api"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if typescript.dir != "" {
			_ = os.RemoveAll(typescript.dir)
		}
		os.Exit(code)
	}))
}

// node is a server that answers with fn, given how many requests came before.
func node(t *testing.T, fn func(n int, w http.ResponseWriter, r *http.Request)) (string, *atomic.Int32) {
	t.Helper()
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fn(int(n.Add(1))-1, w, r) }))
	t.Cleanup(s.Close)
	return s.URL, &n
}

func dial(t *testing.T, patience time.Duration, urls ...string) *Client {
	t.Helper()
	cfg := Config{URLs: urls, Actor: "tester", Token: "secret", Patience: patience}
	if strings.HasPrefix(urls[0], "https:") {
		cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		cfg.TLS.RootCAs.AddCert(fakesCertificate())
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func problem(w http.ResponseWriter, e *api.Error) {
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e)
}

const nowhere = "http://127.0.0.1:1"

func TestNextNode(t *testing.T) {
	url, n := node(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Quorate-Actor") != "tester" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("headers %v", r.Header)
		}
		_, _ = io.WriteString(w, `{"task_id":"t1"}`)
	})
	c := dial(t, time.Second, nowhere, strings.TrimPrefix(url, "http://"))
	for range 2 {
		if task, err := c.Task(t.Context(), "t1", 0); err != nil || task.TaskID != "t1" {
			t.Fatalf("%+v, %v", task, err)
		}
	}
	if c.book.here().url != url || n.Load() != 2 {
		t.Errorf("the node that answered is not kept: at %s after %d requests", c.book.here().url, n.Load())
	}
}

// A submit whose answer is lost is repeated with the key it was first sent
// with.
func TestSubmitUnknown(t *testing.T) {
	keys := make(chan string, 8)
	url, _ := node(t, func(n int, w http.ResponseWriter, r *http.Request) {
		var spec api.TaskSpec
		_ = json.NewDecoder(r.Body).Decode(&spec)
		keys <- spec.IdempotencyKey
		switch n {
		case 0:
			panic(http.ErrAbortHandler)
		case 1:
			problem(w, api.Errorf(503, 5, "unknown", api.RetrySameKey, "maybe"))
		case 2:
			problem(w, api.Errorf(503, 5, "no_leader", api.RetryLater, "later"))
		default:
			_, _ = io.WriteString(w, `{"task_id":"t1","state":"ready","idempotent_replayed":true}`)
		}
	})
	v, err := dial(t, 0, url).Submit(t.Context(), api.TaskSpec{Action: "a", Target: "b"})
	if err != nil || !v.Replayed {
		t.Fatalf("%+v, %v", v, err)
	}
	first := <-keys
	for range 3 {
		if k := <-keys; k != first || k == "" {
			t.Errorf("key %q, first %q", k, first)
		}
	}
}

func TestRefusal(t *testing.T) {
	url, n := node(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		problem(w, api.Errorf(422, 5, "key_reused", api.RetryNo, "other").WithHint("take another key"))
	})
	_, err := dial(t, 0, url, nowhere).Submit(t.Context(), api.TaskSpec{})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != "key_reused" || e.Layer != 5 || e.Hint != "take another key" || n.Load() != 1 {
		t.Errorf("%v after %d requests", err, n.Load())
	}
}

func TestNotAProblem(t *testing.T) {
	url, _ := node(t, func(_ int, w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", 404) })
	_, err := dial(t, 0, url).Cluster(t.Context())
	var e *api.Error
	if !errors.As(err, &e) || e.Code != "unexpected_answer" || e.Status != 404 {
		t.Errorf("%v", err)
	}
}

// TestProxy: a proxy that lost its node answers with a page of its own; what it
// was asked is asked again, with the same key.
func TestProxy(t *testing.T) {
	keys := make(chan string, 8)
	url, _ := node(t, func(n int, w http.ResponseWriter, r *http.Request) {
		var spec api.TaskSpec
		if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
			t.Error(err)
		}
		keys <- spec.IdempotencyKey
		if pages := []int{502, 503, 504, 429}; n < len(pages) {
			http.Error(w, "<html>", pages[n])
			return
		}
		_, _ = io.WriteString(w, `{"task_id":"t1","state":"ready"}`)
	})
	v, err := dial(t, 0, url).Submit(t.Context(), api.TaskSpec{Action: "a", Target: "b"})
	if err != nil || v.TaskID != "t1" || len(keys) != 5 {
		t.Fatalf("%+v, %v after %d requests", v, err, len(keys))
	}
	for first := <-keys; len(keys) > 0; {
		if k := <-keys; k != first || k == "" {
			t.Errorf("key %q, first %q", k, first)
		}
	}
	down, _ := node(t, func(_ int, w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) })
	_, err = dial(t, time.Millisecond, down).Cluster(t.Context())
	if e := (*api.Error)(nil); !errors.As(err, &e) || e.Code != "unexpected_answer" || e.Retry != api.RetrySameKey || !strings.Contains(e.Hint, "proxy") {
		t.Errorf("%v", err)
	}
}

// Patience ends with what a node said, not with what another did not say.
func TestPatience(t *testing.T) {
	url, n := node(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		problem(w, api.Errorf(503, 5, "not_formed", api.RetryLater, "waiting"))
	})
	_, err := dial(t, 100*time.Millisecond, url, nowhere).Cluster(t.Context())
	var e *api.Error
	if !errors.As(err, &e) || e.Code != "not_formed" || n.Load() < 2 {
		t.Errorf("%v after %d requests", err, n.Load())
	}
	if _, err = dial(t, time.Nanosecond, nowhere).Cluster(t.Context()); err == nil || !strings.Contains(err.Error(), "no answer from any node") {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = dial(t, 0, nowhere).Cluster(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("context ended: %v", err)
	}
}

// A node that takes a request and says nothing is given up, another is asked.
func TestSilentNode(t *testing.T) {
	silent, _ := node(t, func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	url, _ := node(t, func(_ int, w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"cluster":"c"}`) })
	var v api.Cluster
	if err := dial(t, 0, silent, url).call(t.Context(), 50*time.Millisecond, "GET", "/v1/cluster", nil, &v); err != nil || v.Cluster != "c" {
		t.Errorf("%+v, %v", v, err)
	}
}

// Of a batch, only what is undecided is sent again; each verdict stays at its
// place.
func TestBatchVerdicts(t *testing.T) {
	url, n := node(t, func(n int, w http.ResponseWriter, r *http.Request) {
		var specs []api.TaskSpec
		_ = json.NewDecoder(r.Body).Decode(&specs)
		var out []api.SubmitVerdict
		for _, s := range specs {
			v := api.SubmitVerdict{TaskID: s.Target}
			switch {
			case s.IdempotencyKey == "":
				t.Error("a task without a key")
			case s.Target == "unknown" && n < 2:
				v.Error = api.Errorf(503, 5, "unknown", api.RetrySameKey, "")
			case s.Target == "refused":
				v.Error = api.Errorf(422, 5, "invalid_task", api.RetryNo, "")
			case n > 0 && s.Target != "unknown":
				t.Errorf("%s was decided and is sent again", s.Target)
			}
			out = append(out, v)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"tasks": out})
	})
	c := dial(t, 0, url)
	vs, err := c.SubmitBatch(t.Context(), []api.TaskSpec{{Target: "a"}, {Target: "unknown"}, {Target: "refused"}, {Target: "b"}})
	if err != nil || n.Load() != 3 {
		t.Fatalf("%v after %d requests", err, n.Load())
	}
	for i, want := range []string{"a", "unknown", "refused", "b"} {
		if vs[i].TaskID != want || (vs[i].Error != nil) != (want == "refused") {
			t.Errorf("verdict %d: %+v", i, vs[i])
		}
	}
	c.patience = 10 * time.Millisecond
	n.Store(-100)
	if vs, err = c.SubmitBatch(t.Context(), []api.TaskSpec{{Target: "unknown"}}); err != nil || vs[0].Error == nil {
		t.Errorf("undecided to the end: %+v, %v", vs, err)
	}
}

func TestWaits(t *testing.T) {
	url, _ := node(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 0 {
			if r.FormValue("wait") != "30s" {
				t.Errorf("wait %q", r.FormValue("wait"))
			}
			_, _ = io.WriteString(w, `{"task_id":"t1","state":"running"}`)
			return
		}
		_, _ = io.WriteString(w, `{"task_id":"t1","state":"completed","completed_at":"2026-01-02T03:04:05Z"}`)
	})
	if task, err := dial(t, 0, url).Wait(t.Context(), "t1"); err != nil || task.State != "completed" {
		t.Errorf("%+v, %v", task, err)
	}
}

func TestSession(t *testing.T) {
	url, _ := node(t, func(n int, w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch n {
		case 0:
			_, _ = io.WriteString(w, `{"type":"hello"}`+"\n"+`{"type":"revoked","task_id":"`+strings.ReplaceAll(string(b), `"`, "'")+`"}`+"\n")
		case 1:
			_, _ = io.WriteString(w, `{"type":"end","error":{"status":409,"layer":2,"code":"session_fenced","retry":"no"}}`)
		default:
			problem(w, api.Errorf(404, 3, "agent_not_registered", api.RetryNo, ""))
		}
	})
	c := dial(t, 0, url)
	var got []api.SessionEvent
	err := c.Session(t.Context(), "a", []api.Held{{TaskID: "t", Epoch: 3}}, func(e api.SessionEvent) { got = append(got, e) })
	if !errors.Is(err, io.EOF) || len(got) != 2 || got[1].TaskID != `{'held':[{'task_id':'t','epoch':3}]}` {
		t.Errorf("%+v, %v", got, err)
	}
	for _, code := range []string{"session_fenced", "agent_not_registered"} {
		var e *api.Error
		if err = c.Session(t.Context(), "a", nil, nil); !errors.As(err, &e) || e.Code != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
}

func TestExport(t *testing.T) {
	url, _ := node(t, func(n int, w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"seq":1}`+"\n"+`{"seq":2}`+"\n")
		if n > 0 {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	c := dial(t, 0, nowhere, url)
	for _, whole := range []bool{true, false} {
		var n uint64
		err := c.Export(t.Context(), api.AuditFilter{Shard: -1}, func(r api.Record) error { n += r.Seq; return nil })
		if (err == nil) != whole || n != 3 {
			t.Errorf("whole=%v: sum %d, %v", whole, n, err)
		}
	}
}

// Each method asks for the right thing.
func TestRequests(t *testing.T) {
	var got string
	url, _ := node(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.String() + " " + string(b)
		_, _ = io.WriteString(w, `{"outcomes":[{"task_id":"t"}],"heads":[{"shard":1}]}`)
	})
	c := dial(t, time.Second, url)
	ctx := t.Context()
	claim := api.Claim{AgentID: "a", Epoch: 2}
	for _, x := range []struct {
		want string
		do   func() error
	}{
		{"GET /v1/tasks?action=vet&cursor=c&limit=5&state=ready%2Cfailed ", func() error {
			_, err := c.Tasks(ctx, api.TaskFilter{Action: "vet", States: []string{"ready", "failed"}, Limit: 5, Cursor: "c"})
			return err
		}},
		{"GET /v1/tasks/t%2F1/why ", func() error { _, err := c.Why(ctx, "t/1"); return err }},
		{`POST /v1/tasks/t/cancel {"reason":"r"}`, func() error { _, err := c.Cancel(ctx, "t", "r"); return err }},
		{"POST /v1/tasks/t/retry {}", func() error { _, err := c.Retry(ctx, "t"); return err }},
		{`POST /v1/leases {"agent_id":"a","max":2,"wait_seconds":1}`, func() error {
			_, err := c.Lease(ctx, api.LeaseRequest{AgentID: "a", Max: 2, WaitSeconds: 1})
			return err
		}},
		{`POST /v1/tasks/t/start {"agent_id":"a","epoch":2}`, func() error { _, err := c.Start(ctx, "t", claim); return err }},
		{`POST /v1/tasks/t/renew {"agent_id":"a","epoch":2}`, func() error { _, err := c.Renew(ctx, "t", claim); return err }},
		{`POST /v1/tasks/t/progress {"agent_id":"a","epoch":2}`, func() error { _, err := c.Progress(ctx, "t", claim); return err }},
		{`POST /v1/leases/settle {"agent_id":"a","outcomes":[{"task_id":"t","epoch":2,"verdict":"complete"}]}`, func() error {
			_, err := c.Settle(ctx, "a", []api.Settlement{{TaskID: "t", Epoch: 2, Verdict: "complete"}})
			return err
		}},
		{`POST /v1/agents/a/heartbeat {"load":0.5}`, func() error { _, err := c.Heartbeat(ctx, "a", api.Heartbeat{Load: 0.5}); return err }},
		{"GET /v1/agents/a ", func() error { _, err := c.Agent(ctx, "a"); return err }},
		{"GET /v1/agents?action=vet&target=go ", func() error { _, err := c.Agents(ctx, api.AgentFilter{Action: "vet", Target: "go"}); return err }},
		{"DELETE /v1/agents/a ", func() error { return c.Deregister(ctx, "a") }},
		{"GET /v1/audit?from=2026-01-02T03%3A04%3A05Z&shard=0&verb=refused ", func() error {
			_, err := c.Audit(ctx, api.AuditFilter{Verb: "refused", From: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
			return err
		}},
		{"GET /v1/audit/heads ", func() error { _, err := c.LedgerHeads(ctx); return err }},
		{"GET /v1/audit/verify ", func() error { _, err := c.VerifyLedger(ctx); return err }},
		{"GET /v1/doctor ", func() error { _, err := c.Doctor(ctx); return err }},
	} {
		if err := x.do(); err != nil || got != x.want {
			t.Errorf("got %q, want %q (%v)", got, x.want, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, u := range []string{"", "ftp://x", "http://", "://", "http://[::1"} {
		if _, err := New(Config{URLs: []string{u}}); err == nil {
			t.Errorf("%q is taken for a node's address", u)
		}
	}
	for _, u := range []string{"127.0.0.1:7700", "http://host:1/", "https://host", "[::1]:7700"} {
		if _, err := New(Config{URLs: []string{u}}); err != nil {
			t.Errorf("%q: %v", u, err)
		}
	}
}
