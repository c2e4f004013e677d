package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Task is a task an agent performs. Epoch is its fencing token: what the task
// changes outside should be told it.
type Task struct {
	api.Lease
	w *worker
}

// Progress reports how far the task is: any JSON up to api.MaxProgressBytes; a
// larger one is an error and changes nothing. It is kept in memory and shown
// with the task; the newest report counts.
func (t *Task) Progress(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("client: progress: %w", err)
	}
	if len(b) > api.MaxProgressBytes {
		return api.Errorf(413, 2, "payload_too_large", api.RetryNo, "progress has %d bytes, at most %d", len(b), api.MaxProgressBytes)
	}
	t.w.progress(t, b)
	return nil
}

// Handler performs one task and returns its result, which becomes JSON. ctx
// ends when the task was cancelled or given to somebody else; what it returns
// then is dropped. An error fails the attempt; see [Permanent]. So does a
// result that no node takes (too large, not JSON), for good; only a task of
// exactly_once completes then, with a result that says so: it has happened.
type Handler func(ctx context.Context, t *Task) (result any, err error)

// Permanent marks an error after which another attempt makes no sense.
func Permanent(err error) error { return permanent{err} }

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// WorkConfig says how an agent works. Zero fields take the default.
type WorkConfig struct {
	Manifest api.Manifest
	// Handler performs one task; Perform too, and says itself how it ended (a
	// failure with a result, or in doubt); Batch performs as many as there are,
	// and returns a settlement for each of them. One of the three is required.
	Handler Handler
	Perform func(ctx context.Context, t *Task) api.Settlement
	Batch   func(ctx context.Context, tasks []Task) []api.Settlement
	// Concurrency is how many calls of Handler or Batch run at a time; default
	// the manifest's max_concurrent_tasks, or 1.
	Concurrency int
	// Credit is how many tasks the agent has at a time, the ones that wait for
	// a call included; default Concurrency, at most api.MaxCredit. With more,
	// short tasks do not wait for the network.
	Credit int
	// Drain is how long calls may go on after ctx has ended; default 1 min.
	Drain time.Duration
	// Settled, if set, is told of settlements that were acknowledged. It must
	// not wait: it runs between two messages of the node.
	Settled func([]api.Settlement)
	Logger  *slog.Logger // default: none
}

func (c WorkConfig) withDefaults() (WorkConfig, error) {
	given := 0
	for _, has := range []bool{c.Handler != nil, c.Perform != nil, c.Batch != nil} {
		if has {
			given++
		}
	}
	if given != 1 {
		return c, errors.New("client: work: want one of Handler, Perform and Batch")
	}
	if c.Handler != nil {
		c.Perform = c.Handler.settlement
	}
	if c.Manifest.AgentID == "" {
		return c, errors.New("client: work: the manifest names no agent_id")
	}
	if c.Concurrency == 0 {
		c.Concurrency = max(c.Manifest.MaxTasks, 1)
	}
	if c.Credit == 0 {
		c.Credit = min(c.Concurrency, api.MaxCredit)
	}
	if c.Concurrency < 1 || c.Credit < 1 || c.Credit > api.MaxCredit {
		return c, fmt.Errorf("client: work: concurrency %d and credit %d: want at least 1, and credit at most %d", c.Concurrency, c.Credit, api.MaxCredit)
	}
	if c.Drain == 0 {
		c.Drain = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Work performs tasks as the agent of the manifest, which it registers, until
// ctx ends; then it takes no more, lets the calls under way finish, and
// returns nil. Tasks are pushed to it, leases renewed for it. When its node
// dies it goes on at another with what it holds. An error means that the agent
// was refused, or that another process took its ID.
func (c *Client) Work(ctx context.Context, m api.Manifest, h Handler) error {
	return c.WorkWith(ctx, WorkConfig{Manifest: m, Handler: h})
}

// WorkWith is Work with more to say.
func (c *Client) WorkWith(ctx context.Context, cfg WorkConfig) error {
	w, err := newWorker(cfg)
	if err != nil {
		return err
	}
	l := c.lane()
	defer l.close()
	h := fnv.New32a()
	_, _ = h.Write([]byte(cfg.Manifest.AgentID)) // agents spread over the nodes
	return w.run(ctx, &overStreams{turn{c.book, c.book.given[int(h.Sum32()>>1)%len(c.book.given)]}, c, l})
}

// WorkOver is WorkWith over links that open makes; an error of open that may
// be repeated (api.RetryLater) has it called again. It is how a program that
// embeds a node works for it without a connection; see node.Node.Work.
func WorkOver(ctx context.Context, cfg WorkConfig, open func(context.Context) (Link, error)) error {
	w, err := newWorker(cfg)
	if err != nil {
		return err
	}
	return w.run(ctx, here(open))
}

// here is the route to the one node whose links open makes.
type here func(context.Context) (Link, error)

func (h here) open(ctx context.Context) (Link, error) { return h(ctx) }
func (h here) node() string                           { return "here" }
func (h here) judge(err error) error                  { return err }
func (h here) next()                                  {}
func (h here) learn([]string)                         {}
func (h here) alone() bool                            { return true }
