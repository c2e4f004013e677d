// Package execagent turns any command into an agent: the task's JSON goes to
// its standard input, its standard output is the result, its exit code the
// verdict.
//
// An [Agent] registers its capabilities, keeps a session open (so that its loss
// is seen at once and a cancelled task is stopped), leases work by long poll,
// and runs the command in a process group of its own for each task, up to Max
// at a time. It renews leases at a third of their length and repeats a verdict
// until it is acknowledged or refused.
//
// Exit codes: 0 completes the task; 65 (EX_DATAERR) fails it for good; any
// other fails the attempt, and the task's policy decides about another.
//
// # Goroutines
//
//	name     owner  ends
//	session  Run    Run's context
//	task     Run    its verdict is settled; one for each held task
//	renewer  task   the command has ended
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
	Logger   *slog.Logger
}

// Agent runs a command for each task it is given.
type Agent struct {
	cfg Config
	mu  struct {
		sync.Mutex
		held map[string]*running
	}
}

type running struct {
	epoch uint64
	stop  context.CancelCauseFunc
}

// errRevoked stops a command whose task is over.
var errRevoked = errors.New("revoked")

// New checks the configuration.
func New(cfg Config) (*Agent, error) {
	if len(cfg.Command) == 0 {
		return nil, errors.New("execagent: no command: give it behind --")
	}
	if cfg.Max < 0 || cfg.Max > 1024 {
		return nil, fmt.Errorf("execagent: max %d is not within 1 and 1024", cfg.Max)
	}
	cfg.Max = max(cfg.Max, 1)
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg}
	a.mu.held = map[string]*running{}
	return a, nil
}

// pollSeconds is how long one lease call waits for work.
const pollSeconds = 30

// Run works until ctx ends; then it takes no more, lets the commands under way
// finish, and returns nil. An error means that the agent was refused.
func (a *Agent) Run(ctx context.Context) error {
	if _, err := a.cfg.Client.Register(ctx, a.cfg.Manifest); err != nil {
		return err
	}
	id := a.cfg.Manifest.AgentID
	work, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx until the last verdict is settled
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { a.session(work) })
	slots := make(chan struct{}, a.cfg.Max)
	var tasks sync.WaitGroup
	var err error
	for ctx.Err() == nil {
		n := a.reserve(ctx, slots)
		if n == 0 {
			break
		}
		var got api.Leases
		got, err = a.cfg.Client.Lease(ctx, api.LeaseRequest{AgentID: id, Max: n, WaitSeconds: pollSeconds})
		for range n - len(got.Tasks) {
			<-slots
		}
		if refused(err) {
			if _, rerr := a.cfg.Client.Register(ctx, a.cfg.Manifest); rerr != nil {
				break
			}
			continue
		}
		for _, t := range got.Tasks {
			tasks.Go(func() {
				defer func() { <-slots }()
				a.perform(work, t)
			})
		}
	}
	tasks.Wait()
	stop()
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// refused says that the cluster does not know the agent (any more).
func refused(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == "agent_not_registered"
}

// reserve waits for a free slot and takes all that are free.
func (a *Agent) reserve(ctx context.Context, slots chan struct{}) (n int) {
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

// session stays connected, with what is held told at each new connection.
func (a *Agent) session(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.cfg.Client.Session(ctx, a.cfg.Manifest.AgentID, a.holding(), a.event)
		if ctx.Err() != nil {
			return
		}
		a.cfg.Logger.Info("session ended, connecting again", "layer", 2, "error", err)
		t := time.NewTimer(100 * time.Millisecond)
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

// perform runs the command for one task and settles it.
func (a *Agent) perform(ctx context.Context, t api.Lease) {
	run, stop := context.WithCancelCause(ctx)
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
	ended := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() { a.renew(ctx, t, stop, ended) })
	s := a.command(run, t)
	close(ended)
	renewing.Wait()
	if errors.Is(context.Cause(run), errRevoked) {
		return // somebody else's by now, or over
	}
	s.TaskID, s.Epoch = t.TaskID, t.Epoch
	v, err := a.cfg.Client.Settle(ctx, a.cfg.Manifest.AgentID, []api.Settlement{s})
	switch {
	case err != nil:
		a.cfg.Logger.Warn("verdict not delivered", "layer", 5, "task", t.TaskID, "error", err)
	case v[0].Error != nil:
		a.cfg.Logger.Warn("verdict refused", "layer", v[0].Error.Layer, "task", t.TaskID, "code", v[0].Error.Code)
	}
}

// renew prolongs the lease until the command has ended; a lease that is over
// stops the command.
func (a *Agent) renew(ctx context.Context, t api.Lease, stop context.CancelCauseFunc, ended <-chan struct{}) {
	claim := api.Claim{AgentID: a.cfg.Manifest.AgentID, Epoch: t.Epoch}
	every := max(time.Duration(t.LeaseSeconds*float64(time.Second))/3, 20*time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the command, as cancel does
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	_, err := a.cfg.Client.Start(ctx, t.TaskID, claim)
	for {
		var e *api.Error
		if errors.As(err, &e) && e.Retry == api.RetryNo && ctx.Err() == nil {
			stop(fmt.Errorf("%w: %s", errRevoked, e.Code))
			return
		}
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		_, err = a.cfg.Client.Renew(ctx, t.TaskID, claim)
	}
}

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
