package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Pauses between rounds of attempts: doubling, with jitter.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
	askedPause = 10 * time.Second // at most, of what a node asks for
)

// Times for one attempt, beyond what the operation itself waits.
const (
	answerWithin = 15 * time.Second
	verifyWithin = 30 * time.Minute // chains are re-read from disk
)

// repeatable says that an operation may be sent again: it was certainly not
// done, or repeating it is harmless.
func repeatable(err error) bool {
	var e *api.Error
	if !errors.As(err, &e) {
		return true // the connection broke; every operation here is idempotent
	}
	return e.Retry == api.RetryLater || e.Retry == api.RetrySameKey
}

// rounds paces repeated attempts.
type rounds struct {
	patience time.Duration // 0: as long as the context
	pause    time.Duration
	since    time.Time // of the first failure
}

// again waits for the next round; false when there is none: the context ended
// or patience is over.
func (r *rounds) again(ctx context.Context, err error) bool {
	now := time.Now()
	if r.since.IsZero() {
		r.since, r.pause = now, firstPause
	}
	wait := r.pause/2 + rand.N(r.pause/2)
	r.pause = min(2*r.pause, lastPause)
	var e *api.Error
	if errors.As(err, &e) {
		wait = max(wait, min(time.Duration(e.After)*time.Millisecond, askedPause))
	}
	if r.patience > 0 && now.Add(wait).Sub(r.since) > r.patience {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// call does one operation, at whichever node answers, until it is decided.
// within bounds one attempt. out may be nil.
func (c *Client) call(ctx context.Context, within time.Duration, method, path string, in, out any) error {
	body, err := encode(in)
	if err != nil {
		return err
	}
	r := rounds{patience: c.patience}
	for {
		var last error
		for range c.book.places() {
			at := c.book.here()
			err := c.attempt(ctx, within, at, method, path, body, out)
			if err == nil || !repeatable(err) {
				return err
			}
			last = better(last, err)
			if ctx.Err() != nil {
				return ended(ctx, last)
			}
			if err = c.book.pass(at, err); !repeatable(err) {
				return err
			}
		}
		if !r.again(ctx, last) {
			return ended(ctx, last)
		}
	}
}

// better is the error that says more: what a node answered, rather than that
// another could not be reached.
func better(a, b error) error {
	if errors.As(a, new(*api.Error)) && !errors.As(b, new(*api.Error)) {
		return a
	}
	return b
}

// ended is the error of a call without a decision: what the nodes said last,
// if they said anything.
func ended(ctx context.Context, last error) error {
	var e *api.Error
	if errors.As(last, &e) {
		return e
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("client: no answer from any node: %w (last: %w)", err, last)
	}
	return fmt.Errorf("client: no answer from any node: %w", last)
}

// each has every item decided: those whose verdict may be repeated are sent
// again, alone, as long as patience and context allow.
func each[I, V any](ctx context.Context, c *Client, items []I, send func([]I) ([]V, error), refusal func(V) *api.Error) ([]V, error) {
	verdicts, err := send(items)
	if err != nil {
		return nil, err
	}
	if len(verdicts) != len(items) {
		return nil, fmt.Errorf("client: %d verdicts for %d items", len(verdicts), len(items))
	}
	r := rounds{patience: c.patience}
	for {
		var open []int
		var rest []I
		var why error
		for i, v := range verdicts {
			if e := refusal(v); e != nil && repeatable(e) {
				open, rest, why = append(open, i), append(rest, items[i]), e
			}
		}
		if len(open) == 0 || !r.again(ctx, why) {
			return verdicts, nil
		}
		more, err := send(rest)
		if err != nil || len(more) != len(rest) {
			return verdicts, nil // they stay undecided, which their verdicts say
		}
		for k, i := range open {
			verdicts[i] = more[k]
		}
	}
}
