package client

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

const eventually = 30 * time.Second

// fakeNode is a node whose part the test plays.
type fakeNode struct {
	pb.WorkHandler
	t        *testing.T
	url      string
	nodes    []string // that it tells of
	vanish   func()   // it is not there any more
	sessions chan *fakeSession
	limit    atomic.Int64 // of a Submit message; 0: what is read at most
	broken   atomic.Int64 // Submit streams, by a message over it
}

// fakeSession is one session at it.
type fakeSession struct {
	t      *testing.T
	said   chan *pb.SessionRequest // closed when the agent says no more
	to     chan *pb.SessionResponse
	ends   chan error
	credit int64 // granted in what was read
	broke  error // why said was closed: io.EOF is the agent's own end
}

func newFakeNode(t *testing.T) *fakeNode { return newFake(t, (*httptest.Server).Start) }

func newFake(t *testing.T, start func(*httptest.Server)) *fakeNode {
	f := &fakeNode{t: t, sessions: make(chan *fakeSession, 16)}
	_, h := pb.NewWorkHandler(f, connect.WithReadMaxBytes(maxMessageBytes))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), controller{}, http.NewResponseController(w))))
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols.SetHTTP2(true)
	s.EnableHTTP2 = true
	start(s)
	t.Cleanup(s.Close)
	f.url = s.URL
	f.vanish = func() {
		_ = s.Listener.Close()
		s.CloseClientConnections()
	}
	return f
}

type controller struct{}

