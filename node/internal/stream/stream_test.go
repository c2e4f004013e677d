package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a node with one endless queue of tasks.
type fake struct {
	mu struct {
		sync.Mutex
		given, taken int
		returned     []api.Held
		sessions     map[string]*fakeWorker
		closed       int
	}
	size    int // of an input
	stock   int // tasks to give; -1: endless
	leaving chan struct{}
	settle  func(list []api.Settlement)
}

func newFake() *fake {
	f := &fake{stock: -1, leaving: make(chan struct{})}
	f.mu.sessions = map[string]*fakeWorker{}
	return f
}

type fakeWorker struct {
	f    *fake
	id   string
	over chan struct{}
}

func (f *fake) Submit(_ context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error) {
	out := make([]api.SubmitVerdict, len(specs))
	for i := range specs {
		if out[i].TaskID = "t-" + specs[i].IdempotencyKey; specs[i].Action == "" {
			out[i] = api.SubmitVerdict{Error: api.Errorf(422, 5, "invalid_task", api.RetryNo, "action is missing, %s", by)}
		}
	}
	return out, nil
}

func (f *fake) OpenWork(_ context.Context, h api.WorkHello) (Worker, error) {
	if h.AgentID == "" {
		return nil, api.Errorf(422, 3, "agent_id_missing", api.RetryNo, "hello names no agent_id")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &fakeWorker{f: f, id: h.AgentID, over: make(chan struct{})}
	if old := f.mu.sessions[h.AgentID]; old != nil {
		close(old.over)
	}
	f.mu.sessions[h.AgentID] = w
	return w, nil
}

func (w *fakeWorker) Welcome() (api.WorkWelcome, []api.SessionEvent) {
	return api.WorkWelcome{NodeID: "n1", Resume: "token"}, nil
}

func (w *fakeWorker) Take(ctx context.Context, limit int) ([]api.Lease, error) {
	w.f.mu.Lock()
	n := min(limit, 64)
	if w.f.stock >= 0 {
		n = min(n, w.f.stock)
		w.f.stock -= n
	}
	at := w.f.mu.given
	w.f.mu.given += n
	w.f.mu.Unlock()
	if n == 0 {
		select {
		case <-ctx.Done():
		case <-w.f.leaving:
		}
		return nil, nil
	}
	out := make([]api.Lease, n)
	for i := range out {
		out[i] = api.Lease{TaskID: fmt.Sprint("t", at+i), Epoch: 1, Action: "do", Target: "it", Input: []byte(`"` + strings.Repeat("x", w.f.size) + `"`)}
	}
	return out, nil
}

func (w *fakeWorker) Settle(_ context.Context, list []api.Settlement) ([]api.SettleVerdict, error) {
	if w.f.settle != nil {
		w.f.settle(list)
	}
	out := make([]api.SettleVerdict, len(list))
	for i := range list {
		out[i] = api.SettleVerdict{TaskID: list[i].TaskID, State: "completed"}
		if !strings.HasPrefix(list[i].TaskID, "t") {
			out[i] = api.SettleVerdict{Error: api.Errorf(409, 5, "stale_lease", api.RetryNo, "not held")}
		}
	}
	return out, nil
}

func (w *fakeWorker) Claim(_ context.Context, list []api.HeldClaim) ([]api.SessionEvent, error) {
	return []api.SessionEvent{{TaskID: list[0].TaskID, Epoch: list[0].Epoch, Reason: "cancelled"}}, nil
}

func (w *fakeWorker) Return(list []api.Held) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.mu.returned = append(w.f.mu.returned, list...)
}

func (w *fakeWorker) Told() <-chan struct{}                  { return nil }
func (w *fakeWorker) Events(int) ([]api.SessionEvent, error) { return nil, nil }
func (w *fakeWorker) Over() <-chan struct{}                  { return w.over }
func (w *fakeWorker) Leaving() <-chan struct{}               { return w.f.leaving }
func (w *fakeWorker) Why() error {
	return api.Errorf(409, 2, "session_fenced", api.RetryNo, "agent %s connected again", w.id)
}

func (w *fakeWorker) Close() {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.mu.closed++
}

// serve serves f over HTTP/2 without TLS.
func serve(t *testing.T, f Backend, cfg Config) string {
	t.Helper()
	return serveHandler(t, New(f, cfg))
}

func serveHandler(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 4096}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// dial is a client on a connection of its own.
func dial(t *testing.T, url string, opts ...connect.ClientOption) pb.WorkClient {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return pb.NewWorkClient(&http.Client{Transport: tr}, url, opts...)
}

