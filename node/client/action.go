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
// action; see [Permanent]. The context of fn ends when the lease is over, or may
// be; an error of fn then leaves an exactly_once action unknown ([ErrInDoubt]).
// The intent needs an agent_id and an idempotency key.
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

// errUnsure ends the context of a function whose lease may be over.
var errUnsure = fmt.Errorf("%w: no node acknowledged a renewal of its lease", ErrRevoked)

// act calls fn under a lease that is kept, and records how it ended.
func (c *Client) act(ctx context.Context, agent string, v api.ActionVerdict, fn func(context.Context, api.ActionVerdict) (any, error)) (json.RawMessage, error) {
	claim := api.Claim{AgentID: agent, Epoch: v.Epoch}
	lasts := time.Duration(v.LeaseSeconds * float64(time.Second))
	sure := time.Now().Add(lasts)
	if _, err := c.Start(ctx, v.TaskID, claim); err != nil {
		return nil, fmt.Errorf("client: action %s is not begun: %w", v.TaskID, err)
	}
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var renewing sync.WaitGroup
	renewing.Go(func() { c.KeepLease(run, v.TaskID, claim, lasts, sure, stop) })
	result, err := fn(run, v)
	cause := context.Cause(run)
	stop(nil)
	renewing.Wait()
	s := api.Settlement{TaskID: v.TaskID, AgentID: agent, Epoch: v.Epoch, Verdict: "complete"}
	if err == nil && result != nil {
		var bad error
		if s.Result, bad = json.Marshal(result); bad != nil { // it has happened
			s.Result = json.RawMessage(notEncodable)
		}
	}
	if err != nil {
		s.Verdict, s.Error, s.NoRetry = "fail", err.Error(), errors.As(err, new(permanent))
		if api.ExactlyOnce(v.Guarantee) && cause != nil { // it was told to stop: nobody knows how far it came
			s.Verdict, err = "unknown", errors.Join(ErrInDoubt, err)
		}
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

// KeepLease renews the lease of a task that was begun, until ctx ends. The
// lease lasts for some time from each acknowledged call on, and until sure at
// least. It calls stop, once, when the lease is over ([ErrRevoked]), or may be
// because no call was acknowledged for so long: what it is for has to end
// then, as somebody else may hold the task.
func (c *Client) KeepLease(ctx context.Context, id string, claim api.Claim, lasts time.Duration, sure time.Time, stop context.CancelCauseFunc) {
	t := time.NewTicker(max(lasts/3, minRenewal))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		sent := time.Now()
		call, cancel := context.WithDeadline(ctx, sure)
		_, err := c.Renew(call, id, claim)
		cancel()
		var e *api.Error
		switch {
		case err == nil:
			sure = sent.Add(lasts)
		case ctx.Err() != nil:
			return
		case errors.As(err, &e) && e.Retry == api.RetryNo:
			stop(fmt.Errorf("%w: %w", ErrRevoked, e))
			return
		case !time.Now().Before(sure):
			stop(errUnsure)
			return
		}
	}
}

// notEncodable stands for a result that is not JSON.
const notEncodable = `{"result_not_encodable":true}`

// minRenewal keeps a tiny lease from being renewed in a loop.
const minRenewal = 20 * time.Millisecond