func (f *fakeNode) Session(ctx context.Context, st *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	first, err := st.Receive()
	if err != nil || first.Hello == nil {
		return fmt.Errorf("no hello: %w", err)
	}
	s := &fakeSession{t: f.t, said: make(chan *pb.SessionRequest, 1<<10), to: make(chan *pb.SessionResponse), ends: make(chan error, 2)}
	s.said <- first // hello carries credit, and what is to be settled
	var reader sync.WaitGroup
	defer func() {
		_ = ctx.Value(controller{}).(*http.ResponseController).SetReadDeadline(time.Unix(1, 0)) // fails when the stream is over
		reader.Wait()
	}()
	reader.Go(func() {
		defer close(s.said)
		for {
			m, err := st.Receive()
			if err != nil {
				s.broke = err
				s.ends <- err
				return
			}
			s.said <- m
		}
	})
	if err := st.Send(&pb.SessionResponse{Welcome: &pb.Welcome{NodeId: "fake", MaxCredit: api.MaxCredit, Nodes: f.nodes}}); err != nil {
		return err
	}
	f.sessions <- s
	for {
		select {
		case m := <-s.to:
			if err := st.Send(m); err != nil {
				return err
			}
		case err := <-s.ends:
			if ce := (*connect.Error)(nil); errors.As(err, &ce) && len(ce.Details()) > 0 {
				return err // the test's
			}
			if connect.CodeOf(err) == connect.CodeResourceExhausted {
				return refusal(api.Errorf(413, 2, "message_too_large", api.RetryNo, "%v", err))
			}
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// Submit accepts tasks, each under the ID of its action.
func (f *fakeNode) Submit(ctx context.Context, st *connect.BidiStream[pb.SubmitRequest, pb.SubmitResponse]) error {
	for {
		m, err := st.Receive()
		if n := f.limit.Load(); n > 0 && err == nil && int64(proto.Size(m)) > n || connect.CodeOf(err) == connect.CodeResourceExhausted {
			f.broken.Add(1)
			return refusal(api.Errorf(413, 2, "message_too_large", api.RetryNo, "%v", err))
		}
		if err != nil {
			return nil
		}
		r := &pb.SubmitResponse{Seq: m.Seq}
		for _, x := range m.Tasks {
			r.Verdicts = append(r.Verdicts, &pb.SubmitVerdict{TaskId: x.Action, State: "ready"})
		}
		if err := st.Send(r); err != nil {
			return err
		}
	}
}

// refusal is a stream's end as a node words it.
func refusal(e *api.Error) error {
	ce := connect.NewError(connect.CodeInvalidArgument, e)
	if d, err := connect.NewErrorDetail(wire(e)); err == nil {
		ce.AddDetail(d)
	}
	return ce
}

func wire(e *api.Error) *pb.Problem {
	return &pb.Problem{Status: int32(e.Status), Layer: int32(e.Layer), Code: e.Code, Retry: string(e.Retry), Detail: e.Detail, RetryAfterMs: int64(e.After)}
}

// session is the next one that is opened.
func (f *fakeNode) session() *fakeSession {
	f.t.Helper()
	select {
	case s := <-f.sessions:
		return s
	case <-time.After(eventually):
		f.t.Fatal("the agent opens no session")
		return nil
	}
}

func (s *fakeSession) tell(m *pb.SessionResponse) {
	s.t.Helper()
	select {
	case s.to <- m:
	case <-time.After(eventually):
		s.t.Fatal("the session is over")
	}
}

func (s *fakeSession) push(tasks ...*pb.Task) {
	s.t.Helper()
	s.tell(&pb.SessionResponse{Tasks: tasks})
}

// next is what the agent says next; nil when it says no more.
func (s *fakeSession) next() *pb.SessionRequest {
	s.t.Helper()
	select {
	case m := <-s.said:
		if m != nil {
			s.credit += m.Credit
		}
		return m
	case <-time.After(eventually):
		s.t.Fatal("the agent says nothing")
		return nil
	}
}

// until reads on to what is looked for.
func (s *fakeSession) until(what string, is func(*pb.SessionRequest) bool) *pb.SessionRequest {
	s.t.Helper()
	for {
		m := s.next()
		if m == nil {
			s.t.Fatalf("the session ended before %s", what)
		}
		if is(m) {
			return m
		}
	}
}

// settled reads on until n tasks were settled, in answered batches.
func (s *fakeSession) settled(n int) (list []*pb.Settlement) {
	s.t.Helper()
	for len(list) < n {
		m := s.next()
		if m == nil {
			s.t.Fatalf("the session ended after %d of %d settlements", len(list), n)
		}
		if len(m.Settle) > 0 {
			list = append(list, m.Settle...)
			s.tell(&pb.SessionResponse{Settled: &pb.Settled{Seq: m.SettleSeq, Count: uint32(len(m.Settle))}})
		}
	}
	return list
}

// told is a task as a node pushes it.
func told(id string, epoch uint64, action string, input any) *pb.Task {
	b, err := json.Marshal(input)
	if err != nil {
		panic(err)
	}
	return &pb.Task{TaskId: id, Epoch: epoch, Action: action, Target: "it", Input: b, Attempt: 1, Guarantee: "at_least_once"}
}

// performer is an agent under test: it does (and counts), holds until it is
// told to stop, and answers or fails with as many bytes as it is asked for.
type performer struct {
	name  string
	start func(t *testing.T, url string, concurrency, credit int) (stop func())
}

var performers = []performer{{"go", startGo}, {"typescript", startTypeScript}}

// eachPerformer plays the same scene with every kind of agent.
func eachPerformer(t *testing.T, concurrency, credit int, scene func(t *testing.T, f *fakeNode, stop func())) {
	for _, p := range performers {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeNode(t)
			scene(t, f, p.start(t, f.url, concurrency, credit))
		})
	}
}

func startGo(t *testing.T, url string, concurrency, credit int) (stop func()) {
	var calls atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	c := dial(t, 0, url)
	done.Go(func() {
		m := api.Manifest{AgentID: "p", Capabilities: []api.Capability{{Action: "*", Target: "*"}}}
		err := c.WorkWith(ctx, WorkConfig{Manifest: m, Concurrency: concurrency, Credit: credit, Drain: 3 * time.Second, Handler: func(ctx context.Context, task *Task) (any, error) {
			var n int
			if err := json.Unmarshal(task.Input, &n); err != nil {
				return nil, Permanent(err)
			}
			switch task.Action {
			case "hold":
				<-ctx.Done()
				return nil, context.Cause(ctx)
			case "answer":
				return strings.Repeat("x", n-2), nil
			case "odd":
				return nil, errors.New("odd \xff")
			case "report":
				if err := task.Progress(strings.Repeat("x", n-2)); (err != nil) != (n > api.MaxProgressBytes) {
					t.Errorf("progress of %d bytes: %v", n, err)
				}
				return nil, nil
			case "fail":
				return nil, errors.New(strings.Repeat("x", n) + "end")
			}
			return calls.Add(1), nil
		}})
		if err != nil {
			t.Errorf("Work: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(stop)
	return stop
}

const typescriptPerformer = `
const [, url, module, concurrency, credit] = process.argv;
const { Worker } = await import(module);
let calls = 0;
const worker = new Worker({
  urls: [url], agentId: "p", capabilities: ["*:*"], concurrency: Number(concurrency), credit: Number(credit), drainMs: 3000, log: console.log,
  handler: async (task) => {
    switch (task.action) {
      case "hold":
        await new Promise((done) => task.signal.addEventListener("abort", done));
        throw task.signal.reason;
      case "answer": return "x".repeat(task.input - 2);
      case "odd": throw new Error("odd \\ud800");
      case "report": return task.progress("x".repeat(task.input - 2));
      case "fail": throw new Error("x".repeat(task.input) + "end");
    }
    return ++calls;
  },
});
process.once("SIGTERM", () => worker.stop());
await worker.run();
`

func startTypeScript(t *testing.T, url string, concurrency, credit int) (stop func()) {
	program, module := compiled(t)
	cmd := exec.Command(program, "--input-type=module", "-e", typescriptPerformer, url, module, fmt.Sprint(concurrency), fmt.Sprint(credit))
	if strings.HasPrefix(url, "https:") {
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: fakesCertificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Environ(), "NODE_EXTRA_CA_CERTS="+file)
	}
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // one that ended is found out below
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the worker ended with %v\n%s", err, out)
			}
		case <-time.After(eventually):
			_ = cmd.Process.Kill()
			<-ended
			t.Errorf("the worker does not end\n%s", out)
		}
	})
	t.Cleanup(stop)
	return stop
}

var typescript struct {
	sync.Once
	dir string
	err error
}

// missing is what the TypeScript worker would need to run.
func missing() error {
	_, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(filepath.Join("typescript", "node_modules", ".bin", "tsc"))
	}
	return err
}

// compiled is the TypeScript worker as JavaScript.
func compiled(t *testing.T) (program, module string) {
	if err := missing(); err != nil {
		// Node.js and what npm fetches are not Go's to bring.
		t.Skipf("the TypeScript worker was not run: %v; it needs node, and npm ci in node/client/typescript", err)
	}
	typescript.Do(func() {
		// Beside node_modules, where its imports are found, and not in dist,
		// where another package's test may build at the same time.
		if typescript.dir, typescript.err = os.MkdirTemp(filepath.Join("typescript", "node_modules"), ".test-"); typescript.err != nil {
			return
		}
		typescript.dir, _ = filepath.Abs(typescript.dir)
		build := exec.Command(filepath.Join("node_modules", ".bin", "tsc"), "--outDir", typescript.dir)
		build.Dir = "typescript"
		if out, err := build.CombinedOutput(); err != nil {
			typescript.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if typescript.err != nil {
		t.Fatal(typescript.err)
	}
	return "node", filepath.Join(typescript.dir, "worker.js")
}