type clientStream = connect.BidiStreamForClient[pb.SessionRequest, pb.SessionResponse]

func open(t *testing.T, c pb.WorkClient, first *pb.SessionRequest) *clientStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	t.Cleanup(cancel)
	st := c.Session(ctx)
	t.Cleanup(func() { _ = st.CloseRequest() }) // a cancelled stream ends when its request does
	if err := st.Send(first); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return st
}

func hello(id string, credit int64) *pb.SessionRequest {
	return &pb.SessionRequest{Hello: &pb.Hello{AgentId: id}, Credit: credit}
}

func receive(t *testing.T, st *clientStream) *pb.SessionResponse {
	t.Helper()
	m, err := st.Receive()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ending reads until the stream's end and returns its problem; nil is a clean
// end.
func ending(t *testing.T, st *clientStream) *pb.Problem {
	t.Helper()
	for {
		_, err := st.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var ce *connect.Error
		if err != nil && errors.As(err, &ce) && len(ce.Details()) == 1 {
			v, err := ce.Details()[0].Value()
			if err != nil {
				t.Fatal(err)
			}
			return v.(*pb.Problem)
		}
		if err != nil {
			t.Fatalf("the stream ended without a problem: %v", err)
		}
	}
}

// A session over each protocol: push within credit, settle, report, end.
func TestSession(t *testing.T) {
	for name, opt := range map[string]connect.ClientOption{"connect": connect.WithClientOptions(), "grpc": connect.WithGRPC(), "grpc-web": connect.WithGRPCWeb()} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			st := open(t, dial(t, serve(t, f, Config{}), opt), hello("a", 100))
			if m := receive(t, st); m.Welcome == nil || m.Welcome.NodeId != "n1" || m.Welcome.ResumeToken != "token" || m.Welcome.MaxCredit != api.MaxCredit {
				t.Fatalf("welcome %v", m)
			}
			got := 0
			for got < 100 {
				got += len(receive(t, st).Tasks)
			}
			if got != 100 {
				t.Fatalf("%d tasks with a credit of 100", got)
			}
			send := func(m *pb.SessionRequest) {
				if err := st.Send(m); err != nil {
					t.Fatal(err)
				}
			}
			send(&pb.SessionRequest{SettleSeq: 7, Settle: []*pb.Settlement{{TaskId: "t0", Epoch: 1}, {TaskId: "foreign", Epoch: 1}, {TaskId: "t1", Epoch: 1}}})
			s := receive(t, st).Settled
			if s.GetSeq() != 7 || s.Count != 3 || len(s.Verdicts) != 1 || s.Verdicts[0].Index != 1 || s.Verdicts[0].Problem.Code != "stale_lease" {
				t.Fatalf("settled %v", s)
			}
			send(&pb.SessionRequest{Started: []*pb.Claim{{TaskId: "t2", Epoch: 1}}})
			if r := receive(t, st).Revoked; len(r) != 1 || r[0].TaskId != "t2" {
				t.Fatalf("revoked %v", r)
			}
			send(&pb.SessionRequest{Returned: []*pb.Claim{{TaskId: "t3", Epoch: 1}}, Drain: true})
			send(&pb.SessionRequest{Credit: 5}) // after a drain: nothing comes
			if err := st.CloseRequest(); err != nil {
				t.Fatal(err)
			}
			if p := ending(t, st); p != nil {
				t.Fatal(p)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.mu.given != 100 || len(f.mu.returned) != 1 || f.mu.closed != 1 {
				t.Errorf("given %d, returned %v, closed %d", f.mu.given, f.mu.returned, f.mu.closed)
			}
		})
	}
}

