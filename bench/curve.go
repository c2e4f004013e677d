package bench

import (
	"context"
	"fmt"
	"io"
)

// CurveConfig says what [Curve] measures.
type CurveConfig struct {
	Lifecycle LifecycleConfig // of each point, but for Rate, Kill, JSON and Plot
	Rates     []int           // tasks a second
	Plot      string          // file for the plot, .svg or .png; empty: none
	Out       io.Writer
}

// Curve measures latency at each rate: the throughput–latency curve of lifecycles, of a new cluster at every point.
func Curve(ctx context.Context, cfg CurveConfig) error {
	if len(cfg.Rates) == 0 || cfg.Out == nil {
		return fmt.Errorf("bench: curve: %d rates: want some, and a place for the table", len(cfg.Rates))
	}
	if err := checkPlot(cfg.Plot); err != nil {
		return err
	}
	p := plot{title: "Lifecycles: latency against throughput", x: "lifecycles/s", y: "ms from due to completed",
		series: []plotSeries{{name: "p50"}, {name: "p99"}}}
	fmt.Fprintf(cfg.Out, "%10s %14s %8s %8s %8s\n", "rate", "lifecycles/s", "p50 ms", "p99 ms", "p99.9 ms")
	for _, rate := range cfg.Rates {
		c := cfg.Lifecycle
		c.Rate, c.Kill, c.JSON, c.Plot, c.Out = rate, false, false, "", nil
		r, err := Lifecycle(ctx, c)
		if err != nil {
			return err
		}
		fmt.Fprintf(cfg.Out, "%10d %14.0f %8.2f %8.2f %8.2f\n", rate, r.LifecyclesPerSecond, r.Latency.P50Millis, r.Latency.P99Millis, r.Latency.P999Millis)
		p.series[0].points = append(p.series[0].points, [2]float64{r.LifecyclesPerSecond, r.Latency.P50Millis})
		p.series[1].points = append(p.series[1].points, [2]float64{r.LifecyclesPerSecond, r.Latency.P99Millis})
	}
	return p.save(cfg.Plot)
}

// timeline is the plot of one measurement: completions over time, and the kill.
func (m *measurement) timeline(before, after mark) plot {
	s := plotSeries{name: "completed"}
	first, last := int(before.at/timelineStep), int(after.at/timelineStep)
	m.perStep.Lock()
	for i := first; i < last; i++ {
		n := int64(0)
		if i < len(m.perStep.counts) {
			n = m.perStep.counts[i]
		}
		at := float64(i-first) * timelineStep.Seconds()
		s.points = append(s.points, [2]float64{at, float64(n) / timelineStep.Seconds()})
	}
	m.perStep.Unlock()
	p := plot{title: "Lifecycles over time", x: "seconds", y: "lifecycles/s", series: []plotSeries{s}}
	if at := m.kill.at.Load(); at != 0 {
		p.marks = []plotMark{{name: "SIGKILL of a leader", x: max(float64(at)/1e9-before.at.Seconds(), 0)}}
	}
	return p
}
