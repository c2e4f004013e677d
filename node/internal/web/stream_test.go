package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/gate"
)

func serve(t *testing.T, f Backend, cfg Config) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(New(f, cfg))
	t.Cleanup(s.Close)
	return s
}

func line(i int) string {
	return fmt.Sprintf(`{"action":"vet","target":"go","idempotency_key":"%d"}`+"\n", i)
}

// A bulk submit answers each chunk before it reads the next.
func TestSubmitLines(t *testing.T) {
	for _, gateway := range []bool{false, true} {
		t.Run(fmt.Sprintf("gateway=%v", gateway), func(t *testing.T) {
			f := &fake{}
			s := serve(t, f, Config{})
			if gateway {
				s = serve(t, &fake{members: []string{s.URL}}, Config{})
			}
			in, out := io.Pipe()
			req, _ := http.NewRequest("POST", s.URL+"/v1/tasks", in)
			req.Header.Set("Content-Type", "application/x-ndjson")
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				for i := range ndjsonChunk {
					_, _ = io.WriteString(out, line(i))
				}
			}()
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			<-wrote
			lines := bufio.NewScanner(resp.Body)
			next := func() (v api.SubmitVerdict) {
				t.Helper()
				if !lines.Scan() {
					t.Fatalf("the answer ended: %v", lines.Err())
				}
				if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
					t.Fatal(err)
				}
				return v
			}
			for i := range ndjsonChunk { // with the request still open
				if v := next(); v.TaskID != fmt.Sprintf("t-%d", i) {
					t.Fatalf("verdict %d is %+v", i, v)
				}
			}
			_, _ = io.WriteString(out, line(1)+"\n"+`{"action":1}`+"\n"+`{"actio`+"\n"+line(2))
			out.Close()
			for _, want := range []string{"", "wrong_type", "malformed_json", ""} {
				v := next()
				if got := ""; v.Error != nil && v.Error.Code != want || v.Error == nil && got != want {
					t.Errorf("verdict %+v, want %q", v, want)
				}
			}
			if lines.Scan() {
				t.Errorf("one more line: %s", lines.Text())
			}
			if f.mu.calls != 2 {
				t.Errorf("%d calls of the backend, want 2", f.mu.calls)
			}
		})
	}
}

func TestSubmitLinesLimits(t *testing.T) {
	h := New(&fake{}, Config{MaxPayloadBytes: 1000, MaxBatchBytes: 1000})
	limit := 2*1000 + bodySlack
	of := func(size int) string {
		return `{"action":"a","target":"` + strings.Repeat("b", size-len(`{"action":"a","target":""}`)) + `"}`
	}
	verdicts := func(body string) (codes []string) {
		for l := range strings.Lines(do(h, "POST", "/v1/tasks", body, "Content-Type", "application/x-ndjson").Body.String()) {
			var v api.SubmitVerdict
			if err := json.Unmarshal([]byte(l), &v); err != nil {
				t.Fatalf("line %q: %v", l, err)
			}
			codes = append(codes, "ok")
			if v.Error != nil {
				codes[len(codes)-1] = v.Error.Code
			}
		}
		return codes
	}
	for _, c := range []struct{ body, want string }{
		{of(limit) + "\n" + of(limit) + "\r\n" + of(limit), "[ok ok ok]"},
		{of(limit+1) + "\n" + of(100), "[payload_too_large ok]"},
		{of(100) + "\n" + of(limit+4) + "\n" + of(100), "[ok payload_too_large]"}, // past the buffer: the end
		{"", "[]"},
	} {
		if got := fmt.Sprint(verdicts(c.body)); got != c.want {
			t.Errorf("lines of %d bytes: %s, want %s", len(c.body), got, c.want)
		}
	}
}

// A chunk that the cluster refuses ends the answer with its verdict on each of
// its lines.
func TestSubmitLinesRefused(t *testing.T) {
	f := &fake{submit: func([]api.TaskSpec) ([]api.SubmitVerdict, error) {
		return nil, api.Errorf(503, 5, "overloaded", api.RetryLater, "full")
	}}
	body := strings.Repeat(line(1), ndjsonChunk+1)
	w := do(New(f, Config{}), "POST", "/v1/tasks", body, "Content-Type", "application/x-ndjson")
	if n := strings.Count(w.Body.String(), `"code":"overloaded"`); n != ndjsonChunk || f.mu.calls != 1 {
		t.Errorf("%d refusals after %d calls, want %d after 1", n, f.mu.calls, ndjsonChunk)
	}
}

