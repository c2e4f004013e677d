package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
	"github.com/quorate/quorate/node/client/execagent"
)

// termFlags are what submit and action run can ask beside the work itself.
type termFlags struct {
	Verify    string   `placeholder:"ACTION[:TARGET]|JSON" help:"The task that finds out whether the effect happened."`
	Rollback  string   `placeholder:"ACTION[:TARGET]|JSON" help:"The task that undoes the effect."`
	OnFailure string   `enum:"nothing,task,session," default:"" help:"What to roll back when the last attempt failed: nothing (default), task or session."`
	Approvers int      `help:"How many people must approve first."`
	AllowedBy []string `help:"Who may approve; default anyone but the submitter and the agent."`
	Snapshot  string   `help:"The target's state before, JSON or @FILE: for the rollback."`
}

// terms fills what the flags say in.
func (c *termFlags) terms(s *api.TaskSpec) (err error) {
	if s.Verify, err = hookFlag("--verify", c.Verify, ""); err != nil {
		return err
	}
	if s.Rollback, err = hookFlag("--rollback", c.Rollback, c.OnFailure); err != nil {
		return err
	}
	if c.Approvers > 0 || len(c.AllowedBy) > 0 {
		if s.Approval, err = json.Marshal(api.Approval{Approvers: c.Approvers, Allowed: c.AllowedBy}); err != nil {
			return err
		}
	}
	s.Snapshot, err = readInput(c.Snapshot, strings.NewReader(""))
	return err
}

// hookFlag reads ACTION, ACTION:TARGET or the JSON of a hook.
func hookFlag(name, v, onFailure string) (json.RawMessage, error) {
	switch {
	case v == "":
		return nil, nil
	case strings.HasPrefix(v, "{"):
		if !json.Valid([]byte(v)) {
			return nil, fmt.Errorf("%s is not JSON: %.60s", name, v)
		}
		return json.RawMessage(v), nil
	}
	action, target, _ := strings.Cut(v, ":")
	return json.Marshal(api.Hook{Action: action, Target: target, OnFailure: onFailure})
}

type actionCmd struct {
	Run actionRunCmd `cmd:"" help:"Declare an intent, run a command once it is answered with go, and confirm or fail it."`
}

type actionRunCmd struct {
	apiFlags  `embed:""`
	Verb      string        `required:"" placeholder:"ACTION:TARGET" help:"What is done, to what."`
	Key       string        `required:"" help:"Idempotency key: the name of the effect."`
	Agent     string        `help:"Who performs it; default user@host."`
	Input     string        `help:"JSON, or @FILE: what it is done with."`
	Guarantee string        `default:"exactly_once" help:"exactly_once (default), at_least_once or best_effort."`
	Wait      time.Duration `help:"How long to wait for approval."`
	Lease     time.Duration `default:"60s" help:"How long the wrapper may be silent before the action is in doubt."`
	Fleet     string        `help:"Tenant."`
	Session   string        `help:"Session ID."`
	termFlags `embed:""`
	Command   []string `arg:"" passthrough:"" help:"The command, behind --. It finds QUORATE_EPOCH, QUORATE_TASK_ID and QUORATE_IDEMPOTENCY_KEY in its environment, and its output is the result. Exit code 0 means that it happened, any other that it did not (the action may then be tried again): a command that can't tell ends itself with a signal (kill -9 $$$$), which leaves an exactly_once action unknown."`
	logFlags  `embed:""`
}

// Run runs one action and prints its result.
func (c *actionRunCmd) Run(ctx context.Context, con console) error {
	action, target, err := api.SplitCapability(c.Verb)
	if err != nil {
		return usageError{err}
	}
	a := api.ActionRequest{AgentID: c.Agent, TaskSpec: api.TaskSpec{Action: action, Target: target, IdempotencyKey: c.Key, Guarantee: c.Guarantee,
		FleetID: c.Fleet, SessionID: c.Session, LeaseSeconds: c.Lease.Seconds()}}
	if a.AgentID == "" {
		a.AgentID = whoami() + "@" + hostname()
	}
	if a.Input, err = readInput(c.Input, con.in); err == nil {
		err = c.terms(&a.TaskSpec)
	}
	if err != nil {
		return usageError{err}
	}
	declare, err := c.client()
	if err != nil {
		return err
	}
	defer declare.Close()
	settle, err := c.patient(0) // until it is acknowledged
	if err != nil {
		return err
	}
	defer settle.Close()
	if len(c.Command) > 0 && c.Command[0] == "--" {
		c.Command = c.Command[1:]
	}
	if len(c.Command) == 0 {
		return usageError{errors.New("give the command behind --")}
	}
	v, err := execagent.Perform(ctx, execagent.ActionConfig{Declare: declare, Settle: settle, Action: a, Command: c.Command, Wait: c.Wait, Logger: c.logger(con.err)})
	if err != nil {
		return err
	}
	if v.Replayed {
		fmt.Fprintf(con.err, "done before: task %s\n", v.TaskID)
	}
	if len(v.Result) > 0 {
		fmt.Fprintf(con.out, "%s\n", v.Result)
	}
	return nil
}

