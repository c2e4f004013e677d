package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/ledger"
)

// SkewConfig says what [Skew] measures. Zero fields take the default given.
type SkewConfig struct {
	Binary string // the quorate executable the nodes run; default: this one
	// Turns is how often each kind of load is measured; default 3, at most 100.
	Turns int
	// Duration is how long each measurement lasts; default 3 s. WarmUp comes
	// before each; default 1 s.
	Duration, WarmUp time.Duration
	// Rate is the open loop's at which waits are measured; default 40 % of the
	// first balanced throughput.
	Rate int
	JSON bool
	Out  io.Writer
}

// The kinds of load. Workers are at all nodes each time.
const (
	loadBalanced  = "balanced"  // submitted to all nodes, keys of all shards
	loadSubmitted = "submitted" // all submitted to one node
	loadLed       = "led"       // and all of shards that this node leads: they queue there
)

var skewLoads = []string{loadBalanced, loadSubmitted, loadLed}

// SkewReport has a line for each kind of load.
type SkewReport struct {
	Turns   int        `json:"turns"`
	Seconds float64    `json:"duration_seconds"`
	Rate    int        `json:"wait_rate_per_second"`
	Cores   int        `json:"cores"`
	Loads   []SkewLine `json:"loads"`
}

// SkewLine is one kind of load: its turns, and medians of the turns' ratios to
// the balanced load of the same turn, with the least and the greatest.
type SkewLine struct {
	Load            string     `json:"load"`
	PerSecond       []float64  `json:"lifecycles_per_second"`
	WaitP99Millis   []float64  `json:"wait_p99_ms"` // from due to handed to a worker, at the rate
	ThroughputRatio float64    `json:"throughput_ratio"`
	ThroughputRange [2]float64 `json:"throughput_ratio_range"`
	WaitRatio       float64    `json:"wait_p99_ratio"`
	WaitRange       [2]float64 `json:"wait_p99_ratio_range"`
	Lost            int        `json:"lost"`
}

// Skew measures what it costs that all work comes in at one node: each turn
// has every kind of load once at saturation and once at a rate, on one cluster.
func Skew(ctx context.Context, cfg SkewConfig) (SkewReport, error) {
	cfg.Turns, cfg.Duration, cfg.WarmUp = cmp.Or(cfg.Turns, 3), cmp.Or(cfg.Duration, 3*time.Second), cmp.Or(cfg.WarmUp, time.Second)
	cfg.Out = cmp.Or[io.Writer](cfg.Out, io.Discard)
	if cfg.Turns < 1 || cfg.Turns > 100 || cfg.Duration < 0 || cfg.Duration > maxDuration || cfg.WarmUp < 0 || cfg.WarmUp > maxDuration || cfg.Rate < 0 || cfg.Rate > maxRate {
		return SkewReport{}, errors.New("bench: skew: turns 1 to 100, rate up to a million, duration up to an hour")
	}
	cluster, err := proc.Start(ctx, proc.Config{Binary: cfg.Binary})
	if err != nil {
		return SkewReport{}, fmt.Errorf("bench: %w", err)
	}
	defer cluster.Close()
	rep := SkewReport{Turns: cfg.Turns, Seconds: cfg.Duration.Seconds(), Rate: cfg.Rate, Cores: runtime.NumCPU()}
	for _, l := range skewLoads {
		rep.Loads = append(rep.Loads, SkewLine{Load: l})
	}
	for turn := range cfg.Turns {
		if err := rep.turn(ctx, cfg, cluster, turn); err != nil {
			return rep, err
		}
	}
	lost := 0
	for i := range rep.Loads {
		l := &rep.Loads[i]
		l.ThroughputRatio, l.ThroughputRange = ratios(l.PerSecond, rep.Loads[0].PerSecond)
		l.WaitRatio, l.WaitRange = ratios(l.WaitP99Millis, rep.Loads[0].WaitP99Millis)
		lost += l.Lost
	}
	if cfg.JSON {
		err = json.NewEncoder(cfg.Out).Encode(rep)
	} else {
		rep.print(cfg.Out)
	}
	if err == nil && lost > 0 {
		err = fmt.Errorf("bench: %d acknowledged tasks were not completed within %v of the last", lost, drainWait)
	}
	return rep, err
}

