package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/quorate/quorate/bench"
)

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
		verdict := bench.Verdict(lo, hi, a.Better == "lower")
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t[%.2f–%.2f]\t%s\n", a.Workload, a.Metric, a.Peer, b.Ratio, a.Ratio, a.Ratio/b.Ratio, lo, hi, verdict)
	}
	if !found {
		return fmt.Errorf("%s and %s have no metric in common", before, after)
	}
	return t.Flush()
}

// changeInterval is the 95 % interval of the quotient of the two ratios.
func changeInterval(before, after line) (lo, hi float64) {
	return bench.Interval([][]float64{before.QuorateRuns, before.PeerRuns, after.QuorateRuns, after.PeerRuns},
		func(m []float64) float64 { return m[2] / m[3] / (m[0] / m[1]) })
}
