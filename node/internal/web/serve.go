package web

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/gate"
)

// Limits of a request beside its body.
const (
	maxActorBytes     = 256
	maxRequestIDBytes = 64
	writeTimeout      = 30 * time.Second // a client that takes nothing for so long is gone
)

// operation is one row of the table.
type operation struct {
	method, path, name, doc string
	in, out                 any // zero values of the body's and the answer's types; nil: none
	query                   []string
	size                    size
	handle                  func(*server, http.ResponseWriter, *http.Request) error
}

// size is how much an operation's body may carry.
type size int

const (
	one   size = iota // one task's payloads
	many              // a batch
	lines             // a batch, or a stream without an end, or one, and held to it
)

// oneLimit bounds a body about one task: input and context (or a result) of
// the largest size, and what is around them.
func (s *server) oneLimit() int64 { return int64(2*s.cfg.MaxPayloadBytes + bodySlack) }

func (s *server) handler(o operation) http.Handler {
	limit := s.oneLimit()
	if o.size != one {
		limit = int64(s.cfg.MaxBatchBytes)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := o.parameters(r); err != nil {
			s.fail(w, err)
			return
		}
		if slices.Contains(o.query, consistency) {
			var err error
			if r, err = consistent(w, r); err != nil {
				s.fail(w, err)
				return
			}
		}
		stream := o.size == lines && isLines(r)
		b := &timedBody{ReadCloser: r.Body, rc: http.NewResponseController(w), timeout: s.cfg.BodyTimeout, each: stream}
		r.Body = b
		b.meter = s.cfg.Bytes.Meter()
		defer func() { s.cfg.Bytes.Give(b.meter.Done()) }()
		if !stream { // a stream has no end to speak of; each of its lines has
			r.Body = http.MaxBytesReader(w, b, limit)
		}
		err := o.handle(s, w, r)
		if err == nil || r.Context().Err() != nil && !errors.As(err, new(*api.Error)) {
			return // done, or nobody is listening any more
		}
		s.fail(w, err)
	})
}

// parameters checks that those of a request are known, and none is there twice
// but the states of tasks.
func (o *operation) parameters(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	for q, values := range r.URL.Query() {
		switch {
		case !slices.Contains(o.query, q):
			return errBad("unknown_parameter", "%s has no parameter %s", o.path, excerpt([]byte(q))).WithHint("it takes: %s", orNone(o.query))
		case len(values) > 1 && (o.name != "list_tasks" || q != "state") && q != consistency:
			return errBad("bad_parameter", "%s is there %d times", q, len(values)).WithHint("once")
		}
	}
	return nil
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// timedBody ends a body that does not arrive: the whole within the timeout, or
// each read of a stream. The deadline goes away with the end of the body: a
// long poll waits much longer, and a deadline would look like a lost client.
type timedBody struct {
	io.ReadCloser
	rc      *http.ResponseController
	timeout time.Duration
	each    bool
	begun   bool
	meter   *gate.Meter
}

func (b *timedBody) Read(p []byte) (int, error) {
	if !b.begun || b.each {
		b.begun = true
		_ = b.rc.SetReadDeadline(time.Now().Add(b.timeout)) // a recorder in a test has none
	}
	n, err := b.ReadCloser.Read(p)
	if over := b.meter.Add(n); over != nil {
		return n, over
	}
	if errors.Is(err, io.EOF) {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// reply notes what was answered, and gives up on a client that reads nothing.
type reply struct {
	http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	status  int
}

func (w *reply) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *reply) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	_ = w.rc.SetWriteDeadline(time.Now().Add(w.timeout)) // as above
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *reply) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// outer is around every request: it names it, keeps foreign web pages out,
// passes a gateway's requests on, and turns panics and missing routes into
// problems.
func (s *server) outer(mux *http.ServeMux) http.Handler {
	foreign := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if s.cfg.Streams != nil && strings.HasPrefix(r.URL.Path, s.cfg.StreamPrefix) && foreign.Check(r) == nil {
			if len(s.b.Gateway()) > 0 {
				s.gateway.ServeHTTP(rw, r)
			} else {
				s.cfg.Streams.ServeHTTP(rw, r)
			}
			return
		}
		w := &reply{ResponseWriter: rw, rc: http.NewResponseController(rw), timeout: s.cfg.WriteTimeout}
		id := requestID(r)
		w.Header().Set("X-Request-Id", id)
		if s.cfg.Logger.Enabled(r.Context(), slog.LevelDebug) {
			began := time.Now()
			defer func() { s.access(r, w, id, began) }()
		}
		defer s.recovered(w, r, id)
		if err := foreign.Check(r); err != nil {
			s.fail(w, api.Errorf(403, 2, "cross_origin", api.RetryNo, "a web page of another origin may not do this: %v", err))
			return
		}
		if strings.HasPrefix(r.URL.Path, "/v1/") && len(s.b.Gateway()) > 0 {
			r.Header.Set("X-Request-Id", id)
			_ = w.rc.EnableFullDuplex() // a bulk submit answers while it reads; a recorder can't
			s.gateway.ServeHTTP(w, r)
			return
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			s.noRoute(w, r, mux)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// requestID is the caller's name for the request, or a new one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	printable := func(c rune) bool { return c > ' ' && c < 0x7f }
	if id == "" || len(id) > maxRequestIDBytes || strings.ContainsFunc(id, func(c rune) bool { return !printable(c) }) {
		return rand.Text()
	}
	return id
}

func (s *server) access(r *http.Request, w *reply, id string, began time.Time) {
	s.cfg.Logger.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelDebug, "request", slog.Int("layer", 2), slog.String("method", r.Method),
		slog.String("path", r.URL.Path), slog.Int("status", w.status), slog.Duration("took", time.Since(began)), slog.String("by", actor(r)), slog.String("request_id", id))
}

// recovered turns a panic into a problem; an answer that has begun is cut, so
// that the client sees that it is not whole.
func (s *server) recovered(w *reply, r *http.Request, id string) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
		panic(p)
	}
	s.cfg.Logger.Error("request panicked", "layer", 2, "path", r.URL.Path, "request_id", id, "panic", p)
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	s.fail(w, api.Errorf(500, 2, "internal", api.RetrySameKey, "the node failed on request %s; its log has more", id))
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
		s.fail(w, api.Errorf(405, 2, "method_not_allowed", api.RetryNo, "%s is not possible on %s", excerpt([]byte(r.Method)), excerpt([]byte(r.URL.Path))).WithHint("use %s", allow))
		return
	}
	s.fail(w, api.Errorf(404, 2, "no_such_resource", api.RetryNo, "there is no %s", excerpt([]byte(r.URL.Path))).WithHint("GET /openapi.json lists what there is"))
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