func TestSessionStream(t *testing.T) {
	for _, gateway := range []bool{false, true} {
		t.Run(fmt.Sprintf("gateway=%v", gateway), func(t *testing.T) {
			gone := make(chan struct{})
			f := &fake{session: func(ctx context.Context, held []api.Held, send func(api.SessionEvent) error) error {
				if len(held) != 1 || held[0] != (api.Held{TaskID: "t1", Epoch: 7}) {
					return fmt.Errorf("held %+v", held)
				}
				for _, e := range []api.SessionEvent{{Type: "hello"}, {Type: "revoked", TaskID: "t1", Epoch: 7}} {
					if err := send(e); err != nil {
						return err
					}
				}
				<-ctx.Done() // the client's end is seen at once
				close(gone)
				return nil
			}}
			s := serve(t, f, Config{})
			if gateway {
				s = serve(t, &fake{members: []string{"", "http://127.0.0.1:1", s.URL}}, Config{})
			}
			ctx, cancel := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, "POST", s.URL+"/v1/agents/a/session", strings.NewReader(`{"held":[{"task_id":"t1","epoch":7}]}`))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if ids := resp.Header.Values("X-Request-Id"); len(ids) != 1 {
				t.Errorf("request IDs %q", ids)
			}
			lines := bufio.NewScanner(resp.Body)
			for _, want := range []string{"hello", "revoked"} {
				if !lines.Scan() || !strings.Contains(lines.Text(), want) {
					t.Fatalf("got %q, want %s (%v)", lines.Text(), want, lines.Err())
				}
			}
			cancel()
			<-gone
		})
	}
}