// turn measures every kind of load once, every second turn in the other order.
func (r *SkewReport) turn(ctx context.Context, cfg SkewConfig, cluster *proc.Cluster, turn int) error {
	for i := range r.Loads {
		if turn%2 == 1 {
			i = len(r.Loads) - 1 - i
		}
		l := &r.Loads[i]
		for _, rate := range []int{0, r.Rate} {
			if rate == 0 && len(l.PerSecond) > turn { // the first turn's rate follows from its throughput
				rate = max(int(r.Loads[0].PerSecond[0]*0.4), 1)
				r.Rate = rate
			}
			c := LifecycleConfig{Duration: cfg.Duration, WarmUp: cfg.WarmUp, Rate: rate}.withDefaults()
			m := newMeasurement(c, cluster)
			m.keys = fmt.Sprintf("%d-%s-%d-", turn, l.Load, rate)
			err := m.skewTo(ctx, l.Load)
			var got LifecycleReport
			if err == nil {
				got, err = m.run(ctx)
			}
			m.pool.CloseIdleConnections()
			if err == nil && m.misplaced.Load() > 0 {
				err = fmt.Errorf("bench: %d tasks were not of the shards their keys were chosen for", m.misplaced.Load())
			}
			if err != nil {
				return err
			}
			if l.Lost += got.Lost; rate == 0 {
				l.PerSecond = append(l.PerSecond, got.LifecyclesPerSecond)
			} else {
				l.WaitP99Millis = append(l.WaitP99Millis, got.Leased.P99Millis)
			}
		}
	}
	return nil
}

// skewTo makes the measurement's load one of a kind.
func (m *measurement) skewTo(ctx context.Context, load string) error {
	if load == loadBalanced {
		return nil
	}
	m.oneNode = true
	if load == loadSubmitted {
		return nil
	}
	leaders, err := m.cluster.Leaders(ctx)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	one := m.cluster.Nodes()[0].ID
	m.led = make([]bool, len(leaders))
	for shard, id := range leaders {
		m.led[shard] = id == one && shard != 0
	}
	if !slices.Contains(m.led, true) {
		return fmt.Errorf("bench: node %s leads no shard", one)
	}
	return nil
}

// key is the idempotency key of a task. If all tasks are to be of certain
// shards, it is the first of its kind that belongs to one of them.
func (m *measurement) key(seq int64) string {
	base := "b" + m.keys + strconv.FormatInt(seq, 36)
	key := base
	for i := 0; m.led != nil && !m.led[shardOfKey(key, len(m.led))]; i++ {
		key = base + "-" + strconv.Itoa(i)
	}
	return key
}

// shardOfKey is the shard that a node finds for a key of fleet default, among
// all shards of the cluster, of which 0 has no tasks.
func shardOfKey(key string, shards int) uint32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("default\x00" + key)) // never fails
	return 1 + uint32(h.Sum64()%uint64(shards-1))
}

// placed checks that a task went where its key was chosen for.
func (m *measurement) placed(id string) {
	if m.led == nil {
		return
	}
	if t, err := ledger.ParseTaskID(id); err != nil || !m.led[t.Shard()] {
		m.misplaced.Add(1)
	}
}

// ratios is the median of xs[i]/to[i], and the least and the greatest.
func ratios(xs, to []float64) (median float64, around [2]float64) {
	list := make([]float64, 0, len(xs))
	for i := range xs {
		if to[i] > 0 {
			list = append(list, xs[i]/to[i])
		}
	}
	if len(list) == 0 {
		return 0, around
	}
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2, [2]float64{list[0], list[len(list)-1]}
}

func (r SkewReport) print(out io.Writer) {
	fmt.Fprintf(out, "three nodes, workers at all of them; %d turns of %.0f s each, waits at %d/s; %d cores\n", r.Turns, r.Seconds, r.Rate, r.Cores)
	fmt.Fprintf(out, "  %-10s %14s %22s %16s %22s\n", "load", "lifecycles/s", "of balanced", "wait p99 ms", "of balanced")
	for _, l := range r.Loads {
		per, _ := ratios(l.PerSecond, slices.Repeat([]float64{1}, len(l.PerSecond)))
		wait, _ := ratios(l.WaitP99Millis, slices.Repeat([]float64{1}, len(l.WaitP99Millis)))
		fmt.Fprintf(out, "  %-10s %14.0f %8.2f (%.2f to %.2f) %16.1f %8.2f (%.2f to %.2f)\n", l.Load, per,
			l.ThroughputRatio, l.ThroughputRange[0], l.ThroughputRange[1], wait, l.WaitRatio, l.WaitRange[0], l.WaitRange[1])
	}
	fmt.Fprintf(out, "  submitted: all work comes in at one node; led: and is queued there\n")
}
