package bench

import (
	"bytes"
	"strings"
	"testing"
)

// Every metric has a figure of the scheduler's, and what is printed parses.
func TestSched(t *testing.T) {
	var out bytes.Buffer
	rows, err := Sched(t.Context(), SchedConfig{Operations: 3200, Rounds: 1, Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if r.Nanos <= 0 || r.Procs <= 0 {
			t.Errorf("%+v", r)
		}
		if r.Contender == "sched" {
			seen[r.Metric] = true
		}
	}
	curves := 0
	for _, r := range rows {
		if r.Ratio == 0 {
			curves++
		}
	}
	if len(seen) != len(schedMetrics)+1 || curves != 4*len(schedProcs) || !strings.Contains(out.String(), "goroutines") {
		t.Errorf("%d of %d metrics:\n%s", len(seen), len(schedMetrics), out.String())
	}
	if _, err := Sched(t.Context(), SchedConfig{Rounds: -1}); err == nil {
		t.Error("less than no rounds")
	}
}
