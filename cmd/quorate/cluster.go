package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/bench"
	"github.com/quorate/quorate/chaos"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
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
	Deregister bool          `help:"Deregister at the end."`
	Command    []string      `arg:"" passthrough:"" help:"The command, behind --."`
	logFlags   `embed:""`
}

// Run runs the agent until a signal; then it finishes what it holds.
func (c *agentRunCmd) Run(ctx context.Context, con console) error {
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
	a, err := execagent.New(execagent.Config{Client: cl, Manifest: m, Command: c.Command, Max: c.Max, Timeout: c.Timeout, Grace: c.Grace, Logger: c.logger(con.err)})
	if err != nil {
		return usageError{err}
	}
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

type nodeCmd struct {
	List    nodeListCmd `cmd:"" help:"List the nodes."`
	Add     laterCmd    `cmd:"" help:"(Not in this version.)"`
	Remove  laterCmd    `cmd:"" help:"(Not in this version.)"`
	Promote laterCmd    `cmd:"" help:"(Not in this version.)"`
	Drain   laterCmd    `cmd:"" help:"(Not in this version.)"`
}

type clusterView struct {
	apiFlags `embed:""`
	JSON     bool `name:"json" help:"Print JSON."`
}

func (c *clusterView) read(ctx context.Context) (api.Cluster, *client.Client, error) {
	cl, err := c.client()
	if err != nil {
		return api.Cluster{}, nil, err
	}
	v, err := cl.Cluster(ctx)
	return v, cl, err
}

type nodeListCmd struct {
	clusterView `embed:""`
}

// Run lists nodes.
func (c *nodeListCmd) Run(ctx context.Context, con console) error {
	v, cl, err := c.read(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if c.JSON {
		return printJSON(con.out, map[string]any{"nodes": v.Nodes})
	}
	printNodes(con, v.Nodes)
	return nil
}

func printNodes(con console, nodes []api.NodeStatus) {
	var rows [][]string
	for _, n := range nodes {
		state := paint(con.out, green, n.State)
		if n.State != "alive" {
			state = paint(con.out, red, n.State)
		}
		rows = append(rows, []string{n.NodeID, state, dash(n.Role), strconv.Itoa(n.Leads), strconv.Itoa(n.Agents), dash(n.APIAddr), dash(n.PeerAddr), dash(n.GossipAddr), n.Version})
	}
	table(con.out, "NODE STATE ROLE LEADS AGENTS API PEER GOSSIP VERSION", rows)
}

type statusCmd struct {
	clusterView `embed:""`
}

// Run shows the cluster.
func (c *statusCmd) Run(ctx context.Context, con console) error {
	v, cl, err := c.read(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if c.JSON {
		return printJSON(con.out, v)
	}
	w := con.out
	fmt.Fprintf(w, "cluster %s  %s  %s (answered by %s)\n", v.Cluster, v.ClusterID, v.Phase, v.NodeID)
	if v.Waiting != "" {
		fmt.Fprintf(w, "waiting: %s\n", v.Waiting)
	}
	fmt.Fprintln(w)
	printNodes(con, v.Nodes)
	if len(v.Shards) > 0 {
		var rows [][]string
		for _, s := range v.Shards {
			leader := dash(s.Leader)
			if s.Leader == "" {
				leader = paint(w, red, "none")
			}
			rows = append(rows, []string{strconv.Itoa(int(s.Shard)), s.Kind, leader, strconv.FormatUint(s.Term, 10), strconv.FormatUint(s.Applied, 10),
				strconv.FormatUint(s.Checkpoint, 10), strconv.FormatUint(s.LedgerSize, 10), dash(strings.Join(s.Lagging, ","))})
		}
		fmt.Fprintln(w)
		table(w, "SHARD KIND LEADER TERM APPLIED CHECKPOINT RECORDS LAGGING", rows)
	}
	if len(v.Queue) > 0 {
		var rows [][]string
		for _, q := range v.Queue {
			rows = append(rows, []string{q.Capability, strconv.Itoa(q.Queued), strconv.Itoa(q.Leased), strconv.Itoa(q.Delayed), fmt.Sprintf("%.1fs", q.OldestSeconds), strconv.Itoa(q.Workers)})
		}
		fmt.Fprintln(w)
		table(w, "CAPABILITY QUEUED LEASED DELAYED OLDEST WORKERS", rows)
	}
	fmt.Fprintf(w, "\ntasks   %s\nagents  %s\n", counts(v.Tasks), counts(v.Agents))
	return nil
}

func counts(m map[string]int) string {
	var parts []string
	for k, n := range m {
		parts = append(parts, fmt.Sprintf("%d %s", n, k))
	}
	sort.Strings(parts)
	return dash(strings.Join(parts, ", "))
}

type doctorCmd struct {
	clusterView `embed:""`
}

// Run shows the health report; an unhealthy cluster is exit 1.
func (c *doctorCmd) Run(ctx context.Context, con console) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	d, err := cl.Doctor(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := printJSON(con.out, d); err != nil {
			return err
		}
	} else {
		colours := map[string]int{"ok": green, "warn": yellow, "fail": red, "off": grey}
		for _, x := range d.Checks {
			fmt.Fprintf(con.out, "L%d %-13s %s  %-13s %s\n", x.Layer, api.LayerName(x.Layer), paint(con.out, colours[x.Status], fmt.Sprintf("%-4s", x.Status)), x.Name, x.Detail)
			if x.Hint != "" {
				fmt.Fprintf(con.out, "   %-13s       → %s\n", "", x.Hint)
			}
		}
	}
	if !d.Healthy {
		return api.Errorf(503, 5, "unhealthy", api.RetryLater, "node %s reports a broken layer", d.NodeID)
	}
	return nil
}

type benchCmd struct {
	Lifecycle benchLifecycleCmd `cmd:"" help:"Lifecycles a second on three node processes."`
}

type benchLifecycleCmd struct {
	Duration time.Duration `default:"10s" help:"How long to measure."`
	Rate     int           `help:"Tasks a second, open loop; 0 saturates."`
	Payload  int           `default:"128" help:"Bytes of input."`
	Batch    int           `default:"256" help:"Tasks a request."`
	Kill     bool          `help:"SIGKILL a leader half-way."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run measures.
func (c *benchLifecycleCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Lifecycle(ctx, bench.LifecycleConfig{Duration: c.Duration, Rate: c.Rate, PayloadBytes: c.Payload, Batch: c.Batch, Kill: c.Kill, JSON: c.JSON, Out: con.out})
	return err
}

type chaosCmd struct {
	Demo chaosDemoCmd `cmd:"" help:"Give a three-node cluster real work and kill a leader half-way."`
	Run  chaosRunCmd  `cmd:"" help:"Kill and restart nodes under load, and check what is left."`
	Work chaosWorkCmd `cmd:"" hidden:""`
}

type chaosDemoCmd struct {
	Limit int  `help:"Packages to work through; 0 is about a minute."`
	Keep  bool `help:"Leave the cluster running."`
	JSON  bool `name:"json" help:"Print JSON."`
}

// Run runs the demonstration.
func (c *chaosDemoCmd) Run(ctx context.Context, con console) error {
	_, err := chaos.Demo(ctx, chaos.DemoConfig{Limit: c.Limit, Keep: c.Keep, JSON: c.JSON, Out: con.out})
	return err
}

type chaosRunCmd struct {
	Seed     uint64        `help:"Of the faults; 0 picks one."`
	Duration time.Duration `default:"30s" help:"How long faults go on."`
	Keep     bool          `help:"Keep data and logs."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run breaks a cluster and checks it.
func (c *chaosRunCmd) Run(ctx context.Context, con console) error {
	_, err := chaos.Run(ctx, chaos.RunConfig{Seed: c.Seed, Duration: c.Duration, Keep: c.Keep, JSON: c.JSON, Out: con.out})
	return err
}

type chaosWorkCmd struct {
	Kind string `arg:"" enum:"vet,lint"`
}

// Run does one task of the demonstration.
func (c *chaosWorkCmd) Run(ctx context.Context, con console) error {
	return chaos.Work(ctx, c.Kind, os.Stdin, con.out)
}
