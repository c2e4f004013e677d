package bench

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSuiteForReal measures two small workloads in two rounds, and compares the
// result with itself and with a slower one.
func TestSuiteForReal(t *testing.T) {
	binary := executable(t)
	dir := t.TempDir()
	var out, progress bytes.Buffer
	lines, err := Suite(t.Context(), SuiteConfig{Binary: binary, Workloads: []string{"live", "backlog"}, Rounds: 2, Duration: time.Second,
		WarmUp: 200 * time.Millisecond, Backlog: 3000, Live: []int{0, 2000}, Dir: dir, Out: &out, Progress: &progress})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		// A machine that stands still for a run's second is no defect of the suite.
		if len(l.Runs) != 2 || l.Min < 0 || l.Max == 0 || l.Median < l.Min || l.Max < l.Median {
			t.Errorf("line %+v", l)
		}
	}
	if len(lines) != 2*4+3 || strings.Count(progress.String(), "\n") != 6 || !strings.Contains(out.String(), "submitted while no agent was there") {
		t.Errorf("%d lines\n%s%s", len(lines), progress.String(), out.String())
	}
	if b, err := os.ReadFile(filepath.Join(dir, "live.svg")); err != nil || !bytes.Contains(b, []byte("waiting tasks")) {
		t.Errorf("plot: %v", err)
	}
	saved := filepath.Join(dir, "results.jsonl")
	out.Reset()
	if err := Compare(&out, saved, saved); err != nil || strings.Count(out.String(), "not beyond the noise") != len(lines) {
		t.Errorf("compared with itself: %v\n%s", err, out.String())
	}
	slow := slices.Clone(lines)
	for i := range slow {
		slow[i].Runs = []float64{10 * slow[i].Max, 11 * slow[i].Max}
	}
	other := filepath.Join(dir, "slow.jsonl")
	if err := saveLines(other, slow); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := Compare(&out, saved, other); err != nil || strings.Count(out.String(), "worse") != 2*3+1 || strings.Count(out.String(), "better") != 2+2 {
		t.Errorf("compared with ten times the figures: %v\n%s", err, out.String())
	}
}

func TestSuiteRefuses(t *testing.T) {
	for name, cfg := range map[string]SuiteConfig{
		"workload":  {Workloads: []string{"levels", "nonsense"}},
		"rounds":    {Rounds: maxRounds + 1},
		"backlog":   {Backlog: maxWaiting + 1},
		"live":      {Live: []int{maxWaiting + 1}},
		"guarantee": {},
	} {
		_, err := cfg.withDefaults()
		if name == "guarantee" {
			err = LifecycleConfig{Guarantee: "sometimes"}.withDefaults().validate()
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c, err := (SuiteConfig{Backlog: maxWaiting, Live: []int{maxWaiting}, Rounds: maxRounds}).withDefaults(); err != nil || len(c.Workloads) != len(SuiteWorkloads()) {
		t.Errorf("at the limits: %v", err)
	}
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("{\"workload\":\"live\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{bad, bad}, {filepath.Join(dir, "absent"), bad}} {
		if err := Compare(&bytes.Buffer{}, pair[0], pair[1]); err == nil {
			t.Errorf("%v were compared", pair)
		}
	}
}

func TestIntervalHoldsTheChange(t *testing.T) {
	before, after := []float64{100, 101, 99, 100, 102}, []float64{150, 149, 151, 152, 150}
	change := func(m []float64) float64 { return m[1] / m[0] }
	lo, hi := Interval([][]float64{before, after}, change)
	if lo < 1.4 || hi > 1.6 || lo > 1.5 || hi < 1.5 {
		t.Errorf("[%v–%v], want it around 1.5", lo, hi)
	}
	if again, _ := Interval([][]float64{before, after}, change); again != lo {
		t.Error("the same figures gave two answers")
	}
	for _, c := range []struct {
		lo, hi float64
		lower  bool
		want   string
	}{{0.9, 1.1, true, "not beyond the noise"}, {1.1, 1.2, true, "worse"}, {1.1, 1.2, false, "better"}, {0.8, 0.9, true, "better"}, {0.8, 0.9, false, "worse"},
		{math.NaN(), math.Inf(1), false, "not beyond the noise"}, {math.NaN(), 0.5, true, "better"}} {
		if got := Verdict(c.lo, c.hi, c.lower); got != c.want {
			t.Errorf("[%v–%v], lower is better %v: %s", c.lo, c.hi, c.lower, got)
		}
	}
}
