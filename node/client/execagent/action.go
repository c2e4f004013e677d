package execagent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// ActionConfig is one effect that a command has, once.
type ActionConfig struct {
	// Declare asks for the go; its patience bounds how long another holder is
	// waited for. Settle says how it ended, until that is acknowledged.
	Declare, Settle *client.Client
	Action          api.ActionRequest // the instance is made here
	Command         []string
	Wait            time.Duration // for approval; 0: not at all
	Grace           time.Duration // between SIGTERM and SIGKILL; default 5 s
	Logger          *slog.Logger
}

// Perform gives a command the whole protocol: it declares the intent, runs the
// command if that is answered with go, renewing meanwhile, and says how it
// ended. A command that exits 0 has happened (its output is cut if it is over
// MaxResultBytes), one that exits otherwise has not, and of one that was killed
// nobody knows. It is killed before the lease ends if no node acknowledges a
// renewal: somebody else may hold the task then. The verdict is the last word
// of the cluster: done when the effect has happened, now or before.
func Perform(ctx context.Context, cfg ActionConfig) (api.ActionVerdict, error) {
	if len(cfg.Command) == 0 {
		return api.ActionVerdict{}, errors.New("execagent: an action needs a command")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	cfg.Action.InstanceID = rand.Text()
	v, err := declare(ctx, cfg)
	if err != nil || v.Decision != api.DecisionGo {
		return v, err
	}
	lasts := time.Duration(v.LeaseSeconds * float64(time.Second))
	a := &Agent{effect: true, cfg: Config{Client: cfg.Settle, Manifest: api.Manifest{AgentID: cfg.Action.AgentID}, Command: cfg.Command,
		Grace: min(cfg.Grace, lasts/3), Logger: cfg.Logger}}
	lease := api.Lease{TaskID: v.TaskID, Epoch: v.Epoch, FleetID: cfg.Action.FleetID, Action: cfg.Action.Action, Target: cfg.Action.Target,
		Input: cfg.Action.Input, Context: cfg.Action.Context, Guarantee: v.Guarantee, Attempt: 1, LeaseSeconds: v.LeaseSeconds,
		IdempotencyKey: v.IdempotencyKey, SessionID: cfg.Action.SessionID}
	if lease.Guarantee == "" { // a node of before it said so
		lease.Guarantee = cfg.Action.Guarantee
	}
	sure := time.Now().Add(lasts) // the lease lasts that long, counted from the last call that is acknowledged
	claim := api.Claim{AgentID: cfg.Action.AgentID, Epoch: v.Epoch}
	if _, err := cfg.Settle.Start(ctx, v.TaskID, claim); err != nil {
		return v, fmt.Errorf("the command was not run: task %s does not start: %w", v.TaskID, err)
	}
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	var renewing sync.WaitGroup
	renewing.Go(func() { // stopped so early that it has ended when its lease does
		cfg.Settle.KeepLease(alive, v.TaskID, claim, lasts-a.cfg.Grace, sure.Add(-a.cfg.Grace), stop)
	})
	s := a.command(run, lease)
	end()
	renewing.Wait()
	s.TaskID, s.Epoch = v.TaskID, v.Epoch
	if e := a.settle(context.WithoutCancel(ctx), s); e != nil {
		return v, e
	}
	v.Result = s.Result
	switch s.Verdict {
	case "complete":
		v.Decision, v.State = api.DecisionDone, "completed"
		return v, nil
	case "unknown":
		v.Decision, v.State = api.DecisionUnknown, "unknown"
		return v, api.Errorf(409, 7, "unknown_verify_first", api.RetryNo, "task %s may have happened: the command was killed: %s", v.TaskID, s.Error).
			WithHint("its verify or rollback settles it, or `quorate task resolve %s`", v.TaskID)
	}
	return v, api.Errorf(409, 7, "action_failed", api.RetryNo, "task %s did not happen: %s", v.TaskID, s.Error)
}

// declare asks for the go, and waits for approval as long as it may.
func declare(ctx context.Context, cfg ActionConfig) (api.ActionVerdict, error) {
	until := time.Now().Add(cfg.Wait)
	for told := false; ; told = true {
		left := time.Until(until)
		cfg.Action.WaitSeconds = max(min(left, 30*time.Second), 0).Seconds()
		v, err := cfg.Declare.Declare(ctx, cfg.Action)
		if err != nil || v.Decision != api.DecisionWait {
			return v, err
		}
		if !told {
			cfg.Logger.Info("waits for approval", "layer", 7, "task", v.TaskID, "hint", "quorate task approve "+v.TaskID)
		}
		if left <= 0 {
			return v, api.Errorf(409, 7, "awaiting_approval", api.RetryLater, "task %s waits: it is %s", v.TaskID, v.State).
				WithHint("`quorate task approve %s`, then run this again", v.TaskID)
		}
	}
}

// firstPause is between two offers of a verdict: the client's own patience came
// before.
const firstPause = 50 * time.Millisecond

// settle gives the verdict, again and again until it is acknowledged or
// refused; nil is acknowledged.
func (a *Agent) settle(ctx context.Context, s api.Settlement) *api.Error {
	for {
		v, err := a.cfg.Client.Settle(ctx, a.cfg.Manifest.AgentID, []api.Settlement{s})
		var e *api.Error
		switch {
		case err == nil:
			e = v[0].Error
		case !errors.As(err, &e):
			e = api.Errorf(503, 2, "no_answer", api.RetrySameKey, "%v", err)
		}
		if e == nil || e.Retry == api.RetryNo || ctx.Err() != nil {
			return e
		}
		a.cfg.Logger.Info("verdict not acknowledged yet", "layer", e.Layer, "task", s.TaskID, "code", e.Code)
		t := time.NewTimer(firstPause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}
