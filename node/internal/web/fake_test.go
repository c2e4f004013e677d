package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// fake is a backend that notes what reaches it. What a test does not set is
// answered with the simplest answer there is.
type fake struct {
	Backend // nil: an operation no test calls panics, and is then a problem
	mu      struct {
		sync.Mutex
		specs   []api.TaskSpec
		by      []string
		calls   int
		settled []api.Settlement
		wait    time.Duration
	}
	submit  func([]api.TaskSpec) ([]api.SubmitVerdict, error)
	task    func(ctx context.Context, id string) (api.Task, error)
	session func(ctx context.Context, held []api.Held, send func(api.SessionEvent) error) error
	backup  func(shard uint32, w io.Writer) error
	export  func(fn func(api.Record) error) error
	ready   error
	members []string
}

func (f *fake) Submit(_ context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.calls++
	f.mu.by = append(f.mu.by, by)
	f.mu.specs = append(f.mu.specs, specs...)
	if f.submit != nil {
		return f.submit(specs)
	}
	out := make([]api.SubmitVerdict, len(specs))
	for i, s := range specs {
		out[i] = api.SubmitVerdict{TaskID: "t-" + s.IdempotencyKey, State: "ready"}
		switch s.Action {
		case "known":
			out[i].Replayed = true
		case "refused":
			out[i] = api.SubmitVerdict{Error: api.Errorf(422, 5, "key_reused", api.RetryNo, "other request")}
		}
	}
	return out, nil
}

func (f *fake) Task(ctx context.Context, id string, wait time.Duration) (api.Task, error) {
	f.mu.Lock()
	f.mu.wait = wait
	f.mu.Unlock()
	if f.task != nil {
		return f.task(ctx, id)
	}
	return api.Task{TaskID: id, State: "ready"}, nil
}

func (f *fake) Tasks(_ context.Context, q api.TaskFilter) (api.TaskPage, error) {
	return api.TaskPage{Tasks: []api.Task{{TaskID: strings.Join(q.States, "+")}}}, nil
}

func (f *fake) Cancel(_ context.Context, id, by, reason string) (api.Task, error) {
	return api.Task{TaskID: id, AgentID: by, LastError: reason}, nil
}

func (f *fake) Lease(_ context.Context, q api.LeaseRequest) (api.Leases, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.wait = time.Duration(q.WaitSeconds * float64(time.Second))
	return api.Leases{Tasks: []api.Lease{}}, nil
}

func (f *fake) Renew(_ context.Context, id string, c api.Claim) (api.Renewal, error) {
	if c.Epoch < 7 {
		return api.Renewal{}, api.Errorf(409, 5, "stale_lease", api.RetryNo, "epoch %d is over", c.Epoch)
	}
	return api.Renewal{TaskID: id, Epoch: c.Epoch}, nil
}

func (f *fake) Settle(_ context.Context, agent string, list []api.Settlement) ([]api.SettleVerdict, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]api.SettleVerdict, len(list))
	for i, s := range list {
		f.mu.settled = append(f.mu.settled, s)
		out[i] = api.SettleVerdict{TaskID: s.TaskID, State: "completed"}
		if s.Epoch == 0 {
			out[i] = api.SettleVerdict{TaskID: s.TaskID, Error: api.Errorf(422, 5, "epoch_missing", api.RetryNo, "no epoch")}
		}
	}
	return out, nil
}

func (f *fake) Register(_ context.Context, m api.Manifest) (api.Agent, error) {
	return api.Agent{Manifest: m}, nil
}

func (f *fake) Heartbeat(_ context.Context, id string, h api.Heartbeat) (api.HeartbeatAck, error) {
	return api.HeartbeatAck{AgentID: id, State: h.State}, nil
}

func (f *fake) Deregister(context.Context, string) error {
	return api.Errorf(503, 5, "no_leader", api.RetryLater, "none")
}

func (f *fake) Agents(context.Context, api.AgentFilter) (api.AgentPage, error) {
	return api.AgentPage{}, errors.New("disk on fire")
}

func (f *fake) Audit(_ context.Context, q api.AuditFilter) (api.RecordPage, error) {
	return api.RecordPage{Records: []api.Record{{TaskID: q.TaskID, Time: q.From}}}, nil
}

func (f *fake) ExportAudit(_ context.Context, _ api.AuditFilter, fn func(api.Record) error) error {
	return f.export(fn)
}

func (f *fake) Erase(_ context.Context, id, by, reason string) (api.Task, error) {
	return api.Task{TaskID: id, AgentID: by + ": " + reason}, nil
}

func (f *fake) Export(_ context.Context, sizes map[uint32]uint64, w io.Writer) error {
	_, err := fmt.Fprintln(w, sizes)
	return err
}

func (f *fake) Checkpoint(context.Context) ([]byte, error) { return []byte("note\n"), nil }
func (f *fake) AuditKeys(context.Context) (string, error)  { return "n1+00000000+AQ==\n", nil }
func (f *fake) Prove(_ context.Context, shard uint32, seq, from uint64) (any, error) {
	return []uint64{uint64(shard), seq, from}, nil
}

func (f *fake) Session(ctx context.Context, _ string, held []api.Held, send func(api.SessionEvent) error) error {
	return f.session(ctx, held, send)
}

func (f *fake) Ready() error      { return f.ready }
func (f *fake) Gateway() []string { return f.members }
func (f *fake) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "quorate_up 1\n") })
}

// do sends one request through the handler without a network.
func do(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// problem reads an error answer and checks what every one has.
func problem(t *testing.T, w *httptest.ResponseRecorder) api.Error {
	t.Helper()
	var e api.Error
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatalf("status %d, body %q is no problem: %v", w.Code, w.Body, err)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type %q", ct)
	}
	if e.Status != w.Code || e.Layer < 1 || e.Layer > 7 || e.Code == "" || e.Title == "" || !strings.HasSuffix(e.Type, e.Code) {
		t.Errorf("status %d with incomplete problem %+v", w.Code, e)
	}
	if e.Retry != api.RetryNo && e.Retry != api.RetryLater && e.Retry != api.RetrySameKey {
		t.Errorf("retry %q", e.Retry)
	}
	if (e.Retry == api.RetryLater) != (w.Header().Get("Retry-After") != "") {
		t.Errorf("retry %q with Retry-After %q", e.Retry, w.Header().Get("Retry-After"))
	}
	return e
}

func (f *fake) Backup(_ context.Context, shard uint32, w io.Writer) error {
	if f.backup == nil {
		return errors.New("no backup here")
	}
	return f.backup(shard, w)
}

func (f *fake) Events(_ context.Context, q api.EventRequest, ready func(id string), fn func(api.Event) error) error {
	ready("0")
	if err := fn(api.Event{ID: "1", Record: api.Record{Verb: "submitted", TaskID: q.After}}); err != nil {
		return err
	}
	return api.Errorf(503, 2, "reader_too_slow", api.RetryLater, "slow")
}

func (f *fake) Archived(context.Context) (api.ArchivePage, error) { return api.ArchivePage{}, nil }