// answer writes what an operation returned.
func answer[T any](s *server, w http.ResponseWriter, v T, err error) error {
	if err != nil {
		return err
	}
	s.write(w, http.StatusOK, v)
	return nil
}

// fail answers a problem.
func (s *server) fail(w http.ResponseWriter, err error) {
	e := asError(err)
	status := e.Status
	if status < 400 || status > 599 {
		status = http.StatusInternalServerError // a program error of the node, still answered
	}
	w.Header().Set("Content-Type", "application/problem+json")
	if e.Retry == api.RetryLater {
		w.Header().Set("Retry-After", strconv.Itoa(max((e.After+999)/1000, 1)))
	}
	b, _ := json.Marshal(e) // plain fields
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// actor is who calls, as the ledger records it.
func actor(r *http.Request) string {
	if a := r.Header.Get("X-Quorate-Actor"); a != "" {
		return strings.ToValidUTF8(a[:min(len(a), maxActorBytes)], "")
	}
	return hostOf(r)
}

func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// lasts counts a request in that may last: leave is called at its end.
func (s *server) lasts(r *http.Request) (leave func(), err error) {
	return s.cfg.Gate.Enter(hostOf(r), r.Header.Get("X-Quorate-Actor"))
}

// maxWait caps a long poll.
const maxWait = time.Minute

// seconds reads a duration parameter, "30s" or "30", and caps it.
func seconds(name, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		f, ferr := strconv.ParseFloat(s, 64)
		if ferr != nil || f != f { // NaN
			return 0, errBad("bad_parameter", "%s=%s is not a duration", name, excerpt([]byte(s))).WithHint("for example %s=30s", name)
		}
		d = time.Duration(max(min(f, maxWait.Seconds()), -1) * float64(time.Second))
	}
	if d < 0 {
		return 0, errBad("bad_parameter", "%s=%s is negative", name, excerpt([]byte(s)))
	}
	return min(d, maxWait), nil
}

func truth(name, s string) (bool, error) {
	if s != "" && s != "true" && s != "false" {
		return false, errBad("bad_parameter", "%s=%s is neither true nor false", name, excerpt([]byte(s)))
	}
	return s == "true", nil
}

func number(name, s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, errBad("bad_parameter", "%s=%s is not a number", name, excerpt([]byte(s)))
	}
	return n, nil
}
