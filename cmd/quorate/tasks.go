package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

type submitCmd struct {
	apiFlags    `embed:""`
	What        string        `arg:"" optional:"" name:"action:target" help:"The capability the task needs."`
	Input       string        `help:"JSON, @FILE, or - for standard input."`
	Description string        `help:"For people."`
	Guarantee   string        `help:"best_effort, at_least_once (default) or exactly_once."`
	Key         string        `help:"Idempotency key."`
	Priority    string        `help:"low, normal (default), high or critical."`
	After       []string      `help:"Task IDs that must complete first."`
	Deadline    time.Duration `help:"Give up after this long."`
	Delay       time.Duration `help:"Not before this long from now."`
	Lease       time.Duration `help:"How long the agent may stay silent."`
	MaxRetries  *int          `help:"Attempts beyond the first."`
	Fleet       string        `help:"Tenant."`
	Session     string        `help:"Session ID."`
	termFlags   `embed:""`
	Skip        bool   `help:"Skip the task when one it comes after fails, instead of failing it."`
	File        string `placeholder:"TASKS.jsonl" help:"Submit every line of a file (- for standard input); the other options stand for what a line does not say."`
	Wait        bool   `help:"Wait until the task has ended, or all of the file; exit 1 unless it completed."`
	JSON        bool   `name:"json" help:"Print JSON."`
}

// Run submits one task or a file of them.
func (c *submitCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if c.File != "" {
		return c.file(ctx, con, cl)
	}
	spec, err := c.spec(con.in)
	if err != nil {
		return usageError{err}
	}
	v, err := cl.Submit(ctx, spec)
	if err != nil {
		return err
	}
	if !c.Wait {
		if c.JSON {
			return printJSON(con.out, v)
		}
		fmt.Fprintln(con.out, v.TaskID)
		return nil
	}
	t, err := cl.Wait(ctx, v.TaskID)
	if err != nil {
		return err
	}
	if err := showTask(con.out, t, c.JSON); err != nil {
		return err
	}
	if t.State != "completed" {
		return api.Errorf(409, 5, "not_completed", api.RetryNo, "task %s ended %s: %s", t.TaskID, t.State, t.LastError)
	}
	return nil
}

func (c *submitCmd) spec(in io.Reader) (api.TaskSpec, error) {
	action, target, err := api.SplitCapability(c.What)
	if err != nil {
		return api.TaskSpec{}, err
	}
	spec, err := c.options(in)
	spec.Action, spec.Target = action, target
	return spec, err
}

// options is the task without its capability.
func (c *submitCmd) options(in io.Reader) (api.TaskSpec, error) {
	spec := api.TaskSpec{Description: c.Description, Guarantee: c.Guarantee, IdempotencyKey: c.Key,
		Priority: c.Priority, After: c.After, FleetID: c.Fleet, SessionID: c.Session, LeaseSeconds: c.Lease.Seconds()}
	var err error
	if spec.Input, err = readInput(c.Input, in); err != nil {
		return spec, err
	}
	now := time.Now()
	if c.Deadline > 0 {
		t := now.Add(c.Deadline)
		spec.Deadline = &t
	}
	if c.Delay > 0 {
		t := now.Add(c.Delay)
		spec.NotBefore = &t
	}
	if c.MaxRetries != nil {
		spec.RetryPolicy = &api.RetryPolicy{MaxRetries: c.MaxRetries}
	}
	if c.Skip {
		spec.OnDependencyFailure = "skip"
	}
	return spec, c.terms(&spec)
}

// readInput takes JSON as given, from a file, or from standard input.
func readInput(s string, in io.Reader) (json.RawMessage, error) {
	b := []byte(s)
	var err error
	switch {
	case s == "":
		return nil, nil
	case s == "-":
		b, err = io.ReadAll(in)
	case strings.HasPrefix(s, "@"):
		b, err = os.ReadFile(s[1:])
	}
	if err != nil {
		return nil, err
	}
	if b = bytes.TrimSpace(b); !json.Valid(b) {
		return nil, fmt.Errorf("--input is not JSON: %.60s", b)
	}
	return b, nil
}

type taskCmd struct {
	Get      taskGetCmd      `cmd:"" help:"Show a task."`
	List     taskListCmd     `cmd:"" help:"List tasks."`
	Cancel   taskCancelCmd   `cmd:"" help:"End a task."`
	Retry    taskRetryCmd    `cmd:"" help:"Make a failed, cancelled or timed out task ready again."`
	Watch    taskWatchCmd    `cmd:"" help:"Follow a task until it has ended."`
	Why      taskWhyCmd      `cmd:"" help:"Say where a task stands and what it waits for."`
	Approve  taskApproveCmd  `cmd:"" help:"Consent to a task that awaits approval."`
	Reject   taskRejectCmd   `cmd:"" help:"End a task that awaits approval."`
	Resolve  taskResolveCmd  `cmd:"" help:"Settle a task in doubt, or one whose rollback failed."`
	Rollback taskRollbackCmd `cmd:"" help:"Have a task's effect undone, or a whole session's."`
}

