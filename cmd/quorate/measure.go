package main

import (
	"context"
	"os"
	"time"

	"github.com/quorate/quorate/bench"
	"github.com/quorate/quorate/chaos"
	"github.com/quorate/quorate/chaos/sim"
)

type benchCmd struct {
	Lifecycle     benchLifecycleCmd     `cmd:"" help:"Lifecycles a second on three node processes."`
	Curve         benchCurveCmd         `cmd:"" help:"Latency of lifecycles at several rates."`
	Raftstore     benchRaftstoreCmd     `cmd:"" help:"Proposals a second through replication alone, in three processes."`
	Idle          benchIdleCmd          `cmd:"" help:"CPU and memory of three node processes with nothing to do."`
	Skew          benchSkewCmd          `cmd:"" help:"What it costs that all work comes in at one node."`
	Actions       benchActionsCmd       `cmd:"" help:"Exactly-once actions a second: intent, go, confirmation."`
	Submits       benchSubmitsCmd       `cmd:"" help:"Submits a second while no agent is there: single requests or batches, by size of the input."`
	Suite         benchSuiteCmd         `cmd:"" help:"Workloads in turn, several rounds: guarantee levels, rates, payloads, agents, live tasks, backlog, failover."`
	Compare       benchCompareCmd       `cmd:"" help:"Compare two result files of suite."`
	RaftstoreNode benchRaftstoreNodeCmd `cmd:"" hidden:""`
	Sched         benchSchedCmd         `cmd:"" help:"The scheduler's queues beside channels, a mutex and goroutines, in this process."`
}

type benchCurveCmd struct {
	Rates    []int         `default:"1000,2000,4000,8000,16000" help:"Tasks a second."`
	Duration time.Duration `default:"10s" help:"How long to measure each."`
	Payload  int           `default:"128" help:"Bytes of input."`
	Plot     string        `placeholder:"FILE" help:"File for a plot, .svg or .png."`
}

// Run measures.
func (c *benchCurveCmd) Run(ctx context.Context, con console) error {
	return bench.Curve(ctx, bench.CurveConfig{Lifecycle: bench.LifecycleConfig{Duration: c.Duration, PayloadBytes: c.Payload}, Rates: c.Rates, Plot: c.Plot, Out: con.out})
}

type benchSuiteCmd struct {
	Workloads []string      `help:"levels, rates, single, submits, payload, agents, audit, via, live, backlog, failover; default: all."`
	Rounds    int           `default:"3" help:"Turns of each case; medians and spread are printed."`
	Duration  time.Duration `default:"5s" help:"How long to measure each, each time."`
	Backlog   int           `default:"1000000" help:"Tasks of the backlog."`
	Live      []int         `default:"0,100000,1000000" help:"Tasks that wait meanwhile."`
	Out       string        `placeholder:"DIR" help:"Directory for results.jsonl and plots (SVG and PNG)."`
	JSON      bool          `name:"json" help:"Print one JSON object a line."`
}

// Run measures.
func (c *benchSuiteCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Suite(ctx, bench.SuiteConfig{Workloads: c.Workloads, Rounds: c.Rounds, Duration: c.Duration, Backlog: c.Backlog, Live: c.Live,
		Dir: c.Out, JSON: c.JSON, Out: con.out, Progress: con.err})
	return err
}

type benchCompareCmd struct {
	Before string `arg:"" help:"results.jsonl of the earlier run."`
	After  string `arg:"" help:"results.jsonl of the later run."`
}

// Run compares.
func (c *benchCompareCmd) Run(con console) error { return bench.Compare(con.out, c.Before, c.After) }

