package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
	"github.com/quorate/quorate/node/internal/stream"
)

// embedded are the agents that work in this process, without a connection.
type embedded struct {
	open func(ctx context.Context) *stream.Pipe
	mu   struct {
		sync.Mutex
		closed bool
		pipes  map[*stream.Pipe]struct{}
	}
	drain  context.Context // ended: they take no more
	stop   context.CancelFunc
	active sync.WaitGroup
}

func newEmbedded(n *Node) *embedded {
	e := &embedded{open: stream.Local(n, stream.Config{Logger: n.cfg.Logger})}
	e.mu.pipes = map[*stream.Pipe]struct{}{}
	e.drain, e.stop = context.WithCancel(context.Background())
	return e
}

// How long Close waits for agents in this process: for calls under way to end
// well, and then for them to notice that their contexts ended.
const (
	embeddedDrain = 5 * time.Second
	embeddedStop  = 5 * time.Second
)

func errNodeClosed() *api.Error {
	return api.Errorf(503, 2, "node_closed", api.RetryNo, "the node in this process was closed").WithHint("open it again, or work through node/client at another")
}

// Work performs tasks as the agent of the manifest until ctx ends, like
// [client.Client.Work], but within this process: no socket, nothing encoded,
// the same rules. It registers the agent, waits for the cluster to form, and
// ends with an error when the agent is refused, when another session takes its
// ID, or when the node is closed.
func (n *Node) Work(ctx context.Context, m api.Manifest, h client.Handler) error {
	return n.WorkWith(ctx, client.WorkConfig{Manifest: m, Handler: h})
}

// WorkWith is Work with more to say.
func (n *Node) WorkWith(ctx context.Context, cfg client.WorkConfig) error {
	e := n.embedded
	if !e.enter() {
		return errNodeClosed()
	}
	defer e.active.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.drain, cancel)()
	err := client.WorkOver(ctx, cfg, func(ctx context.Context) (client.Link, error) {
		p := e.open(ctx)
		if !e.add(p) {
			p.Cut()
			_ = p.CloseResponse()
			return nil, errNodeClosed()
		}
		return &embeddedLink{p, e}, nil
	})
	if err == nil && e.drain.Err() != nil {
		return errNodeClosed()
	}
	return err
}

// embeddedLink leaves the list when it is closed.
type embeddedLink struct {
	*stream.Pipe
	e *embedded
}

// CloseResponse implements client.Link.
func (l *embeddedLink) CloseResponse() error {
	err := l.Pipe.CloseResponse()
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	delete(l.e.mu.pipes, l.Pipe)
	return err
}

func (e *embedded) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed || e.drain.Err() != nil {
		return false
	}
	e.active.Add(1)
	return true
}

func (e *embedded) add(p *stream.Pipe) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return false
	}
	e.mu.pipes[p] = struct{}{}
	return true
}

var errEmbeddedStays = errors.New("a handler in this process does not return although its context ended")

// close has the agents finish, then ends them.
func (e *embedded) close() error {
	e.mu.Lock()
	e.stop() // with the lock: no WorkWith enters behind it
	e.mu.Unlock()
	idle := make(chan struct{})
	go func() { // ends with the last handler
		e.active.Wait()
		close(idle)
	}()
	if within(idle, embeddedDrain) {
		return nil
	}
	e.mu.Lock()
	e.mu.closed = true
	for p := range e.mu.pipes {
		p.Cut()
	}
	e.mu.Unlock()
	if within(idle, embeddedStop) {
		return nil
	}
	return errEmbeddedStays
}

func within(done <-chan struct{}, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