// What breaks a rule ends its own session with a problem of layer 2 or 3;
// another session does not notice.
func TestBrokenRules(t *testing.T) {
	f := newFake()
	url := serve(t, f, Config{HelloTimeout: 200 * time.Millisecond})
	other := open(t, dial(t, url), hello("other", 0))
	receive(t, other)
	for _, c := range brokenRules() {
		t.Run(c.name, func(t *testing.T) {
			st := open(t, dial(t, url), c.messages[0])
			for _, m := range c.messages[1:] {
				if err := st.Send(m); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			if p := ending(t, st); p.GetCode() != c.code || p.GetLayer() != c.layer || p.GetRetry() != "no" {
				t.Errorf("problem %v, want %s of layer %d", p, c.code, c.layer)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		st := dial(t, url).Session(ctx)
		defer st.CloseRequest()
		if err := st.Send(nil); err != nil {
			t.Fatal(err)
		}
		if p := ending(t, st); p.GetCode() != "hello_missing" {
			t.Errorf("problem %v", p)
		}
	})
	if err := other.Send(&pb.SessionRequest{Credit: 1}); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, other); len(m.Tasks) != 1 {
		t.Errorf("the other session got %v", m)
	}
}

// The older of two sessions of one agent ends, and is told why.
func TestImpostor(t *testing.T) {
	url := serve(t, newFake(), Config{})
	first := open(t, dial(t, url), hello("a", 0))
	receive(t, first)
	second := open(t, dial(t, url), hello("a", 1))
	receive(t, second)
	if p := ending(t, first); p.GetCode() != "session_fenced" || p.GetLayer() != 2 {
		t.Errorf("problem %v", p)
	}
	if m := receive(t, second); len(m.Tasks) != 1 {
		t.Errorf("the newer session got %v", m)
	}
}

// A node that leaves says so, and ends the session cleanly.
func TestLeaving(t *testing.T) {
	f := newFake()
	f.stock = 0
	st := open(t, dial(t, serve(t, f, Config{})), hello("a", 1))
	receive(t, st)
	close(f.leaving)
	if m := receive(t, st); !m.Drain {
		t.Errorf("got %v", m)
	}
	if p := ending(t, st); p != nil {
		t.Error(p)
	}
}

// A batch of tasks is acknowledged once, with a verdict for each.
func TestSubmit(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	url := serve(t, newFake(), Config{})
	st := dial(t, url).Submit(ctx)
	st.RequestHeader().Set("X-Quorate-Actor", "me")
	const batches = 100
	go func() {
		for i := range batches {
			_ = st.Send(&pb.SubmitRequest{Seq: uint64(i), Tasks: []*pb.TaskSpec{{Action: "do", IdempotencyKey: fmt.Sprint(i)}, {}}})
		}
		_ = st.CloseRequest()
	}()
	for range batches {
		m, err := st.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Verdicts) != 2 || m.Verdicts[0].TaskId != fmt.Sprint("t-", m.Seq) || m.Verdicts[1].Problem.GetDetail() != "action is missing, me" {
			t.Fatalf("batch %d: %v", m.Seq, m.Verdicts)
		}
	}
	if _, err := st.Receive(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	st = dial(t, url).Submit(ctx)
	defer st.CloseRequest()
	_ = st.Send(&pb.SubmitRequest{Tasks: make([]*pb.TaskSpec, api.MaxBatch+1)})
	if _, err := st.Receive(); !strings.Contains(fmt.Sprint(err), "batch_too_large") {
		t.Error(err)
	}
}

// Whatever bytes a message decodes from, its session answers or ends; nothing
// panics.
func FuzzSessionMessages(f *testing.F) {
	for _, m := range []*pb.SessionRequest{hello("a", 3), {Credit: -1}, {Settle: []*pb.Settlement{{TaskId: "t", Epoch: 1, Result: []byte("{}")}}, SettleSeq: 1},
		{Started: []*pb.Claim{{}}, Progress: []*pb.Claim{{TaskId: "t"}}}, {Returned: []*pb.Claim{{TaskId: "t"}}, Drain: true}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &pb.SessionRequest{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		if m.Hello != nil {
			_ = helloOf(m.Hello)
		}
		fk := newFake()
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		x := &session{w: &fakeWorker{f: fk}, ctx: ctx, cancel: cancel, settle: make(chan struct{}, maxSettling),
			out: newSender(func(*pb.SessionResponse) error { return nil }, time.Minute, func() {})}
		x.mu.more = make(chan struct{}, 1)
		before := x.credit()
		err := x.message(m, func() {})
		x.jobs.Wait()
		if c := x.credit(); c < 0 || c > api.MaxCredit || err != nil && m.Hello != nil && c != before {
			t.Errorf("credit %d after %v", c, err)
		}
	})
}

func FuzzSubmitMessages(f *testing.F) {
	for _, m := range []*pb.SubmitRequest{{Tasks: []*pb.TaskSpec{{Action: "a", RetryPolicy: &pb.RetryPolicy{}}, {}}}} {
		b, _ := proto.Marshal(m)
		f.Add(b)
	}
	s := &server{b: newFake()}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &pb.SubmitRequest{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		if r := s.submit(t.Context(), m, "me"); len(r.Verdicts) != len(m.Tasks) || r.Seq != m.Seq {
			t.Errorf("%d verdicts for %d tasks", len(r.Verdicts), len(m.Tasks))
		}
	})
}
