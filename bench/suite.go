package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// SuiteConfig says what [Suite] measures. Zero fields take the default given.
type SuiteConfig struct {
	Binary    string   // the quorate executable; default: this one
	Workloads []string // names out of SuiteWorkloads; default: all
	Rounds    int      // turns of each case; default 3, at most 99
	// Duration is measured of each case in each round, after WarmUp; default 5 s and 2 s.
	Duration, WarmUp time.Duration
	Backlog          int    // tasks of workload backlog; default 1,000,000
	Live             []int  // waiting tasks of workload live; default 0, 100,000 and 1,000,000
	Dir              string // takes results.jsonl and a plot of each workload, as SVG and PNG; empty: none
	JSON             bool   // prints one SuiteLine a line
	Out              io.Writer
	Progress         io.Writer // a line for each case measured; default: none
}

// SuiteLine is one figure of one case: the median over the rounds.
type SuiteLine struct {
	Workload string    `json:"workload"`
	Case     string    `json:"case"`
	Metric   string    `json:"metric"`
	Unit     string    `json:"unit"`
	Better   string    `json:"better"` // "higher" or "lower"
	Median   float64   `json:"median"`
	Min      float64   `json:"min"`
	Max      float64   `json:"max"`
	Runs     []float64 `json:"runs"` // in the order taken
	// OfFirst is the median of the rounds' ratios to the first case, with the
	// least and the greatest; 0 for that case, and for what it does not have.
	OfFirst      float64    `json:"of_first,omitempty"`
	OfFirstRange [2]float64 `json:"of_first_range,omitzero"`
}

const (
	higher    = "higher"
	lower     = "lower"
	maxRounds = 99
)

// suiteWorkload is one question: a few cases, measured in turn.
type suiteWorkload struct {
	name, about string
	x, y        string // axes of the plot of the first metric; x empty: none
	cases       []suiteCase
}

type suiteCase struct {
	name    string
	x       float64 // on the plot
	load    LifecycleConfig
	actions bool
	submits *SubmitsConfig // unless nil, instead of load
	metrics []suiteMetric
}

// suiteMetric takes a figure out of a report.
type suiteMetric struct {
	name, unit, better string
	of                 func(LifecycleReport) float64
}

var (
	lifecyclesMetric = suiteMetric{"lifecycles", "/s", higher, func(r LifecycleReport) float64 { return r.LifecyclesPerSecond }}
	coreMetric       = suiteMetric{"CPU of the nodes", "core-µs", lower, func(r LifecycleReport) float64 { return r.NodesCoreMicros }}
	p50Metric        = suiteMetric{"completed p50", "ms", lower, func(r LifecycleReport) float64 { return r.Latency.P50Millis }}
	p99Metric        = suiteMetric{"completed p99", "ms", lower, func(r LifecycleReport) float64 { return r.Latency.P99Millis }}
	submitsMetric    = suiteMetric{"submits acknowledged", "/s", higher, func(r LifecycleReport) float64 { return r.LifecyclesPerSecond }}
	inputMetric      = suiteMetric{"input submitted", "MB/s", higher, func(r LifecycleReport) float64 { return r.LifecyclesPerSecond * float64(r.PayloadBytes) / 1e6 }}
	ackMetric        = suiteMetric{"submit acknowledged p50", "ms", lower, func(r LifecycleReport) float64 { return r.SubmitAcked.P50Millis }}
	bytesMetric      = suiteMetric{"input completed", "MB/s", higher, func(r LifecycleReport) float64 { return r.LifecyclesPerSecond * float64(r.PayloadBytes) / 1e6 }}
	submitMetric     = suiteMetric{"submitted while no agent was there", "/s", higher, func(r LifecycleReport) float64 { return r.BacklogPerSecond }}
	killMetric       = suiteMetric{"SIGKILL to next completion, slowest shard", "ms", lower, func(r LifecycleReport) float64 { return float64(r.Kill.WorstMillis) }}
)

