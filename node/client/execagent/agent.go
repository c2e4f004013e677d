package execagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// Config of an Agent. Zero fields take the default.
type Config struct {
	Client   *client.Client
	Manifest api.Manifest
	Command  []string
	Max      int           // tasks at a time; default 1
	Timeout  time.Duration // of one task; default none
	Grace    time.Duration // between SIGTERM and SIGKILL of the command; default 5 s
	Drain    time.Duration // for the commands under way at Run's end; default 1 min
	Logger   *slog.Logger
}

// Agent runs a command for each task it is given.
type Agent struct {
	cfg Config
	mu  struct {
		sync.Mutex
		held   map[string]*running
		fenced error // why this agent must not take more work
	}
	fence context.CancelFunc      // stops taking work; set by Run
	abort context.Context         // ends with Abort
	stop  context.CancelCauseFunc // of abort
}

type running struct {
	epoch uint64
	stop  context.CancelCauseFunc
}

// Causes that stop a command.
var (
	errRevoked = errors.New("revoked") // its task is over, or somebody else's
	errStopped = errors.New("the agent was stopped")
)

// maxTasks bounds Max, as the node bounds one lease call.
const maxTasks = 1024

// New checks the configuration.
func New(cfg Config) (*Agent, error) {
	if len(cfg.Command) == 0 {
		return nil, errors.New("execagent: no command: give it behind --")
	}
	if cfg.Max < 0 || cfg.Max > maxTasks {
		return nil, fmt.Errorf("execagent: max %d is not within 1 and %d", cfg.Max, maxTasks)
	}
	cfg.Max = max(cfg.Max, 1)
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.Drain == 0 {
		cfg.Drain = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg}
	a.abort, a.stop = context.WithCancelCause(context.Background())
	a.mu.held = map[string]*running{}
	return a, nil
}

// pollSeconds is how long one lease call waits for work.
const pollSeconds = 30

// Run works until ctx ends; then it takes no more, lets the commands under way
// finish, and returns nil. An error means that the agent was refused, or that
// another process took its ID.
func (a *Agent) Run(ctx context.Context) error {
	if _, err := a.cfg.Client.Register(ctx, a.cfg.Manifest); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("execagent: register: %w", err)
	}
	take, fence := context.WithCancel(ctx)
	defer fence()
	a.fence = fence
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx)) // outlives ctx until the last verdict is settled
	defer stop(nil)
	defer context.AfterFunc(a.abort, func() { stop(errStopped) })()
	settle, silence := context.WithCancel(context.WithoutCancel(ctx))
	defer silence()
	var session, tasks sync.WaitGroup
	session.Go(func() { a.session(settle) })
	err := a.take(take, func(t api.Lease, done func()) {
		tasks.Go(func() {
			defer done()
			a.perform(work, settle, t)
		})
	})
	drain := time.AfterFunc(a.cfg.Drain, func() { stop(errStopped) })
	giveUp := time.AfterFunc(a.cfg.Drain+a.cfg.Grace+lastWord, silence)
	tasks.Wait()
	drain.Stop()
	giveUp.Stop()
	silence()
	session.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.mu.fenced != nil:
		return fmt.Errorf("execagent: another process runs as %s: %w", a.cfg.Manifest.AgentID, a.mu.fenced)
	case ctx.Err() != nil || err == nil:
		return nil
	}
	return fmt.Errorf("execagent: %w", err)
}

// lastWord is how long verdicts are still offered after the drain.
const lastWord = 10 * time.Second

// Abort stops the commands under way without waiting for them to finish; their
// attempts fail. It is for an end that cannot wait for Drain.
func (a *Agent) Abort() { a.stop(errStopped) }

// take leases work until ctx ends or the agent is refused.
func (a *Agent) take(ctx context.Context, perform func(t api.Lease, done func())) error {
	slots := make(chan struct{}, a.cfg.Max)
	for {
		n := reserve(ctx, slots)
		if n == 0 {
			return nil
		}
		got, err := a.cfg.Client.Lease(ctx, api.LeaseRequest{AgentID: a.cfg.Manifest.AgentID, Max: n, WaitSeconds: pollSeconds})
		for range n - len(got.Tasks) {
			<-slots
		}
		switch {
		case ctx.Err() != nil && len(got.Tasks) == 0:
			return nil
		case unknown(err):
			if _, err := a.cfg.Client.Register(ctx, a.cfg.Manifest); err != nil {
				return err
			}
		case err != nil:
			return err
		}
		for _, t := range got.Tasks {
			perform(t, func() { <-slots })
		}
	}
}

// unknown says that the cluster does not know the agent (any more).
func unknown(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == "agent_not_registered"
}

