package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/quorate/quorate/bench"
)

// line is one row of the table, and one object of the JSON output.
type line struct {
	Workload   string  `json:"workload"`
	Metric     string  `json:"metric"`
	Peer       string  `json:"peer"`
	Quorate    float64 `json:"quorate"`    // median over the rounds
	PeerValue  float64 `json:"peer_value"` // likewise
	Unit       string  `json:"unit"`
	Ratio      float64 `json:"ratio"`  // quorate / peer_value
	Better     string  `json:"better"` // "higher" or "lower"
	QuorateMin float64 `json:"quorate_min"`
	QuorateMax float64 `json:"quorate_max"`
	PeerMin    float64 `json:"peer_min"`
	PeerMax    float64 `json:"peer_max"`
	Rounds     int     `json:"rounds"`
	// Of each round, in the order taken; what compares two files needs them.
	QuorateRuns []float64 `json:"quorate_runs"`
	PeerRuns    []float64 `json:"peer_runs"`
}

// series are the values of one contender at one metric, one a round.
type series struct {
	first  Value
	values []float64
}

// results are one contender's, in the order it gave them.
type results []*series

func (r *results) add(vs []Value) {
	for _, v := range vs {
		s := r.find(v.Metric)
		if s == nil {
			s = &series{first: v}
			*r = append(*r, s)
		}
		s.values = append(s.values, v.Value)
	}
}

func (r results) find(metric string) *series {
	if i := slices.IndexFunc(r, func(s *series) bool { return s.first.Metric == metric }); i >= 0 {
		return r[i]
	}
	return nil
}

func (s *series) spread() (lo, median, hi float64) { return bench.Spread(s.values) }

// takeTurns measures Quorate and the peers in turn, every other round backwards, so that a machine that gets slower
// or faster favours nobody. A contender that fails ends the run: half a comparison is none.
func takeTurns(ctx context.Context, w Workload, peers []Contender, rounds int, o Options) ([]line, error) {
	all := append([]Contender{w.Quorate}, peers...)
	got := make([]results, len(all))
	for round := range rounds {
		order := make([]int, len(all))
		for i := range order {
			order[i] = i
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			vs, err := all[i].Run(ctx, o)
			if err != nil {
				return nil, fmt.Errorf("%s of %s: %w", w.Name, all[i].Name, err)
			}
			for _, v := range vs {
				o.Logf("round %d of %d  %-12s %-24s %12s %s", round+1, rounds, all[i].Name, v.Metric, bench.Figure(v.Value), v.Unit)
			}
			got[i].add(vs)
		}
	}
	var lines []line
	for i, p := range peers {
		for _, s := range got[i+1] {
			if q := got[0].find(s.first.Metric); q != nil {
				lines = append(lines, compare(w.Name, p.Name, q, s))
			}
		}
	}
	return lines, nil
}

func compare(workload, peer string, q, p *series) line {
	l := line{Workload: workload, Metric: q.first.Metric, Peer: peer, Unit: q.first.Unit, Better: "higher", Rounds: len(p.values),
		QuorateRuns: q.values, PeerRuns: p.values}
	if q.first.Lower {
		l.Better = "lower"
	}
	l.QuorateMin, l.Quorate, l.QuorateMax = q.spread()
	l.PeerMin, l.PeerValue, l.PeerMax = p.spread()
	if l.PeerValue > 0 {
		l.Ratio = l.Quorate / l.PeerValue
	}
	return l
}

func printJSON(out io.Writer, lines []line) error {
	enc := json.NewEncoder(out)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

func printTable(out io.Writer, w Workload, peers []Contender, lines []line) error {
	fmt.Fprintf(out, "\n%s: %s\n\n", w.Name, w.About)
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "metric\tunit\tquorate [min–max]\tpeer\tits value [min–max]\tratio\tbetter")
	for _, l := range lines {
		fmt.Fprintf(t, "%s\t%s\t%s [%s–%s]\t%s\t%s [%s–%s]\t%.2f\t%s\n", l.Metric, l.Unit, bench.Figure(l.Quorate), bench.Figure(l.QuorateMin),
			bench.Figure(l.QuorateMax), l.Peer, bench.Figure(l.PeerValue), bench.Figure(l.PeerMin), bench.Figure(l.PeerMax), l.Ratio, l.Better)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, c := range append([]Contender{w.Quorate}, peers...) {
		if c.Note != "" {
			fmt.Fprintf(out, "\n%s: %s", c.Name, strings.TrimSpace(c.Note))
		}
	}
	fmt.Fprintln(out)
	return nil
}
