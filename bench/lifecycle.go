package bench

import (
	"context"
	"errors"
	"io"
	"time"
)

// LifecycleConfig says what [Lifecycle] measures. Zero fields take the default
// given.
type LifecycleConfig struct {
	// Binary is the quorate executable the nodes run; default: this one.
	Binary string
	// Duration is how long is measured, after the warm-up; default 10 s, at
	// most an hour.
	Duration time.Duration
	// Rate is how many tasks are submitted a second, open loop; 0 submits as
	// fast as the cluster completes them.
	Rate int
	// PayloadBytes is the size of a task's input; default 128.
	PayloadBytes int
	// Batch is how many tasks one request carries at most; default 256.
	Batch int
	// Kill SIGKILLs the leader of a busy shard half-way.
	Kill bool
	// JSON prints the report as one JSON object.
	JSON bool
	// Out takes the report; default: nothing is printed.
	Out io.Writer
}

// LifecycleReport is what was measured.
type LifecycleReport struct {
	LifecyclesPerSecond float64 `json:"lifecycles_per_second"`
}

// Lifecycle measures and reports. An error means that it could not be measured
// or that a task was lost.
func Lifecycle(ctx context.Context, cfg LifecycleConfig) (LifecycleReport, error) {
	return LifecycleReport{}, errors.New("bench: not built yet")
}
