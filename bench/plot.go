package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// A plot is one diagram with straight axes from zero. It is drawn by hand, as SVG or PNG: a plotting library would be the
// largest thing in the binary.
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

// canvas is what a plot is drawn on, in units of plotWidth by plotHeight.
type canvas interface {
	// line draws through points; dashed is for marks.
	line(points [][2]float64, colour string, width float64, dashed bool)
	// text puts s at a point of its baseline: its beginning, middle or end.
	text(x, y float64, at anchor, colour string, size float64, s string)
	// upright puts s with its middle at a point, read from below.
	upright(x, y float64, s string)
	finish(out io.Writer) error
}

type anchor int

const (
	anchorStart anchor = iota
	anchorMiddle
	anchorEnd
)

const (
	plotFont, titleFont = 12, 15
	black, grey, red    = "#000000", "#dddddd", "#cc0000"
)

// draw draws the plot. It is an error to draw what is not a number.
func (p plot) draw(c canvas, out io.Writer) error {
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
	at := func(x, y float64) [2]float64 {
		return [2]float64{plotLeft + x/maxX*(plotWidth-plotLeft-plotRight), plotHeight - plotBottom - y/maxY*(plotHeight-plotTop-plotBottom)}
	}
	c.text(plotLeft, 20, anchorStart, black, titleFont, p.title)
	for i := range plotTicks + 1 {
		x, y := maxX*float64(i)/plotTicks, maxY*float64(i)/plotTicks
		c.line([][2]float64{at(x, 0), at(x, maxY)}, grey, 1, false)
		c.line([][2]float64{at(0, y), at(maxX, y)}, grey, 1, false)
		c.text(at(x, 0)[0], at(x, 0)[1]+18, anchorMiddle, black, plotFont, fmt.Sprintf("%g", x))
		c.text(at(0, y)[0]-8, at(0, y)[1]+4, anchorEnd, black, plotFont, fmt.Sprintf("%g", y))
	}
	c.text((plotLeft+plotWidth-plotRight)/2, plotHeight-15, anchorMiddle, black, plotFont, p.x)
	c.upright(16, plotHeight/2, p.y)
	for _, m := range p.marks {
		c.line([][2]float64{at(m.x, 0), at(m.x, maxY)}, red, 1, true)
		c.text(at(m.x, maxY)[0]+4, at(m.x, maxY)[1]+12, anchorStart, red, plotFont, m.name)
	}
	for i, s := range p.series {
		colour := plotColours[i%len(plotColours)]
		var points [][2]float64
		for _, pt := range s.points {
			points = append(points, at(pt[0], pt[1]))
		}
		c.line(points, colour, 1.8, false)
		c.text(plotLeft+float64(i)*130, 40, anchorStart, colour, plotFont, s.name)
	}
	return c.finish(out)
}

// write draws the plot as SVG.
func (p plot) write(out io.Writer) error { return p.draw(newSVG(), out) }

// checkPlot says at once what save would say after the measurement.
func checkPlot(path string) error {
	if ext := filepath.Ext(path); ext != "" && ext != ".svg" && ext != ".png" {
		return fmt.Errorf("bench: plot %s: want a name that ends in .svg or .png, or without an ending for both", path)
	}
	return nil
}

// save writes the plot to a file, as its name says: .svg or .png, both without either; an empty name writes nothing.
func (p plot) save(path string) error {
	if path == "" {
		return nil
	}
	if err := checkPlot(path); err != nil {
		return err
	}
	c := canvas(newSVG())
	switch filepath.Ext(path) {
	case "":
		if err := p.save(path + ".svg"); err != nil {
			return err
		}
		return p.save(path + ".png")
	case ".png":
		var err error
		if c, err = newPNG(); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Clean(path))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err = p.draw(c, f); err != nil {
		_ = f.Close() // the first error counts
		return err
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// svg is a canvas of text.
type svg struct{ strings.Builder }

func newSVG() *svg {
	c := &svg{}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="%d">`+"\n", plotWidth, plotHeight, plotFont)
	fmt.Fprintf(c, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	return c
}

func (c *svg) line(points [][2]float64, colour string, width float64, dashed bool) {
	dash := ""
	if dashed {
		dash = ` stroke-dasharray="4 3"`
	}
	fmt.Fprintf(c, `<polyline fill="none" stroke="%s" stroke-width="%g"%s points="`, colour, width, dash)
	for _, pt := range points {
		fmt.Fprintf(c, "%.1f,%.1f ", pt[0], pt[1])
	}
	c.WriteString(`"/>` + "\n")
}

func (c *svg) text(x, y float64, at anchor, colour string, size float64, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" font-size="%g">%s</text>`+"\n",
		x, y, [...]string{"start", "middle", "end"}[at], colour, size, html.EscapeString(s))
}

func (c *svg) upright(x, y float64, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="middle" transform="rotate(-90 %g %g)">%s</text>`+"\n", x, y, x, y, html.EscapeString(s))
}

func (c *svg) finish(out io.Writer) error {
	c.WriteString("</svg>\n")
	_, err := io.WriteString(out, c.String())
	return err
}
