package stream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
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
	// MaxMessageBytes bounds one message: a task with the largest input and
	// context, 4 MiB each, fits.
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
	Events() <-chan api.SessionEvent
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
	// HelloTimeout is how long a session may be open without a hello;
	// SendTimeout how long a message may wait for its reader. Default 10 s, 30 s.
	HelloTimeout, SendTimeout time.Duration
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
	if cfg.HelloTimeout == 0 {
		cfg.HelloTimeout = helloTimeout
	}
	if cfg.SendTimeout == 0 {
		cfg.SendTimeout = sendTimeout
	}
	return &server{b: b, cfg: cfg}
}

func (s *server) handler() http.Handler {
	_, h := pb.NewWorkHandler(s, connect.WithReadMaxBytes(MaxMessageBytes), connect.WithCompression("gzip", nil, nil))
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
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, &call{rc: rc, remote: caller})))
	})
}

// call is what a stream knows of its HTTP request.
type call struct {
	rc     *http.ResponseController
	remote string
}

type callKey struct{}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// deaf ends the reading of a stream; what is sent still gets out.
func (c *call) deaf() { _ = c.rc.SetReadDeadline(time.Unix(1, 0)) } // fails only when the stream is over

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
	if !errors.As(err, &e) {
		var ce *connect.Error
		if errors.As(err, &ce) && ce.Code() == connect.CodeResourceExhausted { // the reader's limit
			e = api.Errorf(413, 2, "message_too_large", api.RetryNo, "%s; a message has at most %d bytes", ce.Message(), MaxMessageBytes).
				WithHint("send smaller batches")
		} else if errors.As(err, &ce) {
			return ce
		} else {
			e = api.Errorf(500, 2, "internal", api.RetryLater, "%v", err)
		}
	}
	ce := connect.NewError(codeOf(e.Status), errors.New(e.Error()))
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
		if len(m.Tasks) > api.MaxBatch {
			return fail(api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d tasks in one message, at most %d", len(m.Tasks), api.MaxBatch).WithHint("send several messages"))
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		wait.Go(func() {
			defer func() { <-slots }()
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
