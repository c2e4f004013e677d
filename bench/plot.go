package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// A plot is one diagram with straight axes from zero. It is drawn as SVG by hand: a plotting library would be the largest
// thing in the binary.
type plot struct {
	title, x, y string
	series      []plotSeries
	marks       []plotMark // vertical lines
}

type plotSeries struct {
	name   string
	points [][2]float64
}

type plotMark struct {
	name string
	x    float64
}

const (
	plotWidth, plotHeight = 760, 420
	plotLeft, plotRight   = 80, 20
	plotTop, plotBottom   = 50, 60
	plotTicks             = 5
)

var plotColours = []string{"#1f6fb4", "#d1601f", "#2f8f4e", "#8a4fb0"}

// niceTop is the least of 1, 2, 2.5 and 5 times a power of ten that is not below v.
func niceTop(v float64) float64 {
	if v <= 0 {
		return 1
	}
	base := math.Pow(10, math.Floor(math.Log10(v)))
	for _, k := range []float64{1, 2, 2.5, 5} {
		if k*base >= v {
			return k * base
		}
	}
	return 10 * base
}

// write draws the plot. It is an error to draw what is not a number.
func (p plot) write(out io.Writer) error {
	var maxX, maxY float64
	for _, s := range p.series {
		for _, pt := range s.points {
			if math.IsNaN(pt[0]+pt[1]) || math.IsInf(pt[0]+pt[1], 0) || min(pt[0], pt[1]) < 0 {
				return fmt.Errorf("bench: plot: %s has the point %v", s.name, pt)
			}
			maxX, maxY = max(maxX, pt[0]), max(maxY, pt[1])
		}
	}
	maxX, maxY = niceTop(maxX), niceTop(maxY)
	px := func(v float64) float64 { return plotLeft + v/maxX*(plotWidth-plotLeft-plotRight) }
	py := func(v float64) float64 { return plotHeight - plotBottom - v/maxY*(plotHeight-plotTop-plotBottom) }
	var b strings.Builder
	line := func(x1, y1, x2, y2 float64, style string) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, style)
	}
	text := func(x, y float64, attr, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attr, html.EscapeString(s))
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	text(plotLeft, 20, `font-size="15"`, p.title)
	for i := range plotTicks + 1 {
		x, y := maxX*float64(i)/plotTicks, maxY*float64(i)/plotTicks
		line(px(x), py(0), px(x), py(maxY), `stroke="#ddd"`)
		line(px(0), py(y), px(maxX), py(y), `stroke="#ddd"`)
		text(px(x), py(0)+18, `text-anchor="middle"`, fmt.Sprintf("%g", x))
		text(px(0)-8, py(y)+4, `text-anchor="end"`, fmt.Sprintf("%g", y))
	}
	text((plotLeft+plotWidth-plotRight)/2, plotHeight-15, `text-anchor="middle"`, p.x)
	text(16, plotHeight/2, fmt.Sprintf(`text-anchor="middle" transform="rotate(-90 16 %d)"`, plotHeight/2), p.y)
	for _, m := range p.marks {
		line(px(m.x), py(0), px(m.x), py(maxY), `stroke="#c00" stroke-dasharray="4 3"`)
		text(px(m.x)+4, py(maxY)+12, `fill="#c00"`, m.name)
	}
	for i, s := range p.series {
		colour := plotColours[i%len(plotColours)]
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.8" points="`, colour)
		for _, pt := range s.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", px(pt[0]), py(pt[1]))
		}
		b.WriteString(`"/>` + "\n")
		text(plotLeft+float64(i)*130, 40, fmt.Sprintf(`fill="%s"`, colour), s.name)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(out, b.String())
	return err
}