// SuiteWorkloads are the names that SuiteConfig.Workloads takes.
func SuiteWorkloads() []string {
	var names []string
	for _, w := range suiteWorkloads(SuiteConfig{}) {
		names = append(names, w.name)
	}
	return names
}

// suiteWorkloads are all workloads, with cfg's sizes.
func suiteWorkloads(cfg SuiteConfig) []suiteWorkload {
	full := []suiteMetric{lifecyclesMetric, coreMetric, p50Metric, p99Metric}
	ws := []suiteWorkload{
		{name: "levels", about: "as fast as they complete, by guarantee level; actions are declared, told go and confirmed by their agents"},
		{name: "rates", about: "open loop", x: "lifecycles/s asked for", y: "lifecycles/s"},
		{name: "single", about: "one task at a time"},
		{name: "submits", about: "as fast as callers are acknowledged, each with one request under way, while no agent is there"},
		{name: "payload", about: "as fast as they complete, by size of the input", x: "bytes of input", y: "lifecycles/s"},
		{name: "agents", about: "as fast as they complete, by number of connected agents", x: "agents", y: "lifecycles/s"},
		{name: "audit", about: "as fast as they complete, audit records kept only, or hashed into Merkle trees as well"},
		{name: "via", about: "as fast as they complete, by the way nodes are spoken to"},
		{name: "live", about: "as fast as they complete, while tasks wait that nobody can do", x: "waiting tasks", y: "lifecycles/s"},
		{name: "backlog", about: "tasks that are all there before the first agent comes"},
		{name: "failover", about: "2,000/s, the leader of most shards is killed half-way"},
	}
	add := func(name string, c suiteCase) {
		i := slices.IndexFunc(ws, func(w suiteWorkload) bool { return w.name == name })
		ws[i].cases = append(ws[i].cases, c)
	}
	for _, level := range []string{"best_effort", "at_least_once", "exactly_once"} {
		add("levels", suiteCase{name: level, load: LifecycleConfig{Guarantee: level}, metrics: full})
	}
	add("levels", suiteCase{name: "exactly_once actions", actions: true, metrics: full})
	for _, rate := range []int{500, 2000, 8000} {
		add("rates", suiteCase{name: fmt.Sprintf("%d/s", rate), x: float64(rate), load: LifecycleConfig{Rate: rate}, metrics: full})
	}
	add("single", suiteCase{name: "stream", load: LifecycleConfig{Window: 1, Batch: 1, Agents: 1}, metrics: []suiteMetric{ackMetric, p50Metric, p99Metric}})
	add("single", suiteCase{name: "http", load: LifecycleConfig{Window: 1, Batch: 1, Agents: 1, Via: ViaHTTP}, metrics: []suiteMetric{ackMetric, p50Metric, p99Metric}})
	for _, k := range []SubmitsConfig{{Connections: 64}, {Connections: 1}, {Connections: 1, Via: ViaStream}, {PayloadBytes: 16 << 10}, {PayloadBytes: 16 << 10, Via: ViaStream, Batch: 16}} {
		d, _ := k.withDefaults() // they are right
		add("submits", suiteCase{name: fmt.Sprintf("%s, %d callers, %d a request, %d B", d.Via, d.Connections, d.Batch, d.PayloadBytes), submits: &k,
			metrics: []suiteMetric{submitsMetric, inputMetric, ackMetric, coreMetric}})
	}
	for _, size := range []int{128, 1024, 16 << 10} {
		add("payload", suiteCase{name: fmt.Sprintf("%d B", size), x: float64(size), load: LifecycleConfig{PayloadBytes: size, Window: min(8192, (32<<20)/size)},
			metrics: []suiteMetric{lifecyclesMetric, bytesMetric, coreMetric}})
	}
	for _, n := range []int{1, 10, 100, 1000} {
		add("agents", suiteCase{name: fmt.Sprint(n), x: float64(n), load: LifecycleConfig{Agents: n}, metrics: full})
	}
	add("via", suiteCase{name: "stream", metrics: full})
	add("via", suiteCase{name: "http", load: LifecycleConfig{Via: ViaHTTP}, metrics: full})
	for _, level := range []string{"log", "hash"} {
		add("audit", suiteCase{name: level, load: LifecycleConfig{AuditLevel: level}, metrics: full})
	}
	for _, n := range cfg.Live {
		add("live", suiteCase{name: fmt.Sprint(n), x: float64(n), load: LifecycleConfig{Live: n}, metrics: full})
	}
	add("backlog", suiteCase{name: fmt.Sprint(cfg.Backlog), load: LifecycleConfig{Backlog: cfg.Backlog}, metrics: []suiteMetric{lifecyclesMetric, submitMetric, coreMetric}})
	add("failover", suiteCase{name: "2000/s", load: LifecycleConfig{Rate: 2000, Kill: true}, metrics: []suiteMetric{killMetric, lifecyclesMetric, p99Metric}})
	return ws
}

