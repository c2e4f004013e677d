package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"text/tabwriter"
)

// resamples is how often a bootstrap draws: the ends of a 95 % interval then rest on 250 draws each.
const resamples = 10_000

// readLines reads what -json printed.
func readLines(path string) ([]line, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []line
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for n := 1; in.Scan(); n++ {
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, n, err)
		}
		if len(l.QuorateRuns) == 0 || len(l.PeerRuns) == 0 {
			return nil, fmt.Errorf("%s: line %d: it has no runs: want what -json prints", path, n)
		}
		lines = append(lines, l)
	}
	return lines, in.Err()
}

// compareFiles prints, for every metric that both files have, by what Quorate's ratio to the peer changed. The ratio, not
// the figure: the peer, measured in the same run, says how fast the machine was that day.
func compareFiles(out io.Writer, before, after string) error {
	old, err := readLines(before)
	if err != nil {
		return err
	}
	now, err := readLines(after)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "workload\tmetric\tpeer\tratio before\tafter\tafter / before\t95 % interval\tchanged")
	found := false
	for _, a := range now {
		i := slices.IndexFunc(old, func(l line) bool { return l.Workload == a.Workload && l.Metric == a.Metric && l.Peer == a.Peer })
		if i < 0 {
			continue
		}
		found = true
		b := old[i]
		lo, hi := changeInterval(b, a)
		verdict := "not beyond the noise"
		if lo > 1 || hi < 1 {
			verdict = "better"
			if (hi < 1) == (a.Better == "higher") {
				verdict = "worse"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t[%.2f–%.2f]\t%s\n", a.Workload, a.Metric, a.Peer, b.Ratio, a.Ratio, a.Ratio/b.Ratio, lo, hi, verdict)
	}
	if !found {
		return fmt.Errorf("%s and %s have no metric in common", before, after)
	}
	return t.Flush()
}

// changeInterval is the 95 % percentile-bootstrap interval of the quotient of the two ratios (Efron 1979). The seed is
// fixed: the same files give the same answer. With three rounds it is little more than the extremes; take more rounds.
func changeInterval(before, after line) (lo, hi float64) {
	r := rand.New(rand.NewPCG(1, 2))
	draws := make([]float64, resamples)
	for i := range draws {
		draws[i] = resample(r, after.QuorateRuns) / resample(r, after.PeerRuns) / (resample(r, before.QuorateRuns) / resample(r, before.PeerRuns))
	}
	slices.Sort(draws)
	return draws[resamples*25/1000], draws[resamples*975/1000-1]
}

// resample is the median of as many draws with replacement.
func resample(r *rand.Rand, values []float64) float64 {
	s := series{values: make([]float64, len(values))}
	for i := range s.values {
		s.values[i] = values[r.IntN(len(values))]
	}
	_, median, _ := s.spread()
	return median
}