// reserve waits for a free slot and takes all that are free.
func reserve(ctx context.Context, slots chan struct{}) (n int) {
	select {
	case slots <- struct{}{}:
		n = 1
	case <-ctx.Done():
		return 0
	}
	for {
		select {
		case slots <- struct{}{}:
			n++
		default:
			return n
		}
	}
}

// Pauses between connections: doubling, and short again after a connection
// that was worth it.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
	worthwhile = 10 * time.Second
)

// session stays connected, with what is held told at each new connection.
func (a *Agent) session(ctx context.Context) {
	pause := firstPause
	for {
		began := time.Now()
		err := a.cfg.Client.Session(ctx, a.cfg.Manifest.AgentID, a.holding(), a.event)
		if ctx.Err() != nil {
			return
		}
		var e *api.Error
		if errors.As(err, &e) && e.Code == "session_fenced" {
			a.mu.Lock()
			a.mu.fenced = err
			a.mu.Unlock()
			a.fence()
			return
		}
		if pause = min(2*pause, lastPause); time.Since(began) > worthwhile {
			pause = firstPause
		}
		a.cfg.Logger.Info("session ended, connecting again", "layer", 2, "error", err)
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func (a *Agent) holding() []api.Held {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []api.Held
	for id, r := range a.mu.held {
		out = append(out, api.Held{TaskID: id, Epoch: r.epoch})
	}
	return out
}

func (a *Agent) event(ev api.SessionEvent) {
	if ev.Type != "revoked" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.mu.held[ev.TaskID]; r != nil && r.epoch <= ev.Epoch {
		a.cfg.Logger.Info("task revoked", "layer", 5, "task", ev.TaskID, "reason", ev.Reason)
		r.stop(fmt.Errorf("%w: %s", errRevoked, ev.Reason))
	}
}

// perform runs the command for one task, until work ends, and settles it,
// which work's end does not stop.
func (a *Agent) perform(work, settle context.Context, t api.Lease) {
	run, stop := context.WithCancelCause(work)
	defer stop(nil)
	if a.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeoutCause(run, a.cfg.Timeout, fmt.Errorf("timed out after %v", a.cfg.Timeout))
		defer cancel()
	}
	a.mu.Lock()
	a.mu.held[t.TaskID] = &running{epoch: t.Epoch, stop: stop}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.mu.held, t.TaskID)
		a.mu.Unlock()
	}()
	alive, end := context.WithCancel(settle)
	defer end()
	var renewing sync.WaitGroup
	renewing.Go(func() { a.renew(alive, t, stop) })
	s := a.command(run, t)
	end()
	renewing.Wait()
	if errors.Is(context.Cause(run), errRevoked) {
		return // somebody else's by now, or over
	}
	s.TaskID, s.Epoch = t.TaskID, t.Epoch
	e := a.settle(settle, s)
	if e != nil && s.Verdict == "complete" && (e.Status == 400 || e.Status == 413 || e.Status == 422) { // the result is what is wrong
		s = failed("the result was refused: %s", e.Detail)
		s.TaskID, s.Epoch, s.NoRetry = t.TaskID, t.Epoch, true
		e = a.settle(settle, s)
	}
	if e != nil {
		a.cfg.Logger.Warn("verdict refused", "layer", e.Layer, "task", t.TaskID, "code", e.Code, "detail", e.Detail)
	}
}

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
		t := time.NewTimer(firstPause) // the client's own patience came before
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// renew starts the lease and prolongs it until ctx ends with the command; a
// lease that is over stops the command.
func (a *Agent) renew(ctx context.Context, t api.Lease, stop context.CancelCauseFunc) {
	claim := api.Claim{AgentID: a.cfg.Manifest.AgentID, Epoch: t.Epoch}
	tick := time.NewTicker(max(time.Duration(t.LeaseSeconds*float64(time.Second))/3, minRenewal))
	defer tick.Stop()
	_, err := a.cfg.Client.Start(ctx, t.TaskID, claim)
	for {
		var e *api.Error
		if errors.As(err, &e) && e.Retry == api.RetryNo && ctx.Err() == nil {
			stop(fmt.Errorf("%w: %s", errRevoked, e.Code))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, err = a.cfg.Client.Renew(ctx, t.TaskID, claim)
	}
}

// minRenewal keeps a tiny lease from being renewed in a loop.
const minRenewal = 20 * time.Millisecond

// result is the command's output as JSON: as it is, or as a string.
func result(out []byte) json.RawMessage {
	if len(out) == 0 {
		return nil
	}
	if json.Valid(out) {
		return out
	}
	b, err := json.Marshal(string(out))
	if err != nil {
		return nil // a string always marshals
	}
	return b
}
