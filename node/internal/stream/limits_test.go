package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
	"github.com/quorate/quorate/node/internal/gate"
)

// brokenRule is what an agent does wrong, and what it is told.
type brokenRule struct {
	name     string
	messages []*pb.SessionRequest
	code     string
	layer    int32
}

func claims(n int) []*pb.Claim {
	out := make([]*pb.Claim, n)
	for i := range out {
		out[i] = &pb.Claim{TaskId: "t", Epoch: 1}
	}
	return out
}

func settles(n int) (out []*pb.Settlement) {
	for range n {
		out = append(out, &pb.Settlement{TaskId: "t", Epoch: 1})
	}
	return out
}

func brokenRules() []brokenRule {
	return []brokenRule{
		{"no hello", []*pb.SessionRequest{{Credit: 1}}, "out_of_order", 2},
		{"no agent", []*pb.SessionRequest{{Hello: &pb.Hello{}}}, "agent_id_missing", 3},
		{"hello twice", []*pb.SessionRequest{hello("a", 0), hello("a", 0)}, "out_of_order", 2},
		{"negative credit", []*pb.SessionRequest{hello("a", 0), {Credit: -1}}, "negative_credit", 2},
		{"credit over the limit", []*pb.SessionRequest{hello("a", 0), {Credit: api.MaxCredit + 1}}, "credit_too_large", 2},
		{"credit that overflows", []*pb.SessionRequest{hello("a", 0), {Credit: 1<<63 - 1}}, "credit_too_large", 2},
		{"settlements over the limit", []*pb.SessionRequest{hello("a", 0), {Settle: settles(api.MaxBatch + 1)}}, "batch_too_large", 2},
		{"returns over the limit", []*pb.SessionRequest{hello("a", 0), {Returned: claims(api.MaxCredit + 1)}}, "batch_too_large", 2},
		{"claims over the limit", []*pb.SessionRequest{hello("a", 0), {Started: claims(api.MaxBatch), Progress: claims(1)}}, "batch_too_large", 2},
		{"a message over the limit", []*pb.SessionRequest{hello("a", 0), {Settle: []*pb.Settlement{{Result: make([]byte, MaxMessageBytes)}}}}, "message_too_large", 2},
	}
}

// What is at the limits is taken.
func TestAtTheLimits(t *testing.T) {
	url := serve(t, newFake(), Config{})
	st := open(t, dial(t, url), hello("b", 0))
	receive(t, st)
	for _, m := range []*pb.SessionRequest{{Settle: settles(api.MaxBatch), SettleSeq: 1}, {Returned: claims(api.MaxCredit)}, {Started: claims(api.MaxBatch - 1), Progress: claims(1)},
		{SettleSeq: 2, Settle: []*pb.Settlement{{TaskId: "t", Epoch: 1, Result: make([]byte, MaxMessageBytes-64)}}}} {
		if n := proto.Size(m); n > MaxMessageBytes {
			t.Fatal(n)
		}
		if err := st.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	for settled, claimed := 0, false; settled < 2 || !claimed; {
		switch m := receive(t, st); {
		case len(m.Revoked) > 0: // what the backend answers claims with
			claimed = true
		case m.Settled == nil || len(m.Settled.Verdicts) != 0:
			t.Fatalf("%v", m)
		default:
			settled++
		}
	}
}

// An agent that grants credit and never reads is cut off; what waits for it
// meanwhile is bounded by what the connection holds, and goes back.
func TestNeverReads(t *testing.T) {
	f := newFake()
	f.size = 32 << 10
	url := serve(t, f, Config{SendTimeout: 300 * time.Millisecond})
	st := open(t, dial(t, url), hello("a", api.MaxCredit))
	deadline := time.After(20 * time.Second)
	for {
		f.mu.Lock()
		closed, given, back := f.mu.closed, f.mu.given, len(f.mu.returned)
		f.mu.Unlock()
		if closed == 1 {
			if given == api.MaxCredit || back == 0 || given*f.size > 64<<20 {
				t.Errorf("%d tasks taken for an agent that does not read, %d went back", given, back)
			}
			break
		}
		select {
		case <-deadline:
			t.Fatal("the session lasts")
		case <-time.After(10 * time.Millisecond):
		}
	}
	_ = st.CloseResponse()
}

// A thousand clients that connect and do nothing do not stop the next one, and
// those over a limit are told which.
func TestManyIdle(t *testing.T) {
	f := newFake()
	g := gate.New(gate.Config{PerHost: 1002})
	s := newServer(f, Config{Gate: g, HelloTimeout: time.Minute})
	url := serveHandler(t, s.handler())
	shared := dial(t, url)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 60*time.Second)
	defer cancel()
	for range 1000 {
		st := shared.Session(ctx)
		defer st.CloseRequest()
		if err := st.Send(nil); err != nil {
			t.Fatal(err)
		}
	}
	for g.Open() < 1000 {
		time.Sleep(time.Millisecond) // a stream that says nothing arrives without a sign
	}
	var raw []net.Conn // and as many that say nothing at all
	defer func() {
		for _, c := range raw {
			c.Close()
		}
	}()
	for range 200 {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, c)
	}
	st := open(t, dial(t, url), hello("a", 3))
	receive(t, st)
	if m := receive(t, st); len(m.Tasks) != 3 {
		t.Errorf("got %v", m)
	}
	at := open(t, dial(t, url), hello("b", 0)) // the 1002nd: at the limit
	receive(t, at)
	if p := ending(t, open(t, dial(t, url), hello("c", 0))); p.GetCode() != "too_many_streams" || p.GetStatus() != 429 || p.GetRetry() != "later" {
		t.Errorf("one over the limit of a caller: %v", p)
	}
}

func TestStreamsInAll(t *testing.T) {
	url := serve(t, newFake(), Config{Gate: gate.New(gate.Config{InAll: 1})})
	receive(t, open(t, dial(t, url), hello("a", 0)))
	if p := ending(t, open(t, dial(t, url), hello("b", 0))); p.GetCode() != "too_many_streams" || p.GetStatus() != 503 {
		t.Errorf("one over the limit: %v", p)
	}
}

// One identity's streams are counted wherever they come from; others, and
// those without a name, go on.
func TestStreamsPerIdentity(t *testing.T) {
	url := serve(t, newFake(), Config{Gate: gate.New(gate.Config{PerIdentity: 1})})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	as := func(agent, who string) *clientStream {
		st := dial(t, url).Session(ctx)
		t.Cleanup(func() { _ = st.CloseRequest() })
		st.RequestHeader().Set("X-Quorate-Actor", who)
		if err := st.Send(hello(agent, 0)); err != nil && !errors.Is(err, io.EOF) { // it may be refused already
			t.Fatal(err)
		}
		return st
	}
	receive(t, as("a", "ann"))
	if p := ending(t, as("b", "ann")); p.GetCode() != "too_many_streams" || p.GetStatus() != 429 || p.GetLayer() != 2 || p.GetHint() == "" {
		t.Errorf("one over the limit of an identity: %v", p)
	}
	receive(t, as("c", "bob"))
	receive(t, as("d", ""))
	receive(t, as("e", ""))
}
