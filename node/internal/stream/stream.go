package stream

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
	"github.com/quorate/quorate/node/internal/gate"
)

// Prefix is what the paths of the service begin with.
const Prefix = "/" + pb.WorkName + "/"

// Limits of a stream.
const (
	// MaxMessageBytes bounds one message, unless the config says less: a task
	// with the largest input and context, 4 MiB each, fits.
	MaxMessageBytes = 16 << 20
	maxPushBytes    = 256 << 10 // of tasks in one message, beyond the first
	maxSettling     = 16        // batches of one session on their way through the log
	maxSubmitting   = 16        // likewise of one submit stream
)

// Times of a stream.
const (
	helloTimeout = 10 * time.Second
	sendTimeout  = 30 * time.Second // an agent that reads nothing for so long is cut off
	lastWord     = 5 * time.Second  // for what is settling when a session ends
	wholeWithin  = 30 * time.Second // a message larger than gate.FreeArriving, once that much of it came
)

// Backend is what a node offers the streams. Errors are, or wrap, *api.Error.
type Backend interface {
	OpenWork(ctx context.Context, h api.WorkHello) (Worker, error)
	Submit(ctx context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error)
}

// Worker is an agent's session at its node. Take is called by one goroutine at
// a time, the others by any.
type Worker interface {
	// Welcome is what the session begins with, and what of hello's tasks the
	// agent holds no more.
	Welcome() (api.WorkWelcome, []api.SessionEvent)
	// Take waits for up to limit tasks; none when ctx ends.
	Take(ctx context.Context, limit int) ([]api.Lease, error)
	Settle(ctx context.Context, list []api.Settlement) ([]api.SettleVerdict, error)
	// Claim marks tasks started or takes progress; it returns those that are over.
	Claim(ctx context.Context, list []api.HeldClaim) ([]api.SessionEvent, error)
	// Return gives unstarted tasks back.
	Return(list []api.Held)
	// Events is what the node tells of held tasks, limit at most; Told rings
	// when there may be some. An error ends the session.
	Events(limit int) ([]api.SessionEvent, error)
	Told() <-chan struct{}
	Over() <-chan struct{} // closed: end for the reason Why gives
	Why() error
	Leaving() <-chan struct{} // closed: the node goes
	Close()
}

// Config of the face. Zero fields take the default.
type Config struct {
	Logger *slog.Logger
	// Gate bounds open streams; default: one of its own.
	Gate *gate.Gate
	// Bytes bounds what the messages of all streams take; default: one of its own.
	Bytes *gate.Bytes
	// MaxMessageBytes bounds one message; default the constant.
	MaxMessageBytes int
	// HelloTimeout is how long a session may be open without a hello;
	// SendTimeout how long a message may wait for its reader, WholeWithin how
	// long the rest of a large one may take to come. Default 10 s, 30 s, 30 s.
	HelloTimeout, SendTimeout, WholeWithin time.Duration
}

type server struct {
	b   Backend
	cfg Config
}

// New renders b; the handler serves the paths under [Prefix].
func New(b Backend, cfg Config) http.Handler { return newServer(b, cfg).handler() }

func newServer(b Backend, cfg Config) *server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Gate == nil {
		cfg.Gate = gate.New(gate.Config{})
	}
	if cfg.Bytes == nil {
		cfg.Bytes = gate.NewBytes(0)
	}
	cfg.MaxMessageBytes = cmp.Or(cfg.MaxMessageBytes, MaxMessageBytes)
	cfg.WholeWithin = cmp.Or(cfg.WholeWithin, wholeWithin)
	if cfg.HelloTimeout == 0 {
		cfg.HelloTimeout = helloTimeout
	}
	if cfg.SendTimeout == 0 {
		cfg.SendTimeout = sendTimeout
	}
	return &server{b: b, cfg: cfg}
}

func (s *server) handler() http.Handler {
	_, h := pb.NewWorkHandler(s, connect.WithReadMaxBytes(s.cfg.MaxMessageBytes), connect.WithCompression("gzip", nil, nil))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		caller := hostOf(r.RemoteAddr)
		leave, err := s.cfg.Gate.Enter(caller, r.Header.Get("X-Quorate-Actor"))
		if err != nil {
			ew := connect.NewErrorWriter()
			_ = ew.Write(w, r, fail(err)) // a caller that left is its own business
			return
		}
		defer leave()
		c := &call{rc: rc, remote: caller, bytes: s.cfg.Bytes, whole: s.cfg.WholeWithin, meter: s.cfg.Bytes.Meter(), body: r.Body}
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		r.Body = c
		defer func() { s.cfg.Bytes.Give(c.meter.Done()) }() // of what came last, and not whole
		h.ServeHTTP(w, r)
	})
}

// call is what a stream knows of its HTTP request, whose body it counts.
type call struct {
	rc     *http.ResponseController
	remote string
	bytes  *gate.Bytes
	whole  time.Duration

	body  io.ReadCloser // these three are the reader's
	meter *gate.Meter
	armed bool // there is a deadline for the rest of a message

	mu struct {
		sync.Mutex
		deaf bool
	}
}

// Read implements io.Reader. It fails when too much is on its way through the
// node; a large message has to come in time, a small one takes no memory to
// speak of.
func (c *call) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if over := c.meter.Add(n); over != nil {
		return n, over
	}
	if !c.armed && c.meter.Large() {
		c.armed = true
		c.deadline(time.Now().Add(c.whole))
	}
	return n, err
}

