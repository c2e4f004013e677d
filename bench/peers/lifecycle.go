package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/quorate/quorate/bench"
)

// lifecycleWorkload is what a queue is for: a task submitted, handed to a worker, and completed.
var lifecycleWorkload = Workload{
	Name:  "lifecycle",
	About: "tasks of 128 bytes submitted, handed to a worker and completed; submission and completion each acknowledged",
	Quorate: Contender{
		Name: "quorate", Note: "three node processes, through its network client in batches; both acknowledgements after an fsync on a quorum; scheduling, leases, idempotency keys and audit on",
		Run: quorateLifecycles,
	},
	Peers: []Contender{
		{Name: "nats-always", Note: natsNote + "; sync_interval: always (fsync before every acknowledgement)",
			Run: func(ctx context.Context, o Options) ([]Value, error) { return natsLifecycles(ctx, o, "always") }},
		{Name: "nats-default", Note: natsNote + "; sync_interval as by default (fsync every two minutes: what was acknowledged may be lost with the machine)",
			Run: func(ctx context.Context, o Options) ([]Value, error) { return natsLifecycles(ctx, o, "") }},
		{Name: "dragonboat", Note: dragonboatNote + "; two proposals (128 and 40 bytes) from the process that leads: no network client, no scheduling, no queue",
			Run: dragonboatLifecycles},
		{Name: "redis", Note: redisNote, Run: redisLifecycles, Missing: redisMissing},
	},
}

// Shapes of the load, the same for all that have a queue.
const (
	lifecycleWindow  = 8192 // tasks under way when as fast as possible
	lifecycleBatch   = 256
	lifecyclePayload = 128
	followUpPayload  = 40
	lifecyclesUnit   = "lifecycles/s"
	metricLifecycles = "saturated"
)

// latencyMetrics are the values at a rate.
func latencyMetrics(rate int, q bench.Quantiles) []Value {
	return []Value{
		{Metric: fmt.Sprintf("p50 at %d/s", rate), Unit: "ms", Value: q.P50Millis, Lower: true},
		{Metric: fmt.Sprintf("p99 at %d/s", rate), Unit: "ms", Value: q.P99Millis, Lower: true},
	}
}

func quorateLifecycles(ctx context.Context, o Options) ([]Value, error) {
	var vs []Value
	for _, rate := range append([]int{0}, o.Rates...) {
		r, err := bench.Lifecycle(ctx, bench.LifecycleConfig{Binary: o.Quorate, Duration: o.Duration, WarmUp: o.WarmUp, Rate: rate,
			PayloadBytes: lifecyclePayload, Batch: lifecycleBatch, Window: lifecycleWindow})
		if err != nil {
			return nil, err
		}
		if rate > 0 {
			vs = append(vs, latencyMetrics(rate, r.Latency)...)
			continue
		}
		o.Logf("  p50 %.1f p99 %.1f ms; nodes %.2f, generator %.2f cores", r.Latency.P50Millis, r.Latency.P99Millis, r.NodesCores, r.GeneratorCores)
		vs = append(vs, Value{Metric: metricLifecycles, Unit: lifecyclesUnit, Value: r.LifecyclesPerSecond})
	}
	return vs, nil
}

func dragonboatLifecycles(ctx context.Context, o Options) ([]Value, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	rows, err := bench.Raftstore(ctx, bench.RaftstoreConfig{Command: []string{self, "dragonboat-node"}, Shards: []int{1}, InFlight: lifecycleWindow,
		PayloadBytes: lifecyclePayload, FollowUpBytes: followUpPayload, Duration: o.Duration, WarmUp: o.WarmUp})
	if err != nil {
		return nil, err
	}
	return []Value{{Metric: metricLifecycles, Unit: lifecyclesUnit, Value: rows[0].Saturated.PerSecond}}, nil
}

// A queue is a peer that submits, hands out and completes. work runs until ctx ends, then returns once nothing of it
// runs any more; the first error ends everything.
type queue interface {
	submit(ctx context.Context, m *bench.Meter) error
	work(ctx context.Context, m *bench.Meter) error
}

// measureQueue loads a queue once.
func measureQueue(ctx context.Context, o Options, rate int, q queue) (bench.MeterReport, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	submit, stopSubmit := context.WithCancel(ctx)
	defer stopSubmit()
	work, stopWork := context.WithCancel(ctx)
	defer stopWork()
	m := bench.NewMeter(bench.MeterConfig{Rate: rate, Window: lifecycleWindow, Batch: lifecycleBatch})
	var wg sync.WaitGroup
	run := func(do func(context.Context, *bench.Meter) error, ctx context.Context) {
		wg.Go(func() {
			if err := do(ctx, m); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	run(q.work, work)
	run(q.submit, submit)
	rep, err := m.Measure(ctx, o.WarmUp, o.Duration)
	stopSubmit()
	stopWork()
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return rep, err
}

// measureQueues measures as fast as possible, then at each rate.
func measureQueues(ctx context.Context, o Options, open func(run int) (queue, error)) ([]Value, error) {
	var vs []Value
	for i, rate := range append([]int{0}, o.Rates...) {
		q, err := open(i)
		if err != nil {
			return nil, err
		}
		r, err := measureQueue(ctx, o, rate, q)
		if err != nil {
			return nil, err
		}
		if rate > 0 {
			vs = append(vs, latencyMetrics(rate, r.Latency)...)
			continue
		}
		o.Logf("  p50 %.1f p99 %.1f ms", r.Latency.P50Millis, r.Latency.P99Millis)
		vs = append(vs, Value{Metric: metricLifecycles, Unit: lifecyclesUnit, Value: r.PerSecond})
	}
	return vs, nil
}

// A task carries its sequence number and when it was due.
const taskHeader = 16

func encodeTask(seq int64, due time.Duration) []byte {
	b := make([]byte, lifecyclePayload)
	binary.LittleEndian.PutUint64(b, uint64(seq))
	binary.LittleEndian.PutUint64(b[8:], uint64(due))
	return b
}

func decodeTask(b []byte) (seq int64, due time.Duration, err error) {
	if len(b) < taskHeader {
		return 0, 0, fmt.Errorf("a task of %d bytes", len(b))
	}
	return int64(binary.LittleEndian.Uint64(b)), time.Duration(binary.LittleEndian.Uint64(b[8:])), nil
}
