package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNiceTop(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, 1: 1, 1.1: 2, 2.1: 2.5, 26: 50, 51: 100, 1e6: 1e6, 1.2e6: 2e6} {
		if got := niceTop(v); got != want {
			t.Errorf("top of %g is %g, want %g", v, got, want)
		}
	}
}

// TestPlotIsXML: whatever the names are, and points stay within the frame.
func TestPlotIsXML(t *testing.T) {
	var out strings.Builder
	p := plot{title: `a < b & "c"`, series: []plotSeries{{name: "<s>", points: [][2]float64{{0, 0}, {10, 3}}}, {name: "none"}}, marks: []plotMark{{"kill", 5}}}
	if err := p.write(&out); err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(out.String()))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(out.String(), `points="80.0,360.0 740.0,174.0 "`) {
		t.Errorf("10 of 10 and 3 of 5 are not where they belong:\n%s", out.String())
	}
	for _, bad := range [][2]float64{{math.NaN(), 1}, {1, math.Inf(1)}, {-1, 1}} {
		if (plot{series: []plotSeries{{points: [][2]float64{bad}}}}).write(io.Discard) == nil {
			t.Errorf("%v is drawn", bad)
		}
	}
}

// TestTimeline: steps without a completion are there, as zero; the kill stands where it was.
func TestTimeline(t *testing.T) {
	m := &measurement{Meter: NewMeter(MeterConfig{Rate: 1})}
	for _, at := range []time.Duration{900, 1000, 1050, 1350} {
		m.completedAt(make([]time.Duration, 2), at*time.Millisecond)
	}
	m.kill.begin("n1", nil, 1200*time.Millisecond)
	p := m.timeline(mark{at: time.Second}, mark{at: 1500 * time.Millisecond})
	var got []float64
	for _, pt := range p.series[0].points {
		got = append(got, pt[1])
	}
	if len(got) != 5 || got[0] != 40 || got[1] != 0 || got[3] != 20 || got[4] != 0 || math.Abs(p.marks[0].x-0.2) > 1e-9 {
		t.Errorf("per second %v, marks %v", got, p.marks)
	}
	path := filepath.Join(t.TempDir(), "t.svg")
	if err := p.save(path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(b), "<svg") {
		t.Errorf("%v: %.20s", err, b)
	}
	if p.save(filepath.Join(t.TempDir(), "no", "such", "dir.svg")) == nil || p.save("") != nil {
		t.Error("a plot that can't be written is, or none is asked for and fails")
	}
}