type benchIdleCmd struct {
	Preset   string        `enum:",edge" default:"" help:"Preset of the nodes: edge."`
	Shards   int           `help:"Task shards; default 4, 1 with a preset."`
	Agents   int           `help:"Agents connected over streams, with nothing to do."`
	Duration time.Duration `default:"20s" help:"How long to measure."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run measures.
func (c *benchIdleCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Idle(ctx, bench.IdleConfig{Preset: c.Preset, Shards: c.Shards, Agents: c.Agents, Duration: c.Duration, JSON: c.JSON, Out: con.out})
	return err
}

type benchSubmitsCmd struct {
	Duration    time.Duration `default:"5s" help:"How long to measure."`
	WarmUp      time.Duration `default:"2s" help:"Load before anything counts."`
	Connections int           `default:"64" help:"Callers, each with one request under way."`
	Batch       int           `default:"1" help:"Tasks a request."`
	Payload     int           `default:"128" help:"Bytes of input."`
	Via         string        `default:"http" enum:"http,stream" help:"How the nodes are spoken to: http or stream."`
	Profile     string        `placeholder:"DIR" help:"Directory for CPU profiles of the nodes."`
	JSON        bool          `name:"json" help:"Print JSON."`
}

// Run measures.
func (c *benchSubmitsCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Submits(ctx, bench.SubmitsConfig{Duration: c.Duration, WarmUp: c.WarmUp, Connections: c.Connections, Batch: c.Batch,
		PayloadBytes: c.Payload, Via: c.Via, Profile: c.Profile, JSON: c.JSON, Out: con.out})
	return err
}

type benchSchedCmd struct {
	Operations int  `default:"2000000" help:"Handles or tasks of each metric."`
	Rounds     int  `default:"5" help:"Rounds, in turns; medians are printed."`
	JSON       bool `name:"json" help:"Print JSON."`
}

// Run measures.
func (c *benchSchedCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Sched(ctx, bench.SchedConfig{Operations: c.Operations, Rounds: c.Rounds, JSON: c.JSON, Out: con.out})
	return err
}

type benchRaftstoreCmd struct {
	Duration time.Duration `default:"10s" help:"How long to measure each."`
	WarmUp   time.Duration `default:"2s" help:"Load before anything counts."`
	Shards   []int         `default:"1,48" help:"Numbers of shards."`
	Payload  int           `default:"128" help:"Bytes of a proposal."`
	InFlight int           `default:"12288" help:"Proposals under way, over all shards."`
	Profile  string        `help:"Directory for CPU profiles of the processes."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run measures.
func (c *benchRaftstoreCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Raftstore(ctx, bench.RaftstoreConfig{Shards: c.Shards, PayloadBytes: c.Payload, InFlight: c.InFlight,
		Duration: c.Duration, WarmUp: c.WarmUp, Profile: c.Profile, JSON: c.JSON, Out: con.out})
	return err
}

type benchSkewCmd struct {
	Turns    int           `default:"3" help:"How often each kind of load is measured."`
	Duration time.Duration `default:"3s" help:"How long each measurement lasts."`
	Rate     int           `help:"Tasks a second at which waits are measured; 0: 40 % of the balanced throughput."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run measures.
func (c *benchSkewCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Skew(ctx, bench.SkewConfig{Turns: c.Turns, Duration: c.Duration, Rate: c.Rate, JSON: c.JSON, Out: con.out})
	return err
}

type benchActionsCmd struct {
	Duration time.Duration `default:"10s" help:"How long to measure."`
	Rate     int           `help:"Actions a second, open loop; 0 saturates."`
	Batch    int           `default:"128" help:"Actions a request, at most."`
	Agents   int           `help:"Agents that declare at once; 0: 6 at a rate, 12 without."`
	Profile  string        `placeholder:"DIR" help:"Directory for CPU profiles of the nodes."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run measures.
func (c *benchActionsCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Actions(ctx, bench.ActionsConfig{Duration: c.Duration, Rate: c.Rate, Batch: c.Batch, Agents: c.Agents, Profile: c.Profile, JSON: c.JSON, Out: con.out})
	return err
}

type benchRaftstoreNodeCmd struct {
	Args []string `arg:""`
}

// Run is one of the processes that are measured.
func (c *benchRaftstoreNodeCmd) Run(ctx context.Context, con console) error {
	return bench.RaftstoreNode(ctx, c.Args, os.Stdin, con.out)
}

type benchLifecycleCmd struct {
	Duration time.Duration `default:"10s" help:"How long to measure."`
	Rate     int           `help:"Tasks a second, open loop; 0 saturates."`
	Payload  int           `default:"128" help:"Bytes of input."`
	Batch    int           `default:"256" help:"Tasks a request."`
	Agents   int           `help:"Agents, over all nodes; 0 is two a node."`
	Level    string        `default:"at_least_once" help:"Guarantee level of the tasks."`
	Shards   int           `help:"Task shards; 0: what nodes take by themselves."`
	Live     int           `help:"Tasks that nobody can do, waiting meanwhile."`
	Backlog  int           `help:"Submit so many before the first agent comes, then measure how fast they are worked off."`
	Via      string        `default:"stream" enum:"stream,http" help:"How the nodes are spoken to: stream or http."`
	Kill     bool          `help:"SIGKILL a leader half-way."`
	Profile  string        `placeholder:"DIR" help:"Directory for CPU profiles of the nodes."`
	Plot     string        `placeholder:"FILE" help:"File for a plot of completions over time, .svg or .png."`
	JSON     bool          `name:"json" help:"Print JSON."`
}

// Run measures.
func (c *benchLifecycleCmd) Run(ctx context.Context, con console) error {
	_, err := bench.Lifecycle(ctx, bench.LifecycleConfig{Duration: c.Duration, Rate: c.Rate, PayloadBytes: c.Payload, Batch: c.Batch, Agents: c.Agents, Shards: c.Shards, Guarantee: c.Level, Live: c.Live, Backlog: c.Backlog,
		Profile: c.Profile, Via: c.Via, Kill: c.Kill, Plot: c.Plot, JSON: c.JSON, Out: con.out})
	return err
}

type chaosCmd struct {
	Demo chaosDemoCmd `cmd:"" help:"Give a three-node cluster real work and kill a leader half-way."`
	Run  chaosRunCmd  `cmd:"" help:"Kill and restart nodes under load, and check what is left."`
	Sim  chaosSimCmd  `cmd:"" help:"Simulate clusters from seeds, with every kind of fault, and check them after each event."`
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

type chaosSimCmd struct {
	Seed  uint64 `default:"1" help:"The first seed."`
	Seeds int    `default:"1" help:"How many seeds, one after the other."`
	Steps int    `help:"Of simulated time a seed; 0 is 2000."`
	Plant string `help:"Make this mistake on purpose, to see it found."`
	Trace bool   `help:"Print what happens."`
}

// Run simulates.
func (c *chaosSimCmd) Run(ctx context.Context, con console) error {
	return sim.Search(ctx, sim.SearchConfig{Seed: c.Seed, Seeds: c.Seeds, Steps: c.Steps, Plant: sim.Plant(c.Plant), Trace: c.Trace, Out: con.out})
}

type chaosWorkCmd struct {
	Kind string `arg:"" enum:"vet,lint"`
}

// Run does one task of the demonstration.
func (c *chaosWorkCmd) Run(ctx context.Context, con console) error {
	return chaos.Work(ctx, c.Kind, os.Stdin, con.out)
}
