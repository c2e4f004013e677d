package bench

import (
	"encoding/xml"
	"errors"
	"image"
	"image/color"
	"image/png"
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

// TestPNG: a plot has its lines where the SVG has them, text, and is refused in other formats before anything is drawn.
func TestPNG(t *testing.T) {
	p := plot{title: "title", x: "x", y: "upright", series: []plotSeries{{name: "s", points: [][2]float64{{0, 0}, {5, 4}, {10, 0}}}}, marks: []plotMark{{"kill", 2}}}
	path := filepath.Join(t.TempDir(), "p")
	if err := p.save(path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path + ".svg"); err != nil || !strings.HasPrefix(string(b), "<svg") {
		t.Errorf("%v: %.20s", err, b)
	}
	f, err := os.Open(path + ".png")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil || img.Bounds() != image.Rect(0, 0, 1520, 840) {
		t.Fatalf("%v: %v", err, img.Bounds())
	}
	near := func(what string, x, y, r int, r8, g8, b8 uint8) {
		for i := x - r; i <= x+r; i++ {
			for j := y - r; j <= y+r; j++ {
				if c := color.RGBAModel.Convert(img.At(i, j)).(color.RGBA); c == (color.RGBA{r8, g8, b8, 255}) {
					return
				}
			}
		}
		t.Errorf("%s is not at %d, %d", what, x, y)
	}
	near("the peak, at 5 of 10 and 4 of 5", 2*410, 2*112, 2, 0x1f, 0x6f, 0xb4)
	near("the slope's middle", 2*245, 2*236, 2, 0x1f, 0x6f, 0xb4)
	near("the mark, at 2 of 10", 2*212, 2*100, 8, 0xcc, 0, 0)
	near("the title", 2*90, 2*15, 16, 0, 0, 0)
	near("the upright text", 2*12, 2*210, 12, 0, 0, 0)
	if err := p.save(path + ".gif"); err == nil {
		t.Error("a GIF is drawn")
	}
	if _, err := (SuiteConfig{}).withDefaults(); err != nil {
		t.Error(err)
	}
	if err := (LifecycleConfig{Plot: "x.gif"}).withDefaults().validate(); err == nil || !strings.Contains(err.Error(), ".png") {
		t.Errorf("a measurement whose plot can't be drawn is begun: %v", err)
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
