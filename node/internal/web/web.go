package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Backend is what a node offers every face. Errors are, or wrap, *api.Error.
type Backend interface {
	Submit(ctx context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error)
	Task(ctx context.Context, id string, wait time.Duration) (api.Task, error)
	Tasks(ctx context.Context, f api.TaskFilter) (api.TaskPage, error)
	Why(ctx context.Context, id string) (api.Why, error)
	Cancel(ctx context.Context, id, by, reason string) (api.Task, error)
	Retry(ctx context.Context, id, by string) (api.Task, error)
	Lease(ctx context.Context, req api.LeaseRequest) (api.Leases, error)
	Start(ctx context.Context, id string, c api.Claim) (api.Renewal, error)
	Renew(ctx context.Context, id string, c api.Claim) (api.Renewal, error)
	Progress(ctx context.Context, id string, c api.Claim) (api.Renewal, error)
	Settle(ctx context.Context, agentID string, list []api.Settlement) ([]api.SettleVerdict, error)
	Register(ctx context.Context, m api.Manifest) (api.Agent, error)
	Heartbeat(ctx context.Context, id string, h api.Heartbeat) (api.HeartbeatAck, error)
	Agent(ctx context.Context, id string) (api.Agent, error)
	Agents(ctx context.Context, f api.AgentFilter) (api.AgentPage, error)
	Deregister(ctx context.Context, id string) error
	Session(ctx context.Context, agentID string, held []api.Held, send func(api.SessionEvent) error) error
	Audit(ctx context.Context, f api.AuditFilter) (api.RecordPage, error)
	ExportAudit(ctx context.Context, f api.AuditFilter, fn func(api.Record) error) error
	LedgerHeads(ctx context.Context) ([]api.LedgerHead, error)
	VerifyLedger(ctx context.Context) (api.LedgerVerification, error)
	Cluster(ctx context.Context) (api.Cluster, error)
	Doctor(ctx context.Context) (api.Doctor, error)
	Ready() error
	Metrics() http.Handler
	Gateway() []string
}

// Config of the face. Zero fields take the default.
type Config struct {
	MaxPayloadBytes int // of one task's input, context or result; default 1 MiB
	MaxBatchBytes   int // of a body that carries many; default 64 MiB
	Logger          *slog.Logger
}

// bodySlack is what a body may have beside its payloads: names, keys, braces.
const bodySlack = 64 << 10

type server struct {
	b   Backend
	cfg Config
}

// New renders b.
func New(b Backend, cfg Config) http.Handler {
	if cfg.MaxPayloadBytes == 0 {
		cfg.MaxPayloadBytes = 1 << 20
	}
	if cfg.MaxBatchBytes == 0 {
		cfg.MaxBatchBytes = 64 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &server{b: b, cfg: cfg}
	ops := s.operations()
	mux := http.NewServeMux()
	for _, o := range ops {
		mux.Handle(o.method+" "+o.path, s.handler(o))
	}
	doc := openAPI(ops)
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(doc)
	})
	mux.HandleFunc("GET /llms.txt", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, llms)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { s.write(w, 200, map[string]string{"status": "alive"}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if len(b.Gateway()) == 0 {
			if err := b.Ready(); err != nil {
				s.fail(w, err)
				return
			}
		}
		s.write(w, 200, map[string]string{"status": "ready"})
	})
	mux.Handle("GET /metrics", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.Metrics().ServeHTTP(w, r) }))
	return s.outer(mux)
}

// refusal takes what the mux answers to a request it has no route for: the
// status, 404 or 405, and the Allow header.
type refusal struct {
	header http.Header
	status int
}

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) Write(b []byte) (int, error) { return len(b), nil }
func (r *refusal) WriteHeader(status int)      { r.status = status }

// noRoute says as a problem what the mux says as text.
func (s *server) noRoute(w http.ResponseWriter, r *http.Request, mux http.Handler) {
	ref := &refusal{header: http.Header{}}
	mux.ServeHTTP(ref, r)
	if allow := ref.header.Get("Allow"); ref.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allow)
		s.fail(w, api.Errorf(405, 2, "method_not_allowed", api.RetryNo, "%s is not possible on %s", r.Method, r.URL.Path).WithHint("use %s", allow))
		return
	}
	s.fail(w, api.Errorf(404, 2, "no_such_resource", api.RetryNo, "there is no %s", r.URL.Path).WithHint("GET /openapi.json lists what there is"))
}

