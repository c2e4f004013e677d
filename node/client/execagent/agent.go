package execagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	cfg   Config
	abort context.Context         // ends with Abort
	stop  context.CancelCauseFunc // of abort
	// effect: the command is the effect of an action: if it exits 0 it has happened.
	effect bool
}

// errStopped ends commands that must not go on.
var errStopped = errors.New("the agent was stopped")

// maxTasks bounds Max.
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
	return a, nil
}

// Run works until ctx ends; then it takes no more, lets the commands under way
// finish, and returns nil. An error means that the agent was refused, or that
// another process took its ID.
func (a *Agent) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(a.cfg.Drain)
		defer t.Stop()
		select {
		case <-t.C:
			a.Abort()
		case <-a.abort.Done():
		}
	})
	defer stop()
	defer a.Abort() // ends the wait above; no command runs any more
	err := a.cfg.Client.WorkWith(ctx, client.WorkConfig{Manifest: a.cfg.Manifest, Concurrency: a.cfg.Max, Credit: a.cfg.Max, Perform: a.perform,
		Drain: a.cfg.Drain + a.cfg.Grace + pipeWait, Logger: a.cfg.Logger})
	var e *api.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e) && e.Code == "session_fenced":
		return fmt.Errorf("execagent: another process runs as %s: %w", a.cfg.Manifest.AgentID, err)
	}
	return fmt.Errorf("execagent: %w", err)
}

// Abort stops the commands under way without waiting for them to finish; their
// attempts fail. It is for an end that cannot wait for Drain.
func (a *Agent) Abort() { a.stop(errStopped) }

// perform runs the command for one task. ctx ends when the task is over or
// somebody else's.
func (a *Agent) perform(ctx context.Context, t *client.Task) api.Settlement {
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(a.abort, func() { stop(errStopped) })()
	if a.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeoutCause(run, a.cfg.Timeout, fmt.Errorf("timed out after %v", a.cfg.Timeout))
		defer cancel()
	}
	return a.command(run, t.Lease)
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
