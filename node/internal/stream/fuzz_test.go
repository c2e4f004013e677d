package stream

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// FuzzSession: whatever messages an agent sends in whatever order, its session
// ends with a problem that names layer and code, or well; credit stays within
// its limit, and nothing but its own session ends. Messages are length-prefixed
// in the input, a byte each.
func FuzzSession(f *testing.F) {
	add := func(list ...*pb.SessionRequest) {
		var b []byte
		for _, m := range list {
			one, err := proto.Marshal(m)
			if err != nil || len(one) > 255 {
				f.Fatal(len(one), err)
			}
			b = append(append(b, byte(len(one))), one...)
		}
		f.Add(b)
	}
	held := []*pb.Claim{{TaskId: "t1", Epoch: 1, Progress: []byte("{}")}}
	add(hello("a", 8), &pb.SessionRequest{Credit: 1, Started: held, Progress: held, Returned: held}, &pb.SessionRequest{Drain: true})
	add(hello("a", 0), hello("a", 0))
	add(&pb.SessionRequest{Credit: 1})
	add(hello("a", 1), &pb.SessionRequest{Credit: -1})
	add(hello("a", 1), &pb.SessionRequest{Credit: api.MaxCredit}, &pb.SessionRequest{Credit: 1<<63 - 1})
	add(hello("a", 1), &pb.SessionRequest{SettleSeq: 9, Settle: []*pb.Settlement{{TaskId: "t1", Epoch: 1, Result: []byte("nonsense"), InDoubt: true}, {TaskId: "not an ID"}}})
	f.Fuzz(func(t *testing.T, b []byte) {
		backend := newFake()
		backend.stock = 4
		s := newServer(backend, Config{})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		d := &scripted{ctx: ctx, script: b}
		err := s.session(ctx, d, d)
		if ctx.Err() != nil {
			t.Fatal("the session does not end")
		}
		if err != nil {
			var e *api.Error
			if asError(err) == nil || errors.As(err, &e) && (e.Layer < 1 || e.Layer > 7 || e.Code == "") {
				t.Fatalf("ended with %v", err)
			}
		}
		backend.mu.Lock()
		defer backend.mu.Unlock()
		if backend.mu.closed > 1 || len(backend.mu.sessions) != backend.mu.closed || d.over > api.MaxCredit {
			t.Fatalf("%d sessions, %d closed; %d tasks in a message", len(backend.mu.sessions), backend.mu.closed, d.over)
		}
	})
}

// scripted is an agent that says what a script has.
type scripted struct {
	ctx    context.Context
	script []byte
	over   int // the most tasks in one message
}

func (d *scripted) Receive() (*pb.SessionRequest, error) {
	if len(d.script) == 0 || d.ctx.Err() != nil {
		return nil, io.EOF
	}
	n := min(int(d.script[0]), len(d.script)-1)
	m := &pb.SessionRequest{}
	err := proto.Unmarshal(d.script[1:1+n], m)
	d.script = d.script[1+n:]
	if err != nil {
		return nil, io.EOF // the library ends a stream there
	}
	return m, nil
}

func (d *scripted) Send(m *pb.SessionResponse) error {
	d.over = max(d.over, len(m.Tasks))
	return nil
}

func (d *scripted) deaf() {}
func (d *scripted) cut()  {}

func (d *scripted) arrived() func() { return func() {} }
