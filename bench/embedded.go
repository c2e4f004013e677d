package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/node"
	"github.com/quorate/quorate/node/api"
	qclient "github.com/quorate/quorate/node/client"
)

// EmbeddedConfig says what [Embedded] measures. Zero fields take the default given.
type EmbeddedConfig struct {
	// Binary is the quorate executable of the other two nodes; default: this one.
	Binary string
	// Duration is how long is measured, after WarmUp; defaults 10 s and 2 s.
	Duration, WarmUp time.Duration
	// Window is how many tasks are under way; default 8192, at most 1 Mi.
	Window int
}

// EmbeddedReport is what a program gets that embeds the node which leads.
type EmbeddedReport struct {
	MeterReport
	// MicrosPerLifecycle is the CPU of all three processes, that with the load included, for each lifecycle.
	MicrosPerLifecycle float64
}

const (
	embeddedPayload = 128
	embeddedBatch   = 256
	embeddedAgents  = 2
	leadTries       = 16 // clusters formed until the node in this process leads: 2 of 3 don't, 16 times in a row once in 650
)

// Embedded measures lifecycles through the node in this process, without a socket: [node.Node.Submit] and
// [node.Node.WorkWith]. It is one of three nodes, leads all task shards, and the two others are processes of their own.
func Embedded(ctx context.Context, cfg EmbeddedConfig) (EmbeddedReport, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return EmbeddedReport{}, err
	}
	for range leadTries {
		r, err := embedded(ctx, cfg)
		if !errors.Is(err, errFollows) {
			return r, err
		}
	}
	return EmbeddedReport{}, fmt.Errorf("bench: in %d clusters: %w", leadTries, errFollows)
}

// checked is the configuration with its defaults, if it is within the limits.
func (c EmbeddedConfig) checked() (EmbeddedConfig, error) {
	c.Duration, c.WarmUp, c.Window = cmp.Or(c.Duration, 10*time.Second), cmp.Or(c.WarmUp, 2*time.Second), cmp.Or(c.Window, 8192)
	if c.Duration < 0 || c.Duration > maxDuration || c.WarmUp < 0 || c.WarmUp > maxDuration || c.Window < 1 || c.Window > maxWindow {
		return c, fmt.Errorf("bench: duration %v, warm-up %v, window %d: want up to %v, %v and %d", c.Duration, c.WarmUp, c.Window, maxDuration, maxDuration, maxWindow)
	}
	return c, nil
}

var errFollows = errors.New("the node in this process does not lead all task shards")

