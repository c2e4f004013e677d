package main

import (
	"context"
	"os"
	"time"

	"github.com/quorate/quorate/bench"
	"github.com/quorate/quorate/chaos"
)

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