// Close implements io.Closer.
func (c *call) Close() error { return c.body.Close() }

// arrived is called when a message is there, and what it returns when it is
// answered.
func (c *call) arrived() (answered func()) {
	if c.armed {
		c.armed = false
		c.deadline(time.Time{})
	}
	taken := c.meter.Done()
	if taken == 0 {
		return func() {}
	}
	return func() { c.bytes.Give(taken) }
}

func (c *call) deadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.deaf {
		_ = c.rc.SetReadDeadline(t) // fails only when the stream is over
	}
}

type callKey struct{}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// deaf ends the reading of a stream; what is sent still gets out.
func (c *call) deaf() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.deaf = true // in one with the deadline: another one would have it hear again
	_ = c.rc.SetReadDeadline(time.Unix(1, 0))
}

// cut ends the stream whatever it is doing.
func (c *call) cut() {
	c.deaf()
	_ = c.rc.SetWriteDeadline(time.Unix(1, 0))
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// fail is err as the end of a stream: a Connect code, with the problem as its
// detail.
func fail(err error) error {
	if err == nil {
		return nil
	}
	var e *api.Error
	var ce *connect.Error
	errors.As(err, &ce)
	switch {
	case ce != nil && ce.Code() == connect.CodeResourceExhausted: // the reader's limit
		e = api.Errorf(413, 2, "message_too_large", api.RetryNo, "%s", ce.Message()).WithHint("send smaller batches")
	case errors.As(err, &e):
	case errors.Is(err, os.ErrDeadlineExceeded):
		e = api.Errorf(408, 2, "message_timeout", api.RetryLater, "the rest of a message did not come in time").WithHint("send smaller batches, or over a faster link")
	case ce != nil:
		return ce
	default:
		e = api.Errorf(500, 2, "internal", api.RetryLater, "%v", err)
	}
	ce = connect.NewError(codeOf(e.Status), errors.New(e.Error()))
	if d, err := connect.NewErrorDetail(problem(e)); err == nil {
		ce.AddDetail(d)
	}
	return ce
}

// codeOf is the Connect code for an HTTP status.
func codeOf(status int) connect.Code {
	switch status {
	case 400, 413, 422:
		return connect.CodeInvalidArgument
	case 401:
		return connect.CodeUnauthenticated
	case 403:
		return connect.CodePermissionDenied
	case 404:
		return connect.CodeNotFound
	case 409:
		return connect.CodeAborted
	case 429:
		return connect.CodeResourceExhausted
	case 501:
		return connect.CodeUnimplemented
	case 503:
		return connect.CodeUnavailable
	case 504:
		return connect.CodeDeadlineExceeded
	}
	return connect.CodeInternal
}

// sender sends messages of one stream, one at a time, and cuts the stream when
// one does not get through in time.
type sender[T any] struct {
	to    func(*T) error
	late  *time.Timer
	limit time.Duration
	mu    sync.Mutex
}

func newSender[T any](to func(*T) error, limit time.Duration, cut func()) *sender[T] {
	t := time.AfterFunc(limit, cut)
	t.Stop()
	return &sender[T]{to: to, late: t, limit: limit}
}

func (s *sender[T]) send(m *T) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late.Reset(s.limit)
	defer s.late.Stop()
	return s.to(m)
}

// Submit takes batches of tasks; several are on their way at once.
func (s *server) Submit(ctx context.Context, st *connect.BidiStream[pb.SubmitRequest, pb.SubmitResponse]) error {
	c := callOf(ctx)
	by := st.RequestHeader().Get("X-Quorate-Actor")
	if by == "" {
		by = c.remote
	}
	out := newSender(st.Send, s.cfg.SendTimeout, c.cut)
	slots := make(chan struct{}, maxSubmitting)
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		m, err := st.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fail(err)
		}
		answered := c.arrived()
		if len(m.Tasks) > api.MaxBatch {
			answered()
			return fail(api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d tasks in one message, at most %d", len(m.Tasks), api.MaxBatch).WithHint("send several messages"))
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			answered()
			return nil
		}
		wait.Go(func() {
			defer func() { <-slots }()
			defer answered()
			who := by
			if m.By != "" {
				who = m.By
			}
			_ = out.send(s.submit(ctx, m, who)) // the reader learns of a lost stream too
		})
	}
}

// submit declares one batch.
func (s *server) submit(ctx context.Context, m *pb.SubmitRequest, by string) *pb.SubmitResponse {
	specs := make([]api.TaskSpec, len(m.Tasks))
	for i, t := range m.Tasks {
		specs[i] = specOf(t)
	}
	verdicts, err := s.b.Submit(ctx, specs, strings.ToValidUTF8(by, ""))
	r := &pb.SubmitResponse{Seq: m.Seq, Verdicts: make([]*pb.SubmitVerdict, len(m.Tasks))}
	arena := make([]pb.SubmitVerdict, len(m.Tasks))
	for i := range arena {
		v := &arena[i]
		r.Verdicts[i] = v
		if err != nil {
			v.Problem = problem(asError(err))
			continue
		}
		v.TaskId, v.State, v.Replayed, v.Problem = verdicts[i].TaskID, verdicts[i].State, verdicts[i].Replayed, problem(verdicts[i].Error)
	}
	return r
}

func asError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	return api.Errorf(500, 2, "internal", api.RetryLater, "%v", err)
}
