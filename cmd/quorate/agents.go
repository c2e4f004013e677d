package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client/execagent"
)

type agentCmd struct {
	Run        agentRunCmd  `cmd:"" help:"Run a command as an agent: task JSON on stdin, result on stdout, exit code = verdict."`
	List       agentListCmd `cmd:"" help:"List agents."`
	Get        agentGetCmd  `cmd:"" help:"Show an agent."`
	Deregister agentDropCmd `cmd:"" help:"Remove an agent."`
}

type agentRunCmd struct {
	apiFlags   `embed:""`
	ID         string        `required:"" help:"Agent ID."`
	Can        []string      `required:"" placeholder:"ACTION:TARGET" help:"What it can do; * as target stands for all."`
	Max        int           `default:"1" help:"Tasks at a time."`
	Timeout    time.Duration `help:"Of one task."`
	Grace      time.Duration `default:"5s" help:"Between SIGTERM and SIGKILL of a stopped command."`
	Drain      time.Duration `default:"1m" help:"How long commands may finish after the first signal; a second one stops them at once."`
	Deregister bool          `help:"Deregister at the end."`
	Command    []string      `arg:"" passthrough:"" help:"The command, behind --."`
	logFlags   `embed:""`
}

// Run runs the agent until a signal; then it finishes what it holds.
func (c *agentRunCmd) Run(ctx context.Context, con console) error {
	c.Patience = 0 // an agent waits for its cluster
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	m := api.Manifest{AgentID: c.ID}
	for _, s := range c.Can {
		action, target, err := api.SplitCapability(s)
		if err != nil {
			return usageError{err}
		}
		m.Capabilities = append(m.Capabilities, api.Capability{Action: action, Target: target})
	}
	if len(c.Command) > 0 && c.Command[0] == "--" {
		c.Command = c.Command[1:]
	}
	a, err := execagent.New(execagent.Config{Client: cl, Manifest: m, Command: c.Command, Max: c.Max, Timeout: c.Timeout,
		Grace: c.Grace, Drain: c.Drain, Logger: c.logger(con.err)})
	if err != nil {
		return usageError{err}
	}
	over, end := context.WithCancel(context.Background())
	defer end()
	context.AfterFunc(ctx, func() { // the first signal has come; the second
		again, stop := signal.NotifyContext(over, os.Interrupt, syscall.SIGTERM)
		defer stop()
		if <-again.Done(); over.Err() == nil {
			a.Abort()
		}
	})
	err = a.Run(ctx)
	if c.Deregister {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if derr := cl.Deregister(end, c.ID); err == nil {
			err = derr
		}
	}
	return err
}

type agentListCmd struct {
	apiFlags `embed:""`
	Can      string `placeholder:"ACTION:TARGET" help:"Only agents able to do this, best first."`
	State    string `help:"Only this state."`
	Limit    int    `default:"100" help:"1 to 1000."`
	Cursor   string `help:"Go on from the page before."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

// Run lists agents.
func (c *agentListCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	f := api.AgentFilter{State: c.State, Limit: c.Limit, Cursor: c.Cursor}
	if c.Can != "" {
		if f.Action, f.Target, err = api.SplitCapability(c.Can); err != nil {
			return usageError{err}
		}
	}
	p, err := cl.Agents(ctx, f)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, p)
	}
	var rows [][]string
	for _, a := range p.Agents {
		rows = append(rows, []string{a.AgentID, a.State, capabilities(a), fmt.Sprintf("%.2f", a.Success), fmt.Sprintf("%.2f", a.Load), dash(a.NodeID), ago(a.LastHeartbeat), short(a.StateReason, 40)})
	}
	table(con.out, "AGENT STATE CAPABILITIES SUCCESS LOAD NODE HEARD REASON", rows)
	if p.Recommended != "" {
		fmt.Fprintf(con.out, "recommended: %s\n", p.Recommended)
	}
	return nil
}

func capabilities(a api.Agent) string {
	var caps []string
	for _, c := range a.Capabilities {
		caps = append(caps, c.Action+":"+c.Target)
	}
	return short(strings.Join(caps, ","), 60)
}

type agentGetCmd struct {
	apiFlags `embed:""`
	ID       string `arg:"" help:"Agent ID."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

// Run shows an agent.
func (c *agentGetCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	a, err := cl.Agent(ctx, c.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, a)
	}
	fmt.Fprintf(con.out, "agent         %s\nstate         %s  %s\ncapabilities  %s\nsuccess       %.2f (%d completed, %d failed)\nnode          %s\nheard         %s ago\n",
		a.AgentID, a.State, a.StateReason, capabilities(a), a.Success, a.Completed, a.Failed, dash(a.NodeID), ago(a.LastHeartbeat))
	return nil
}

type agentDropCmd struct {
	apiFlags `embed:""`
	ID       string `arg:"" help:"Agent ID."`
}

// Run removes an agent.
func (c *agentDropCmd) Run(ctx context.Context) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.Deregister(ctx, c.ID)
}
