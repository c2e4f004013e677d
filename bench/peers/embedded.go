package main

import (
	"context"

	"github.com/quorate/quorate/bench"
)

// embeddedWorkload is what a program gets that has the node, or the library, within itself.
var embeddedWorkload = Workload{
	Name:  "embedded",
	About: "lifecycles without a network client: load and leader are one process; 128 bytes submitted, 40 to complete, both acknowledged",
	Quorate: Contender{
		Name: "quorate", Note: "three processes, the load in the one that leads, through node.Submit and node.WorkWith; both acknowledgements after an fsync on a quorum; scheduling, leases, idempotency keys and audit on",
		Run: quorateEmbedded,
	},
	Peers: []Contender{
		{Name: "dragonboat", Note: dragonboatNote + "; two proposals (128 and 40 bytes) from the process that leads: no scheduling, no queue",
			Run: dragonboatLifecycles},
	},
}

func quorateEmbedded(ctx context.Context, o Options) ([]Value, error) {
	r, err := bench.Embedded(ctx, bench.EmbeddedConfig{Binary: o.Quorate, Duration: o.Duration, WarmUp: o.WarmUp, Window: lifecycleWindow})
	if err != nil {
		return nil, err
	}
	o.Logf("  p50 %.1f p99 %.1f ms; %.1f core-µs a lifecycle, load included", r.Latency.P50Millis, r.Latency.P99Millis, r.MicrosPerLifecycle)
	return []Value{{Metric: metricLifecycles, Unit: lifecyclesUnit, Value: r.PerSecond}}, nil
}
