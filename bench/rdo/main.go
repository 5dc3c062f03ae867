// Command rdo measures what rate–distortion-optimized rounding would win on a model's weights, in bits per weight at equal error.
//
//	rdo [-rows N] IN
//
// Each weight may take the nearest level or its neighbour towards zero, whichever makes error + λ·bits smallest, with λ on the
// slope of the quantizer's own rate–distortion curve and bits from the histogram that results, iterated. Levels are reconstructed
// at LMMSE scale in both cases, rows are scaled to one mean magnitude, as row classes do.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"

	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

func main() {
	rows := flag.Int("rows", 32, "rows of each matrix that are looked at")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: rdo [-rows N] IN.gguf")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *rows); err != nil {
		fmt.Fprintln(os.Stderr, "rdo:", err)
		os.Exit(1)
	}
}

// steps are in units of the rows' standard deviation if they are normal: about 2, 3 and 4 bits per weight.
var steps = [...]float64{1, 0.5, 0.25}

func run(path string, n int) error {
	src, err := source.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	var rate, gain, weights [len(steps)]float64
	for i, t := range src.Tensors() {
		if t.Vector {
			continue
		}
		x, err := sample(src, i, n)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		for k, step := range steps {
			h, g := compare(x, step)
			size := float64(t.Rows) * float64(t.Cols)
			rate[k] += size * h
			gain[k] += size * g
			weights[k] += size
		}
	}
	fmt.Println("bits per weight   bits saved at equal error")
	for k := range steps {
		fmt.Printf("%15.3f %27.4f\n", rate[k]/weights[k], gain[k]/weights[k])
	}
	return nil
}

// sample returns weights of rows spread over tensor i, divided by the standard deviation that a normal row of their mean
// magnitude has.
func sample(src source.Model, i, n int) ([]float64, error) {
	t := src.Tensors()[i]
	n = min(n, t.Rows)
	row := make([]float32, t.Cols)
	var out []float64
	for k := range n {
		r := k * t.Rows / n
		if err := src.ReadRows(i, r, r+1, row); err != nil {
			return nil, err
		}
		mean := 0.0
		for _, w := range row {
			mean += math.Abs(float64(w)) / float64(len(row))
		}
		if mean == 0 {
			continue
		}
		for _, w := range row {
			out = append(out, float64(w)/mean*math.Sqrt(2/math.Pi))
		}
	}
	return out, nil
}

// compare returns the bits per weight of plain rounding, and what optimized rounding saves at equal error.
func compare(x []float64, step float64) (rate, gain float64) {
	h, d := quantize(x, step, 0)
	coarserH, coarserD := quantize(x, 1.03*step, 0)
	slope := math.Log2(coarserD/d) / (h - coarserH) // about 2: a bit is a quarter of the error
	for _, f := range []float64{0.5, 1, 1.5} {
		lambda := f * slope * math.Ln2 * d
		ho, do := quantize(x, step, lambda)
		gain = max(gain, h-ho-math.Log2(do/d)/slope)
	}
	return h, gain
}

const limit = 255 // of |level|

// quantize returns entropy and mean squared error.
func quantize(x []float64, step, lambda float64) (entropy, noise float64) {
	var bits [2*limit + 1]float64
	gain := step
	for range 6 {
		var hist [2*limit + 1]float64
		var wq, qq, ww float64
		for _, w := range x {
			q := min(max(int(math.Round(w/step)), -limit), limit)
			if q != 0 && lambda > 0 {
				o := q - 1
				if q < 0 {
					o = q + 1
				}
				cost := func(q int) float64 {
					e := w - gain*float64(q)
					return e*e + lambda*bits[q+limit]
				}
				if cost(o) < cost(q) {
					q = o
				}
			}
			hist[q+limit]++
			wq, qq, ww = wq+w*float64(q), qq+float64(q*q), ww+w*w
		}
		n := float64(len(x))
		gain, noise, entropy = wq/max(qq, 1), (ww-wq*wq/max(qq, 1))/n, 0
		for i, c := range hist {
			bits[i] = -math.Log2((c + 0.01) / n)
			if c > 0 {
				entropy -= c / n * math.Log2(c/n)
			}
		}
		if lambda == 0 {
			break
		}
	}
	return entropy, noise
}