func whoami() string {
	if a := os.Getenv("QUORATE_ACTOR"); a != "" {
		return a
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

func hostname() string {
	if h, err := os.Hostname(); err == nil {
		return h
	}
	return "localhost"
}

// byFlag is who decides.
type byFlag struct {
	By string `env:"QUORATE_ACTOR" help:"Who decides; default the user's name."`
}

func (f byFlag) name() string {
	if f.By != "" {
		return f.By
	}
	return whoami()
}

type taskApproveCmd struct {
	oneTask `embed:""`
	byFlag  `embed:""`
	Reason  string `help:"Why."`
	Digest  string `help:"The request_digest that was looked at; default the task's as it is shown now."`
}

// Run approves a task: what is approved is what the digest stands for.
func (c *taskApproveCmd) Run(ctx context.Context, con console) error {
	return c.show(con, func(cl *client.Client) (api.Task, error) {
		if c.Digest == "" {
			t, err := cl.Task(ctx, c.ID, 0)
			if err != nil {
				return t, err
			}
			c.Digest = t.RequestDigest
		}
		return cl.Approve(ctx, c.ID, api.Judgement{By: c.name(), Reason: c.Reason, Digest: c.Digest})
	})
}

type taskRejectCmd struct {
	oneTask `embed:""`
	byFlag  `embed:""`
	Reason  string `help:"Why."`
}

// Run rejects a task.
func (c *taskRejectCmd) Run(ctx context.Context, con console) error {
	return c.show(con, func(cl *client.Client) (api.Task, error) {
		return cl.Reject(ctx, c.ID, api.Judgement{By: c.name(), Reason: c.Reason})
	})
}

type taskResolveCmd struct {
	oneTask  `embed:""`
	byFlag   `embed:""`
	As       string `required:"" enum:"completed,not-done,rolled-back" help:"completed, not-done or rolled-back."`
	Evidence string `required:"" help:"What was looked at, and found."`
	Result   string `help:"JSON or @FILE: what the effect gave."`
}

// Run settles a task in doubt.
func (c *taskResolveCmd) Run(ctx context.Context, con console) error {
	result, err := readInput(c.Result, con.in)
	if err != nil {
		return usageError{err}
	}
	return c.show(con, func(cl *client.Client) (api.Task, error) {
		return cl.Resolve(ctx, c.ID, api.Resolution{As: c.As, Evidence: c.Evidence, By: c.name(), Result: result})
	})
}

type taskRollbackCmd struct {
	apiFlags `embed:""`
	byFlag   `embed:""`
	ID       string `arg:"" optional:"" help:"Task ID."`
	Session  string `help:"All of a session, the last step first."`
	Fleet    string `help:"The session's tenant."`
	Skip     bool   `name:"skip-irreversible" help:"Leave steps of the session that have no rollback as they are."`
	Reason   string `help:"Why."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

// Run has a task or a session rolled back.
func (c *taskRollbackCmd) Run(ctx context.Context, con console) error {
	if (c.ID == "") == (c.Session == "") {
		return usageError{errors.New("give a task ID or --session")}
	}
	o := oneTask{apiFlags: c.apiFlags, ID: c.ID, JSON: c.JSON}
	return o.show(con, func(cl *client.Client) (api.Task, error) {
		if c.Session != "" {
			return cl.RollbackSession(ctx, c.Session, api.SessionRollback{FleetID: c.Fleet, By: c.name(), Reason: c.Reason, SkipIrreversible: c.Skip})
		}
		return cl.Rollback(ctx, c.ID, c.name(), c.Reason)
	})
}