func (c SuiteConfig) withDefaults() (SuiteConfig, error) {
	if c.Rounds == 0 {
		c.Rounds = 3
	}
	if c.Duration == 0 {
		c.Duration = 5 * time.Second
	}
	if c.WarmUp == 0 {
		c.WarmUp = 2 * time.Second
	}
	if c.Backlog == 0 {
		c.Backlog = 1_000_000
	}
	if c.Live == nil {
		c.Live = []int{0, 100_000, 1_000_000}
	}
	if len(c.Workloads) == 0 {
		c.Workloads = SuiteWorkloads()
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	var errs []error
	for _, name := range c.Workloads {
		if !slices.Contains(SuiteWorkloads(), name) {
			errs = append(errs, fmt.Errorf("bench: workload %q: want some of %s", name, strings.Join(SuiteWorkloads(), ", ")))
		}
	}
	if c.Rounds < 1 || c.Rounds > maxRounds {
		errs = append(errs, fmt.Errorf("bench: rounds %d: want 1 to %d", c.Rounds, maxRounds))
	}
	for _, w := range suiteWorkloads(c) {
		for _, k := range w.cases {
			l := k.load
			l.Duration, l.WarmUp = c.Duration, c.WarmUp
			if err := l.withDefaults().validate(); err != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w", w.name, k.name, err))
			}
		}
	}
	return c, errors.Join(errs...)
}

// Suite measures workloads, the cases of each in turn, every other round
// backwards, so that a machine that gets slower or faster favours none. Each
// case in each round has a cluster of its own.
func Suite(ctx context.Context, cfg SuiteConfig) ([]SuiteLine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
	}
	var all []SuiteLine
	for _, w := range suiteWorkloads(cfg) {
		if !slices.Contains(cfg.Workloads, w.name) {
			continue
		}
		lines, err := w.run(ctx, cfg)
		if err != nil {
			return all, err
		}
		all = append(all, lines...)
		if err := w.report(cfg, lines); err != nil {
			return all, err
		}
	}
	if cfg.Dir == "" {
		return all, nil
	}
	return all, saveLines(filepath.Join(cfg.Dir, "results.jsonl"), all)
}

