package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
)

// ErrInDoubt says that an action may have happened, and nobody knows: a verify
// hook or a human has to say, nothing repeats it.
var ErrInDoubt = errors.New("client: the action may have happened")

// Action performs an effect that must not be repeated blindly: it declares the
// intent, waits for the go, calls fn with the epoch that fences it, and records
// the result. When the same intent (idempotency key and request) was performed
// before, its result is returned and fn is not called. An error of fn fails the
// action; see [Permanent]. The intent needs an agent_id and an idempotency key.
func (c *Client) Action(ctx context.Context, intent api.ActionRequest, fn func(ctx context.Context, v api.ActionVerdict) (result any, err error)) (json.RawMessage, error) {
	if intent.IdempotencyKey == "" || intent.AgentID == "" {
		return nil, errors.New("client: action: want an agent_id and an idempotency_key")
	}
	if intent.InstanceID == "" {
		intent.InstanceID = newKey() // another call with this key is another performer
	}
	if intent.WaitSeconds == 0 {
		intent.WaitSeconds = actionWait.Seconds()
	}
	pause := rounds{}
	for {
		v, err := c.Declare(ctx, intent)
		if err != nil {
			return nil, err
		}
		switch v.Decision {
		case api.DecisionDone:
			return v.Result, nil
		case api.DecisionGo:
			return c.act(ctx, intent.AgentID, v, fn)
		case api.DecisionWait, api.DecisionInProgress:
			if !pause.again(ctx, nil) {
				return nil, fmt.Errorf("client: action %s is %s: %w", v.TaskID, v.Decision, ctx.Err())
			}
		case api.DecisionUnknown:
			return nil, fmt.Errorf("%w: task %s is %s", ErrInDoubt, v.TaskID, v.State)
		default:
			if v.Error != nil {
				return nil, v.Error
			}
			return nil, fmt.Errorf("client: action %s: %s", v.TaskID, v.Decision)
		}
	}
}

// actionWait is how long one declaration waits for its go.
const actionWait = 30 * time.Second

// act calls fn under a lease that is kept, and records how it ended.
func (c *Client) act(ctx context.Context, agent string, v api.ActionVerdict, fn func(context.Context, api.ActionVerdict) (any, error)) (json.RawMessage, error) {
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var renewing sync.WaitGroup
	every := max(time.Duration(v.LeaseSeconds*float64(time.Second))/3, minRenewal)
	renewing.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-run.Done():
				return
			case <-t.C:
			}
			var e *api.Error
			if _, err := c.Renew(run, v.TaskID, api.Claim{AgentID: agent, Epoch: v.Epoch}); errors.As(err, &e) && e.Retry == api.RetryNo {
				stop(fmt.Errorf("%w: %w", ErrRevoked, e))
			}
		}
	})
	result, err := fn(run, v)
	stop(nil)
	renewing.Wait()
	s := api.Settlement{TaskID: v.TaskID, AgentID: agent, Epoch: v.Epoch, Verdict: "complete"}
	if err == nil && result != nil {
		if s.Result, err = json.Marshal(result); err != nil {
			err = Permanent(err)
		}
	}
	if err != nil {
		s.Verdict, s.Error, s.NoRetry = "fail", err.Error(), errors.As(err, new(permanent))
	}
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainedWithin) // what happened is recorded though ctx ended
	defer cancel()
	verdicts, serr := c.Settle(settle, agent, []api.Settlement{s})
	switch {
	case serr != nil:
		return s.Result, errors.Join(err, serr)
	case verdicts[0].Error != nil:
		return s.Result, errors.Join(err, verdicts[0].Error)
	}
	return s.Result, err
}

// minRenewal keeps a tiny lease from being renewed in a loop.
const minRenewal = 20 * time.Millisecond
