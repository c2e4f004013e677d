package stream

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// pipeDepth is how many messages may wait in a pipe, each way, before its
// sender does: a reader that works finds the next one there.
const pipeDepth = 4

// Pipe is a session's connection within the process: messages are handed over
// as they are, nothing is encoded. Its methods are the agent's end.
type Pipe struct {
	up   chan *pb.SessionRequest
	down chan *pb.SessionResponse

	gone   context.Context // ended: nothing passes any more
	end    context.CancelFunc
	mute   chan struct{} // closed: the agent says nothing more
	muting sync.Once
	mum    chan struct{} // closed: the node reads nothing more
	deaf   sync.Once
	done   chan struct{} // closed when the session has ended, for the reason err
	err    error
}

// Local opens sessions of agents in this process. They keep every rule of the
// others, and are not counted among the streams.
func Local(b Backend, cfg Config) func(ctx context.Context) *Pipe {
	s := newServer(b, cfg)
	return func(ctx context.Context) *Pipe {
		p := &Pipe{up: make(chan *pb.SessionRequest, pipeDepth), down: make(chan *pb.SessionResponse, pipeDepth),
			mute: make(chan struct{}), mum: make(chan struct{}), done: make(chan struct{})}
		p.gone, p.end = context.WithCancel(ctx)
		go func() { // the agent's end waits for it in CloseResponse
			p.err = s.session(p.gone, nodeEnd{p}, nodeEnd{p})
			close(p.done)
		}()
		return p
	}
}

var errPipeClosed = errors.New("stream: the session is over")

// Send implements client.Link.
func (p *Pipe) Send(m *pb.SessionRequest) error {
	select {
	case p.up <- m:
		return nil
	case <-p.done:
		return io.EOF // Receive says why
	case <-p.gone.Done():
		return errPipeClosed
	}
}

// Receive implements client.Link.
func (p *Pipe) Receive() (*pb.SessionResponse, error) {
	select {
	case m := <-p.down:
		return m, nil
	case <-p.done:
	case <-p.gone.Done():
		return nil, context.Canceled
	}
	select {
	case m := <-p.down: // said before the end
		return m, nil
	default:
	}
	if p.err != nil {
		return nil, p.err
	}
	return nil, io.EOF
}

// CloseRequest implements client.Link.
func (p *Pipe) CloseRequest() error {
	p.muting.Do(func() { close(p.mute) })
	return nil
}

// CloseResponse implements client.Link: it ends what is left and waits for the
// session.
func (p *Pipe) CloseResponse() error {
	p.end()
	<-p.done
	return nil
}

// Cut ends the session whatever it is doing.
func (p *Pipe) Cut() { p.end() }

// nodeEnd is the session's end of a pipe.
type nodeEnd struct{ p *Pipe }

func (e nodeEnd) Receive() (*pb.SessionRequest, error) {
	p := e.p
	select {
	case <-p.mum:
		return nil, context.Canceled
	case m := <-p.up:
		return m, nil
	default:
	}
	select {
	case m := <-p.up:
		return m, nil
	case <-p.mute:
	case <-p.mum:
		return nil, context.Canceled
	case <-p.gone.Done():
		return nil, context.Canceled
	}
	select {
	case m := <-p.up: // said before the end
		return m, nil
	default:
		return nil, io.EOF
	}
}

// Send hands a message over. What the tasks carry is the replica's own memory:
// the agent gets copies, which it may change.
func (e nodeEnd) Send(m *pb.SessionResponse) error {
	for _, t := range m.Tasks {
		t.Input, t.Context = slices.Clone(t.Input), slices.Clone(t.Context)
	}
	select {
	case e.p.down <- m:
		return nil
	case <-e.p.gone.Done():
		return errPipeClosed
	}
}

func (e nodeEnd) deaf() { e.p.deaf.Do(func() { close(e.p.mum) }) }
func (e nodeEnd) cut()  { e.p.end() }

// arrived: what is in memory already takes none.
func (e nodeEnd) arrived() func() { return func() {} }