func embedded(ctx context.Context, cfg EmbeddedConfig) (r EmbeddedReport, err error) {
	cluster, err := proc.New(proc.Config{Binary: cfg.Binary, Shards: -1})
	if err != nil {
		return r, err
	}
	defer cluster.Close()
	here, others := cluster.Nodes()[0], cluster.Nodes()[1:]
	n, err := node.Open(node.Config{DataDir: here.Data, NodeID: here.ID, Cluster: cluster.Name(), APIAddr: here.API, PeerAddr: here.Peer, GossipAddr: here.Gossip,
		Join: here.Join, BootstrapExpect: len(cluster.Nodes()), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	for _, o := range others {
		if err := o.Start(); err != nil {
			return r, err
		}
	}
	if err := awaitLead(ctx, n); err != nil {
		return r, err
	}
	e := &embeddedLoad{n: n, m: NewMeter(MeterConfig{Window: cfg.Window, Batch: embeddedBatch}), of: map[string]started{}}
	var unread error
	cpu := func() time.Duration {
		sum := selfCPU()
		for _, o := range others {
			d, err := o.Process().CPU()
			unread = errors.Join(unread, err)
			sum += d
		}
		return sum
	}
	var before, after time.Duration
	r.MeterReport, err = e.measure(ctx, cfg, func() { before = cpu() }, func() { after = cpu() })
	if r.Completed > 0 {
		r.MicrosPerLifecycle = float64((after - before).Microseconds()) / float64(r.Completed)
	}
	return r, errors.Join(err, unread)
}

// awaitLead waits until all shards have leaders and this node knows them.
func awaitLead(ctx context.Context, n *node.Node) error {
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	if err := n.AwaitReady(ctx); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	for {
		v, err := n.Cluster(ctx)
		led, follows := len(v.Shards) > 1, false
		for _, s := range v.Shards {
			led = led && s.Leader != ""
			follows = follows || s.Shard != 0 && s.Leader != n.NodeID()
		}
		switch {
		case err == nil && led && follows:
			return errFollows
		case err == nil && led:
			return nil
		case !pause(ctx, retryPause):
			return fmt.Errorf("bench: waiting for leaders: %w", errors.Join(ctx.Err(), err))
		}
	}
}

// embeddedLoad is what keeps the node in this process busy.
type embeddedLoad struct {
	n  *node.Node
	m  *Meter
	mu sync.Mutex
	of map[string]started // tasks without an acknowledgement
}

// measure loads the node, and calls begin and end around what counts.
func (e *embeddedLoad) measure(ctx context.Context, cfg EmbeddedConfig, begin, end func()) (MeterReport, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work, stopWork := context.WithCancel(ctx)
	defer stopWork()
	submit, stopSubmit := context.WithCancel(ctx)
	defer stopSubmit()
	var wg sync.WaitGroup
	action, target, _ := api.SplitCapability(capability)
	for i := range embeddedAgents {
		c := qclient.WorkConfig{Manifest: api.Manifest{AgentID: fmt.Sprintf("bench-%d", i+1), Capabilities: []api.Capability{{Action: action, Target: target}}},
			Batch: e.perform, Settled: e.settled, Credit: api.MaxBatch, Drain: time.Second}
		wg.Go(func() {
			if err := e.n.WorkWith(work, c); err != nil {
				cancel(err)
			}
		})
	}
	var submitters sync.WaitGroup
	for range 3 * submitterRate {
		submitters.Go(func() {
			if err := e.submit(submit, ctx); err != nil {
				cancel(err)
			}
		})
	}
	pause(ctx, cfg.WarmUp)
	begin()
	r, err := e.m.Measure(ctx, 0, cfg.Duration)
	end()
	stopSubmit()
	submitters.Wait()
	stopWork()
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return r, err
}

// submit submits until ctx ends; what it has begun it ends within drain.
func (e *embeddedLoad) submit(ctx, drain context.Context) error {
	action, target, _ := api.SplitCapability(capability)
	for {
		first, due, ok := e.m.Next(ctx)
		if !ok {
			return nil
		}
		specs := make([]api.TaskSpec, len(due))
		for i := range specs {
			seq := first + int64(i)
			specs[i] = api.TaskSpec{Action: action, Target: target, IdempotencyKey: "e" + strconv.FormatInt(seq, 36), LeaseSeconds: leaseSeconds,
				Input: encodeInput(seq, due[i], embeddedPayload)}
		}
		if err := e.submitAll(drain, specs); err != nil {
			return fmt.Errorf("bench: submit: %w", err)
		}
		e.m.Submitted(due)
	}
}

// submitAll submits until every verdict is known: with a key that may be repeated.
func (e *embeddedLoad) submitAll(ctx context.Context, specs []api.TaskSpec) error {
	for {
		verdicts, err := e.n.Submit(ctx, specs, "bench")
		var again []api.TaskSpec
		for i, v := range verdicts {
			switch {
			case v.Error != nil && v.Error.Retry == api.RetryNo:
				return v.Error
			case v.Error != nil:
				again = append(again, specs[i])
			}
		}
		if err != nil || len(again) == 0 {
			return err
		}
		if specs = again; !pause(ctx, retryPause) {
			return ctx.Err()
		}
	}
}

func (e *embeddedLoad) perform(_ context.Context, tasks []qclient.Task) []api.Settlement {
	list := make([]api.Settlement, len(tasks))
	now := e.m.Since()
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range tasks {
		t := &tasks[i]
		list[i] = api.Settlement{TaskID: t.TaskID, Epoch: t.Epoch, Verdict: "complete", Result: result}
		var in input
		if json.Unmarshal(t.Input, &in) == nil {
			e.of[t.TaskID] = started{in, now}
		}
	}
	return list
}

func (e *embeddedLoad) settled(list []api.Settlement) {
	dues := make([]time.Duration, 0, len(list))
	e.mu.Lock()
	for i := range list {
		x, ok := e.of[list[i].TaskID]
		delete(e.of, list[i].TaskID)
		if ok && e.m.First(x.in.Seq) {
			dues = append(dues, x.in.Due)
		}
	}
	e.mu.Unlock()
	e.m.Completed(dues)
}
