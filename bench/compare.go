package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

func saveLines(path string, lines []SuiteLine) error {
	f, err := os.Create(filepath.Clean(path))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	enc := json.NewEncoder(f)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			_ = f.Close() // the first error counts
			return fmt.Errorf("bench: %s: %w", path, err)
		}
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// readSuite reads what saveLines wrote, or Suite printed as JSON.
func readSuite(path string) ([]SuiteLine, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer f.Close()
	var lines []SuiteLine
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for n := 1; in.Scan(); n++ {
		var l SuiteLine
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("bench: %s: line %d: %w", path, n, err)
		}
		if len(l.Runs) == 0 || l.Metric == "" {
			return nil, fmt.Errorf("bench: %s: line %d: it has no runs: want what `quorate bench suite` writes", path, n)
		}
		lines = append(lines, l)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("bench: %s: %w", path, err)
	}
	return lines, nil
}

// Compare prints, for each figure that two result files of Suite share, by what
// it changed and whether that is more than noise. Compare what was measured on
// the same machine in the same state; across machines only ratios to a peer in
// the same run say anything (bench/peers).
func Compare(out io.Writer, before, after string) error {
	old, err := readSuite(before)
	if err != nil {
		return err
	}
	now, err := readSuite(after)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "workload\tcase\tmetric\tbefore\tafter\tafter / before\t95 % interval\tchanged")
	found := false
	for _, a := range now {
		i := slices.IndexFunc(old, func(l SuiteLine) bool {
			return l.Workload == a.Workload && l.Case == a.Case && l.Metric == a.Metric && l.Unit == a.Unit
		})
		if i < 0 {
			continue
		}
		b := old[i]
		_, was, _ := Spread(b.Runs)
		_, is, _ := Spread(a.Runs)
		if was <= 0 || is <= 0 {
			continue // nothing to divide by
		}
		found = true
		lo, hi := Interval([][]float64{b.Runs, a.Runs}, func(m []float64) float64 { return m[1] / m[0] })
		fmt.Fprintf(t, "%s\t%s\t%s\t%s %s\t%s %s\t%.2f\t[%.2f–%.2f]\t%s\n", a.Workload, a.Case, a.Metric, Figure(was), a.Unit, Figure(is), a.Unit,
			is/was, lo, hi, Verdict(lo, hi, a.Better == lower))
	}
	if !found {
		return fmt.Errorf("bench: %s and %s have no figure in common", before, after)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}
