package execagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
	"github.com/quorate/quorate/node/client"
)

// cluster is as much of a node as an agent meets: one session.
type cluster struct {
	t       *testing.T
	url     string
	leases  chan api.Lease
	settled chan api.Settlement
	started chan string              // task IDs
	events  chan *pb.SessionResponse // to the connected session
	end     chan error               // ends it
	held    chan []*pb.Claim         // told at each connection
	mu      struct {
		sync.Mutex
		manifests int
		settle    func(n int, s api.Settlement) *pb.Problem // n: calls so far
		settles   int
		drained   bool
	}
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, leases: make(chan api.Lease, 64), settled: make(chan api.Settlement, 64), started: make(chan string, 1024),
		events: make(chan *pb.SessionResponse), end: make(chan error), held: make(chan []*pb.Claim, 64)}
	mux := http.NewServeMux()
	mux.Handle(pb.NewWorkHandler(c))
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

func (c *cluster) Submit(context.Context, *connect.BidiStream[pb.SubmitRequest, pb.SubmitResponse]) error {
	return errors.New("an agent does not submit")
}

// problem ends a session as a node does.
func problem(code connect.Code, status int32, name, retry string) error {
	e := connect.NewError(code, errors.New(name))
	if d, err := connect.NewErrorDetail(&pb.Problem{Status: status, Layer: 2, Code: name, Retry: retry, Detail: name}); err == nil {
		e.AddDetail(d)
	}
	return e
}

func (c *cluster) Session(ctx context.Context, st *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	m, err := st.Receive()
	if err != nil {
		return nil
	}
	if len(m.Hello.GetManifest()) > 0 {
		c.mu.Lock()
		c.mu.manifests++
		c.mu.Unlock()
	}
	c.held <- m.Hello.GetHeld()
	if err := st.Send(&pb.SessionResponse{Welcome: &pb.Welcome{ResumeToken: "again"}}); err != nil {
		return nil
	}
	said := make(chan *pb.SessionRequest)
	go func() {
		defer close(said)
		for err == nil {
			said <- m
			m, err = st.Receive()
		}
	}()
	defer func() { // the reader ends with the stream
		go func() {
			for range said {
			}
		}()
	}()
	credit := int64(0)
	for {
		var leases chan api.Lease
		if credit > 0 {
			leases = c.leases
		}
		var answer *pb.SessionResponse
		select {
		case m, ok := <-said:
			if !ok {
				return nil
			}
			credit += m.Credit
			answer = c.said(m)
		case l := <-leases:
			credit--
			answer = &pb.SessionResponse{Tasks: []*pb.Task{{TaskId: l.TaskID, Epoch: l.Epoch, FleetId: l.FleetID, Action: l.Action, Target: l.Target, Input: l.Input,
				Attempt: int32(l.Attempt), LeaseSeconds: l.LeaseSeconds, IdempotencyKey: l.IdempotencyKey, Guarantee: l.Guarantee}}}
		case answer = <-c.events:
		case err := <-c.end:
			return err
		case <-ctx.Done():
			return nil
		}
		if answer != nil && st.Send(answer) != nil {
			return nil
		}
	}
}

// said handles what the agent says but hello and credit.
func (c *cluster) said(m *pb.SessionRequest) *pb.SessionResponse {
	for _, x := range m.Started {
		c.started <- x.TaskId
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.drained = c.mu.drained || m.Drain
	if len(m.Settle) == 0 {
		return nil
	}
	a := &pb.Settled{Seq: m.SettleSeq, Count: uint32(len(m.Settle))}
	for i, x := range m.Settle {
		s := api.Settlement{TaskID: x.TaskId, Epoch: x.Epoch, Verdict: "complete", Result: x.Result, Error: x.Error, NoRetry: x.NoRetry}
		switch {
		case x.InDoubt:
			s.Verdict = "unknown"
		case x.Failed:
			s.Verdict = "fail"
		}
		if c.mu.settles++; c.mu.settle != nil {
			if p := c.mu.settle(c.mu.settles, s); p != nil {
				a.Verdicts = append(a.Verdicts, &pb.SettleVerdict{Index: uint32(i), Problem: p})
				continue
			}
		}
		c.settled <- s
	}
	return &pb.SessionResponse{Settled: a}
}

func revoked(l api.Lease, reason string) *pb.SessionResponse {
	return &pb.SessionResponse{Revoked: []*pb.Revoked{{TaskId: l.TaskID, Epoch: l.Epoch, Reason: reason}}}
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