// outer turns panics into problems and passes a gateway's requests on.
func (s *server) outer(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				panic(p)
			}
			s.cfg.Logger.Error("request panicked", "layer", 2, "path", r.URL.Path, "panic", p)
			s.fail(w, fmt.Errorf("internal error"))
		}()
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			if urls := s.b.Gateway(); len(urls) > 0 {
				s.forward(w, r, urls)
				return
			}
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			s.noRoute(w, r, mux)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// operation is one row of the table.
type operation struct {
	method, path, name, doc string
	in, out                 any // zero values of the body's and the answer's types; nil: none
	query                   []string
	many                    bool // the body may be a batch
	handle                  func(*server, http.ResponseWriter, *http.Request) error
}

func (s *server) handler(o operation) http.Handler {
	limit := int64(2*s.cfg.MaxPayloadBytes + bodySlack)
	if o.many {
		limit = int64(s.cfg.MaxBatchBytes)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for q := range r.URL.Query() {
			if !contains(o.query, q) {
				s.fail(w, errBad("unknown_parameter", "%s has no parameter %q", o.path, q).WithHint("it takes: %s", strings.Join(o.query, ", ")))
				return
			}
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		if err := o.handle(s, w, r); err != nil {
			if r.Context().Err() != nil && !errors.As(err, new(*api.Error)) {
				return // nobody is listening any more
			}
			s.fail(w, err)
		}
	})
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func errBad(code, format string, args ...any) *api.Error {
	return api.Errorf(400, 2, code, api.RetryNo, format, args...)
}

// body reads a whole body.
func body(r *http.Request) ([]byte, error) {
	var buf bytes.Buffer
	if r.ContentLength > 0 && r.ContentLength < 64<<20 {
		buf.Grow(int(r.ContentLength) + 1)
	}
	_, err := buf.ReadFrom(r.Body)
	return buf.Bytes(), bodyError(err)
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return api.Errorf(413, 2, "payload_too_large", api.RetryNo, "the body is over %d bytes", tooLarge.Limit).
			WithHint("store large inputs elsewhere and submit a reference")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errBad("malformed_json", "the body ends in the middle")
	}
	return errBad("unreadable_body", "%v", err)
}

// decode reads strict JSON: one value, known fields, right types.
func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return jsonError(err)
	}
	if rest := bytes.TrimSpace(b[d.InputOffset():]); len(rest) > 0 {
		return errBad("malformed_json", "something follows the JSON value")
	}
	return nil
}

func jsonError(err error) error {
	var typ *json.UnmarshalTypeError
	var syn *json.SyntaxError
	switch {
	case errors.As(err, &typ):
		return errBad("wrong_type", "field %s: %s where %s is expected", typ.Field, typ.Value, typ.Type)
	case errors.As(err, &syn):
		return errBad("malformed_json", "at byte %d: %v", syn.Offset, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errBad("malformed_json", "the body is empty or ends in the middle")
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return errBad("unknown_field", "there is no field %s", strings.TrimPrefix(err.Error(), "json: unknown field ")).
			WithHint("GET /openapi.json lists the fields")
	}
	if bodyErr := bodyError(err); errors.As(bodyErr, new(*api.Error)) && strings.Contains(err.Error(), "too large") {
		return bodyErr
	}
	return errBad("malformed_json", "%v", err)
}

// write answers JSON.
func (s *server) write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.fail(w, fmt.Errorf("answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that left is its own business
}

// fail answers a problem.
func (s *server) fail(w http.ResponseWriter, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		e = api.Errorf(500, 2, "internal", api.RetryLater, "%v", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	if e.Retry == api.RetryLater {
		after := max((e.After+999)/1000, 1)
		w.Header().Set("Retry-After", strconv.Itoa(after))
	}
	b, _ := json.Marshal(e) // plain fields
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(b, '\n'))
}

// actor is who calls, as the ledger records it.
func actor(r *http.Request) string {
	if a := r.Header.Get("X-Quorate-Actor"); a != "" {
		return a[:min(len(a), 256)]
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// seconds reads a duration parameter: "30s" or "30".
func seconds(name, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		f, ferr := strconv.ParseFloat(s, 64)
		if ferr != nil {
			return 0, errBad("bad_parameter", "%s=%q is not a duration", name, s).WithHint("for example %s=30s", name)
		}
		d = time.Duration(f * float64(time.Second))
	}
	if d < 0 || d > time.Minute {
		return 0, errBad("bad_parameter", "%s=%s is not within 0 and 60s", name, s)
	}
	return d, nil
}

func number(name, s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, errBad("bad_parameter", "%s=%q is not a number", name, s)
	}
	return n, nil
}
