package main

import (
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/quorate/quorate/node"
)

// TestPresetGivesWay: an option that is given wins over the preset, also when it
// says what it would be by default.
func TestPresetGivesWay(t *testing.T) {
	edge := node.Edge()
	for _, tc := range []struct {
		name string
		args []string
		want node.Config
	}{
		{"nothing", nil, node.Config{MaxPayloadBytes: 1 << 20, DiskReserveBytes: 256 << 20, TaskRetention: 24 * time.Hour}},
		{"preset", []string{"--preset", "edge"}, edge},
		{"defaults beside it", []string{"--preset", "edge", "--max-payload", "1048576", "--disk-reserve", "268435456", "--disk-budget", "0", "--memory-budget", "0",
			"--shards", "0", "--task-retention", "24h"}, node.Config{MaxPayloadBytes: 1 << 20, DiskReserveBytes: 256 << 20, TaskRetention: 24 * time.Hour}},
		{"others beside it", []string{"--preset", "edge", "--max-payload", "2048", "--disk-reserve", "1", "--disk-budget", "2", "--memory-budget", "3",
			"--shards", "4", "--task-retention", "0"}, node.Config{MaxPayloadBytes: 2048, DiskReserveBytes: 1, DiskBudgetBytes: 2, MemoryBudgetBytes: 3, Shards: 4}},
	} {
		var c startCmd
		p, err := kong.New(&c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Parse(append([]string{"--data-dir", "d"}, tc.args...)); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		got, want := c.config(nil), tc.want
		if got.MaxPayloadBytes != want.MaxPayloadBytes || got.DiskReserveBytes != want.DiskReserveBytes || got.DiskBudgetBytes != want.DiskBudgetBytes ||
			got.MemoryBudgetBytes != want.MemoryBudgetBytes || got.Shards != want.Shards || got.TaskRetention != want.TaskRetention {
			t.Errorf("%s: %+v, want %+v", tc.name, got, want)
		}
	}
}