// oneTask is what commands about one task share.
type oneTask struct {
	apiFlags `embed:""`
	ID       string `arg:"" help:"Task ID."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

func (c *oneTask) show(con console, op func(*client.Client) (api.Task, error)) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	t, err := op(cl)
	if err != nil {
		return err
	}
	return showTask(con.out, t, c.JSON)
}

type taskGetCmd struct {
	oneTask `embed:""`
	Wait    time.Duration `help:"Wait up to this long for its end."`
}

// Run shows a task.
func (c *taskGetCmd) Run(ctx context.Context, con console) error {
	return c.show(con, func(cl *client.Client) (api.Task, error) { return cl.Task(ctx, c.ID, c.Wait) })
}

type taskCancelCmd struct {
	oneTask `embed:""`
	Reason  string `help:"Why."`
}

// Run cancels a task.
func (c *taskCancelCmd) Run(ctx context.Context, con console) error {
	return c.show(con, func(cl *client.Client) (api.Task, error) { return cl.Cancel(ctx, c.ID, c.Reason) })
}

type taskRetryCmd struct {
	oneTask `embed:""`
}

// Run retries a task.
func (c *taskRetryCmd) Run(ctx context.Context, con console) error {
	return c.show(con, func(cl *client.Client) (api.Task, error) { return cl.Retry(ctx, c.ID) })
}

type taskWatchCmd struct {
	oneTask `embed:""`
}

// Run prints a task each time its state is seen to have changed.
func (c *taskWatchCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	last := ""
	for {
		t, err := cl.Task(ctx, c.ID, time.Second)
		if err != nil {
			return err
		}
		if line := fmt.Sprintf("%s epoch %d attempts %d agent %s %s", t.State, t.Epoch, t.Attempts, dash(t.AgentID), short(t.LastError, 80)); line != last {
			last = line
			if c.JSON {
				err = json.NewEncoder(con.out).Encode(t)
			} else {
				_, err = fmt.Fprintf(con.out, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
			}
			if err != nil {
				return err
			}
		}
		if t.CompletedAt != nil {
			return nil
		}
	}
}

type taskWhyCmd struct {
	oneTask `embed:""`
}

// Run explains a task.
func (c *taskWhyCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	w, err := cl.Why(ctx, c.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, w)
	}
	fmt.Fprintf(con.out, "%s: %s\n", w.State, w.Summary)
	for _, d := range w.Details {
		fmt.Fprintln(con.out, " ", d)
	}
	return nil
}

type taskListCmd struct {
	apiFlags `embed:""`
	State    []string `help:"Only these states."`
	Fleet    string   `help:"Only this fleet."`
	Action   string   `env:"-" help:"Only this action."` // an exec agent's command has QUORATE_ACTION set
	Target   string   `env:"-" help:"Only this target."`
	Agent    string   `help:"Only of this agent."`
	Session  string   `help:"Only of this session."`
	Failed   bool     `name:"rollback-failed" help:"Only those whose rollback failed and that nobody has settled."`
	Limit    int      `default:"100" help:"1 to 1000."`
	Cursor   string   `help:"Go on from the page before."`
	JSON     bool     `name:"json" help:"Print JSON."`
}

// Run lists tasks.
func (c *taskListCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	p, err := cl.Tasks(ctx, api.TaskFilter{States: c.State, FleetID: c.Fleet, Action: c.Action, Target: c.Target, AgentID: c.Agent,
		SessionID: c.Session, RollbackFailed: c.Failed, Limit: c.Limit, Cursor: c.Cursor})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, p)
	}
	var rows [][]string
	for _, t := range p.Tasks {
		rows = append(rows, []string{t.TaskID, t.State, t.Action + ":" + t.Target, t.Priority, strconv.Itoa(t.Attempts), dash(t.AgentID), ago(&t.CreatedAt), short(t.LastError, 50)})
	}
	table(con.out, "TASK STATE CAPABILITY PRIORITY ATTEMPTS AGENT AGE ERROR", rows)
	if p.NextCursor != "" {
		fmt.Fprintf(con.err, "more: --cursor=%s\n", p.NextCursor)
	}
	return nil
}

func showTask(w io.Writer, t api.Task, asJSON bool) error {
	if asJSON {
		return printJSON(w, t)
	}
	rows := [][]string{{"task", t.TaskID}, {"state", t.State + "  (L5 " + t.L5 + ", L7 " + t.L7 + ")"}, {"capability", t.Action + ":" + t.Target},
		{"priority", t.Priority}, {"guarantee", t.Guarantee}, {"attempts", strconv.Itoa(t.Attempts)}, {"digest", t.RequestDigest}, {"epoch", strconv.FormatUint(t.Epoch, 10)},
		{"agent", dash(t.AgentID)}, {"created", t.CreatedAt.Format(time.RFC3339)}}
	if t.CompletedAt != nil {
		rows = append(rows, []string{"ended", t.CompletedAt.Format(time.RFC3339)})
	}
	for _, f := range []struct{ name, value string }{{"error", t.LastError}, {"input", string(t.Input)}, {"result", string(t.Result)}} {
		if f.value != "" {
			rows = append(rows, []string{f.name, short(f.value, 200)})
		}
	}
	for _, r := range rows {
		fmt.Fprintf(w, "%-11s %s\n", r[0], r[1])
	}
	return nil
}