// run measures every case of one workload in every round.
func (w suiteWorkload) run(ctx context.Context, cfg SuiteConfig) ([]SuiteLine, error) {
	var lines []SuiteLine
	first := make([]int, len(w.cases)) // index of a case's first line
	for i, k := range w.cases {
		first[i] = len(lines)
		for _, m := range k.metrics {
			lines = append(lines, SuiteLine{Workload: w.name, Case: k.name, Metric: m.name, Unit: m.unit, Better: m.better})
		}
	}
	for round := range cfg.Rounds {
		for i := range w.cases {
			if round%2 == 1 {
				i = len(w.cases) - 1 - i
			}
			k := w.cases[i]
			r, err := k.measure(ctx, cfg, w.name)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", w.name, k.name, err)
			}
			fmt.Fprintf(cfg.Progress, "%s %s, round %d of %d:", w.name, k.name, round+1, cfg.Rounds)
			for j, m := range k.metrics {
				v := m.of(r)
				lines[first[i]+j].Runs = append(lines[first[i]+j].Runs, v)
				fmt.Fprintf(cfg.Progress, "  %s %s %s", m.name, Figure(v), m.unit)
			}
			fmt.Fprintln(cfg.Progress)
		}
	}
	for i := range lines {
		l := &lines[i]
		l.Min, l.Median, l.Max = Spread(l.Runs)
		if j := slices.IndexFunc(lines, func(o SuiteLine) bool { return o.Case == w.cases[0].name && o.Metric == l.Metric }); j >= 0 && l.Case != w.cases[0].name {
			l.OfFirst, l.OfFirstRange = ratios(l.Runs, lines[j].Runs)
		}
	}
	return lines, nil
}

func (k suiteCase) measure(ctx context.Context, cfg SuiteConfig, workload string) (LifecycleReport, error) {
	if k.actions {
		r, err := Actions(ctx, ActionsConfig{Binary: cfg.Binary, Duration: cfg.Duration, WarmUp: cfg.WarmUp})
		return LifecycleReport{LifecyclesPerSecond: r.PerSecond, NodesCoreMicros: r.NodesCoreMicros, Latency: r.Latency}, err
	}
	if k.submits != nil {
		c := *k.submits
		c.Binary, c.Duration, c.WarmUp = cfg.Binary, cfg.Duration, cfg.WarmUp
		r, err := Submits(ctx, c)
		return LifecycleReport{LifecyclesPerSecond: r.PerSecond, PayloadBytes: r.PayloadBytes, NodesCoreMicros: r.NodesCoreMicros, SubmitAcked: r.Latency}, err
	}
	l := k.load
	l.Binary, l.Duration, l.WarmUp = cfg.Binary, cfg.Duration, cfg.WarmUp
	if l.Kill && cfg.Dir != "" {
		l.Plot = filepath.Join(cfg.Dir, workload) // of the last round
	}
	return Lifecycle(ctx, l)
}

// report prints one workload and draws its plot.
func (w suiteWorkload) report(cfg SuiteConfig, lines []SuiteLine) error {
	if cfg.JSON {
		enc := json.NewEncoder(cfg.Out)
		for _, l := range lines {
			if err := enc.Encode(l); err != nil {
				return fmt.Errorf("bench: %w", err)
			}
		}
	} else {
		fmt.Fprintf(cfg.Out, "\n%s: %s; median [min–max] of %d\n", w.name, w.about, cfg.Rounds)
		t := tabwriter.NewWriter(cfg.Out, 0, 4, 2, ' ', 0)
		for _, l := range lines {
			ratio := ""
			if l.OfFirst > 0 {
				ratio = fmt.Sprintf("%.2f× [%.2f–%.2f] of %s", l.OfFirst, l.OfFirstRange[0], l.OfFirstRange[1], w.cases[0].name)
			}
			fmt.Fprintf(t, "  %s\t%s\t%s %s\t[%s–%s]\t%s\n", l.Case, l.Metric, Figure(l.Median), l.Unit, Figure(l.Min), Figure(l.Max), ratio)
		}
		if err := t.Flush(); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	if w.x == "" || cfg.Dir == "" {
		return nil
	}
	p := plot{title: w.name + ": " + w.about, x: w.x, y: w.y, series: []plotSeries{{name: w.cases[0].metrics[0].name}}}
	for _, k := range w.cases {
		i := slices.IndexFunc(lines, func(l SuiteLine) bool { return l.Case == k.name && l.Metric == k.metrics[0].name })
		p.series[0].points = append(p.series[0].points, [2]float64{k.x, lines[i].Median})
	}
	return p.save(filepath.Join(cfg.Dir, w.name))
}