func TestSessionEnd(t *testing.T) {
	f := &fake{session: func(_ context.Context, _ []api.Held, send func(api.SessionEvent) error) error {
		_ = send(api.SessionEvent{Type: "hello"})
		return api.Errorf(409, 2, "session_fenced", api.RetryNo, "connected again")
	}}
	w := do(New(f, Config{}), "POST", "/v1/agents/a/session", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"type":"end"`) || !strings.Contains(w.Body.String(), `"code":"session_fenced"`) {
		t.Errorf("end of a session: %d %s", w.Code, w.Body)
	}
	f.session = func(context.Context, []api.Held, func(api.SessionEvent) error) error {
		return api.Errorf(404, 3, "agent_not_registered", api.RetryNo, "unknown")
	}
	if e := problem(t, do(New(f, Config{}), "POST", "/v1/agents/a/session", "")); e.Code != "agent_not_registered" {
		t.Errorf("refused session: %+v", e)
	}
}

func TestExport(t *testing.T) {
	broken := errors.New("disk")
	f := &fake{export: func(fn func(api.Record) error) error { return broken }}
	s := serve(t, f, Config{})
	resp, err := http.Get(s.URL + "/v1/audit/export?verb=submit")
	if err != nil || resp.StatusCode != 500 {
		t.Fatalf("an export that fails before it begins: %v %v", resp, err)
	}
	resp.Body.Close()
	for _, end := range []error{nil, broken} {
		f.export = func(fn func(api.Record) error) error {
			_ = fn(api.Record{Seq: 1})
			return end
		}
		resp, err = http.Get(s.URL + "/v1/audit/export?verb=submit")
		if err != nil && end == nil {
			t.Fatal(err)
		}
		if err != nil {
			continue // cut before the header arrived
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if (err != nil) != (end != nil) || !strings.Contains(string(b), `"seq":1`) {
			t.Errorf("export ending with %v: %q, %v", end, b, err)
		}
	}
}

// A long poll ends with its client.
func TestLongPollDisconnect(t *testing.T) {
	began, gone := make(chan struct{}), make(chan struct{})
	f := &fake{task: func(ctx context.Context, id string) (api.Task, error) {
		close(began)
		<-ctx.Done()
		close(gone)
		return api.Task{}, ctx.Err()
	}}
	s := serve(t, f, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/v1/tasks/t1?wait=60s", nil)
	if _, err := http.DefaultClient.Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-gone
}

// A body that does not arrive is given up; a long poll behind a whole body is
// not cut by the same deadline.
func TestBodyTimeout(t *testing.T) {
	const timeout = 50 * time.Millisecond
	f := &fake{session: func(ctx context.Context, _ []api.Held, send func(api.SessionEvent) error) error {
		select {
		case <-ctx.Done():
			return send(api.SessionEvent{Type: "revoked"})
		case <-time.After(4 * timeout): // what is awaited is that nothing happens
			return send(api.SessionEvent{Type: "hello"})
		}
	}}
	s := serve(t, f, Config{BodyTimeout: timeout})
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"action\":")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusRequestTimeout {
		t.Fatalf("half a body: %v %v", resp, err)
	}
	resp, err = http.Post(s.URL+"/v1/agents/a/session", "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); !strings.Contains(string(b), "hello") {
		t.Errorf("a stream longer than the body's timeout: %s", b)
	}
}

func TestGatewayErrors(t *testing.T) {
	f := &fake{members: []string{""}}
	h := New(f, Config{})
	if e := problem(t, do(h, "GET", "/v1/tasks", "")); e.Code != "no_member_reachable" || e.Retry != api.RetryLater {
		t.Errorf("no member known: %+v", e)
	}
	if e := problem(t, do(h, "GET", "/readyz", "")); e.Code != "no_member_reachable" {
		t.Errorf("ready without members: %+v", e)
	}
	f.members = []string{"http://127.0.0.1:1"}
	if e := problem(t, do(h, "POST", "/v1/tasks", line(1))); e.Code != "no_member_reachable" || e.Retry != api.RetryLater {
		t.Errorf("no member reachable: %+v", e)
	}
	cut := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer cut.Close()
	whole := serve(t, &fake{}, Config{})
	f.members = []string{cut.URL, whole.URL}
	if e := problem(t, do(h, "POST", "/v1/tasks", line(1))); e.Code != "member_lost" || e.Retry != api.RetrySameKey {
		t.Errorf("a member lost half-way must be unknown, not sent again: %+v", e)
	}
	f.members = []string{"http://127.0.0.1:1", whole.URL}
	if w := do(h, "POST", "/v1/tasks", line(1)); w.Code != 201 {
		t.Errorf("the second member was not tried with the body: %d %s", w.Code, w.Body)
	}
	if w := do(h, "GET", "/healthz", ""); w.Code != 200 {
		t.Errorf("a gateway's own health: %d", w.Code)
	}
}

// TestBackupStream: a backup that breaks off is never taken for a whole one.
func TestBackupStream(t *testing.T) {
	var end error
	f := &fake{backup: func(shard uint32, w io.Writer) error {
		if shard != 3 {
			return api.Errorf(503, 5, "not_leader", api.RetryLater, "elsewhere")
		}
		_, _ = w.Write(make([]byte, 1<<20)) // beyond every buffer
		return end
	}}
	s := serve(t, f, Config{})
	for path, code := range map[string]int{"/v1/backup/2": 503, "/v1/backup/x": 400} {
		if resp, err := http.Get(s.URL + path); err != nil || resp.StatusCode != code {
			t.Errorf("%s: %+v, %v", path, resp, err)
		} else {
			resp.Body.Close()
		}
	}
	for _, end = range []error{nil, errors.New("disk")} {
		resp, err := http.Get(s.URL + "/v1/backup/3")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if (err != nil) != (end != nil) || end == nil && len(b) != 1<<20 {
			t.Errorf("backup ending with %v: %d bytes, %v", end, len(b), err)
		}
	}
}

// Requests that last are counted by who makes them and from where; those that
// do not, and other callers, go on.
func TestLastingRequests(t *testing.T) {
	f := &fake{task: func(ctx context.Context, id string) (api.Task, error) {
		if id == "waits" {
			<-ctx.Done()
		}
		return api.Task{TaskID: id}, ctx.Err()
	}}
	g := gate.New(gate.Config{PerIdentity: 1})
	s := serve(t, f, Config{Gate: g})
	ask := func(ctx context.Context, path, who string) (int, string) {
		req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+path, nil)
		req.Header.Set("X-Quorate-Actor", who)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ask(ctx, "/v1/tasks/waits?wait=60s", "ann")
	}()
	for g.Open() < 1 {
		time.Sleep(time.Millisecond) // a long poll arrives without a sign
	}
	for _, path := range []string{"/v1/tasks/t?wait=1s", "/v1/events"} {
		if status, body := ask(t.Context(), path, "ann"); status != 429 || !strings.Contains(body, "too_many_streams") || !strings.Contains(body, `"layer":2`) {
			t.Errorf("one over the limit: %d %s", status, body)
		}
	}
	for _, k := range [][2]string{{"/v1/tasks/t", "ann"}, {"/v1/tasks/t?wait=1s", "bob"}, {"/v1/tasks/t?wait=1s", ""}} {
		if status, body := ask(t.Context(), k[0], k[1]); status != 200 {
			t.Errorf("%s of %s: %d %s", k[0], k[1], status, body)
		}
	}
	cancel()
	<-ended
	for g.Open() > 0 {
		time.Sleep(time.Millisecond) // nor does it leave with one
	}
	if status, _ := ask(t.Context(), "/v1/tasks/t?wait=1s", "ann"); status != 200 {
		t.Errorf("after the first has gone: %d", status)
	}
}

// torrent has events without an end, and says when it was told to stop.
type torrent struct {
	fake
	sent atomic.Int64 // bytes
	over chan error
}

func (f *torrent) Events(_ context.Context, _ api.EventRequest, ready func(string), fn func(api.Event) error) error {
	ready("0")
	detail := strings.Repeat("x", 8<<10)
	for {
		if err := fn(api.Event{ID: "1", Record: api.Record{Verb: "submit", Detail: detail}}); err != nil {
			f.over <- err
			return err
		}
		f.sent.Add(int64(len(detail)))
	}
}

// A client that follows events and never reads is given up; until then nothing
// is held for it but what its connection takes. Others are not held up.
func TestEventsNeverRead(t *testing.T) {
	f := &torrent{over: make(chan error, 1)}
	s := serve(t, f, Config{WriteTimeout: 300 * time.Millisecond})
	c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	late := time.After(20 * time.Second)
	for ended := false; !ended; {
		select {
		case <-f.over:
			ended = true
		case <-late:
			t.Fatal("it is waited for without an end")
		default:
			resp, err := http.Get(s.URL + "/healthz")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
	}
	if n := f.sent.Load(); n > 64<<20 {
		t.Errorf("%d bytes were sent to a client that does not read", n)
	}
}
