package bench

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"
	"strconv"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// pngScale is how many pixels a unit of a plot has, each way: 1520 by 840 in all.
const pngScale = 2

// raster is a canvas of pixels.
type raster struct {
	img   *image.RGBA
	fonts *opentype.Font
	faces map[float64]font.Face
	err   error // the first
}

func newPNG() (*raster, error) {
	f, err := opentype.Parse(goregular.TTF)
	if err != nil {
		return nil, fmt.Errorf("bench: plot: %w", err)
	}
	c := &raster{img: image.NewRGBA(image.Rect(0, 0, plotWidth*pngScale, plotHeight*pngScale)), fonts: f, faces: map[float64]font.Face{}}
	draw.Draw(c.img, c.img.Bounds(), image.White, image.Point{}, draw.Src)
	return c, nil
}

// rgb reads #rrggbb.
func rgb(s string) image.Image {
	v, _ := strconv.ParseUint(s[1:], 16, 32) // one of ours
	return image.NewUniform(color.RGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 0xff})
}

// dashes are the lengths of a dash and of the gap behind it.
const dashLength, dashGap = 4, 3

func (c *raster) line(points [][2]float64, colour string, width float64, dashed bool) {
	r := vector.NewRasterizer(c.img.Bounds().Dx(), c.img.Bounds().Dy())
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		length := math.Hypot(b[0]-a[0], b[1]-a[1])
		if length == 0 {
			continue
		}
		step := length
		if dashed {
			step = dashLength + dashGap
		}
		for from := 0.0; from < length; from += step {
			to := length
			if dashed {
				to = min(from+dashLength, length)
			}
			stroke(r, a, [2]float64{(b[0] - a[0]) / length, (b[1] - a[1]) / length}, from, to, width/2)
		}
	}
	r.Draw(c.img, c.img.Bounds(), rgb(colour), image.Point{})
}

// stroke adds a rectangle along a direction. Its ends stand out by half the width, so that strokes that meet leave no
// notch; all go round the same way, or the rasterizer would take off where they overlap.
func stroke(r *vector.Rasterizer, a, dir [2]float64, from, to, half float64) {
	from, to = from-half, to+half
	at := func(along, aside float64) (x, y float32) {
		return float32((a[0] + dir[0]*along - dir[1]*aside) * pngScale), float32((a[1] + dir[1]*along + dir[0]*aside) * pngScale)
	}
	r.MoveTo(at(from, -half))
	r.LineTo(at(to, -half))
	r.LineTo(at(to, half))
	r.LineTo(at(from, half))
	r.ClosePath()
}

func (c *raster) face(size float64) font.Face {
	if f := c.faces[size]; f != nil {
		return f
	}
	f, err := opentype.NewFace(c.fonts, &opentype.FaceOptions{Size: size * pngScale, DPI: 72, Hinting: font.HintingFull})
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("bench: plot: %w", err)
	}
	c.faces[size] = f
	return f
}

func (c *raster) text(x, y float64, at anchor, colour string, size float64, s string) {
	c.write(c.img, x*pngScale, y*pngScale, at, colour, size, s)
}

func (c *raster) write(to draw.Image, x, y float64, at anchor, colour string, size float64, s string) {
	f := c.face(size)
	if c.err != nil {
		return
	}
	d := font.Drawer{Dst: to, Src: rgb(colour), Face: f, Dot: fixed.P(int(x), int(y))}
	switch width := d.MeasureString(s); at {
	case anchorMiddle:
		d.Dot.X -= width / 2
	case anchorEnd:
		d.Dot.X -= width
	}
	d.DrawString(s)
}

func (c *raster) upright(x, y float64, s string) {
	const wide, high = plotHeight * pngScale, 2 * plotFont * pngScale
	lying := image.NewRGBA(image.Rect(0, 0, wide, high))
	const baseline = high - plotFont*pngScale/2
	c.write(lying, wide/2, baseline, anchorMiddle, black, plotFont, s)
	for i := range wide {
		for j := range high { // along the text is up, below it is right
			if p := lying.RGBAAt(i, j); p.A > 0 {
				at := image.Pt(int(x*pngScale)+j-baseline, int(y*pngScale)+wide/2-i)
				draw.Draw(c.img, image.Rectangle{Min: at, Max: at.Add(image.Pt(1, 1))}, image.NewUniform(p), image.Point{}, draw.Over)
			}
		}
	}
}

func (c *raster) finish(out io.Writer) error {
	if c.err != nil {
		return c.err
	}
	if err := png.Encode(out, c.img); err != nil {
		return fmt.Errorf("bench: plot: %w", err)
	}
	return nil
}
