package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Workload is one thing that Quorate and others are measured at.
type Workload struct {
	Name    string
	About   string // one line under the heading of the table: what is counted, and under which conditions
	Quorate Contender
	Peers   []Contender // the default selection, in the order of the table
}

// A Contender is one system at one workload. Run measures it once, from nothing to nothing: it starts what it needs,
// leaves no process and no file behind, and gives one Value for each metric. Values of the peers are set against
// Quorate's value of the same Metric; those without a counterpart are left out.
type Contender struct {
	Name string
	Note string                                                // how it is configured, printed under the table
	Run  func(ctx context.Context, o Options) ([]Value, error) // called once a round
	// Missing says why it can't run here, such as a program that is not installed; nil: it always can.
	Missing func() error
}

// Value is one figure.
type Value struct {
	Metric string // what is measured, such as "1 shard"; unique within a workload
	Unit   string // such as "proposals/s"
	Value  float64
	Lower  bool // lower is better: a time
}

// Options are the same for every contender.
type Options struct {
	Quorate  string        // the quorate executable
	Duration time.Duration // what is measured, of each metric
	WarmUp   time.Duration // load before anything counts
	Rates    []int         // tasks a second at which latency is measured (lifecycle)
	Logf     func(format string, args ...any)
}

// workloads are all there are; each is declared in a file of its own.
var workloads = []Workload{lifecycleWorkload, embeddedWorkload, raftstoreWorkload, schedWorkload}

func findWorkload(name string) (Workload, error) {
	names := make([]string, len(workloads))
	for i, w := range workloads {
		if w.Name == name {
			return w, nil
		}
		names[i] = w.Name
	}
	return Workload{}, fmt.Errorf("workload %q: want one of %s", name, strings.Join(names, ", "))
}

// choose keeps the peers named in a comma-separated list; an empty one keeps those that can run here, and leftOut is
// told of the others.
func (w Workload) choose(list string, leftOut func(format string, args ...any)) ([]Contender, error) {
	var out []Contender
	if list == "" {
		for _, p := range w.Peers {
			if p.Missing != nil {
				if err := p.Missing(); err != nil {
					leftOut("left out of %s: %s: %v", w.Name, p.Name, err)
					continue
				}
			}
			out = append(out, p)
		}
		return out, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(w.Peers, func(p Contender) bool { return p.Name == strings.TrimSpace(name) })
		if i < 0 {
			continue // one list serves several workloads
		}
		if p := w.Peers[i]; p.Missing == nil {
			out = append(out, p)
		} else if err := p.Missing(); err != nil {
			return nil, fmt.Errorf("peer %s: %w", p.Name, err)
		} else {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		names := make([]string, len(w.Peers))
		for i, p := range w.Peers {
			names[i] = p.Name
		}
		return nil, fmt.Errorf("workload %s has none of the peers %q: want some of %s", w.Name, list, strings.Join(names, ", "))
	}
	return out, nil
}
