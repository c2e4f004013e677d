package main

import (
	"context"
	"fmt"
	"os"

	"github.com/quorate/quorate/bench"
)

// raftstoreWorkload is replication alone.
var raftstoreWorkload = Workload{
	Name:  "raftstore",
	About: "proposals of 128 bytes through replication alone; three processes on loopback, fsync on a quorum before every answer",
	Quorate: Contender{
		Name: "quorate", Note: "raftstore over the transport between nodes, counting state machine, state checkpoints and truncation on; 12,288 in flight from the processes that lead",
		Run: func(ctx context.Context, o Options) ([]Value, error) {
			return runGroups(ctx, o, []string{o.Quorate, "bench", "raftstore-node"})
		},
	},
	Peers: []Contender{
		{Name: "dragonboat", Note: dragonboatNote, Run: func(ctx context.Context, o Options) ([]Value, error) {
			self, err := os.Executable()
			if err != nil {
				return nil, err
			}
			return runGroups(ctx, o, []string{self, "dragonboat-node"})
		}},
		{Name: "etcd", Note: etcdNote, Run: etcdPuts},
	},
}

// Metrics of the workload.
const (
	metricOneShard   = "1 shard"
	metricManyShards = "48 shards"
	metricOneAtATime = "one at a time, p50"
	proposalsUnit    = "proposals/s"
)

// runGroups measures a system that keeps the shape of bench.Raftstore.
func runGroups(ctx context.Context, o Options, command []string) ([]Value, error) {
	rows, err := bench.Raftstore(ctx, bench.RaftstoreConfig{Command: command, Shards: []int{1, 48}, Duration: o.Duration, WarmUp: o.WarmUp})
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		o.Logf("  %d shards: p50 %.2f p99 %.2f ms, %.2f core-µs each; one at a time p50 %.2f p99 %.2f ms", r.Shards, r.Saturated.Latency.P50Millis,
			r.Saturated.Latency.P99Millis, r.Saturated.CoreMicro, r.OneAtATime.Latency.P50Millis, r.OneAtATime.Latency.P99Millis)
	}
	if len(rows) != 2 {
		return nil, fmt.Errorf("%d rows", len(rows))
	}
	return []Value{
		{Metric: metricOneShard, Unit: proposalsUnit, Value: rows[0].Saturated.PerSecond},
		{Metric: metricManyShards, Unit: proposalsUnit, Value: rows[1].Saturated.PerSecond},
		{Metric: metricOneAtATime, Unit: "ms", Value: rows[0].OneAtATime.Latency.P50Millis, Lower: true},
	}, nil
}
