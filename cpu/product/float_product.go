package product

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
)

const (
	// floatRows is how many rows a floating-point product takes at a time: what vec.Kernels.Dot4 multiplies.
	floatRows = 4
	// floatCols columns are widened at a time, which fits the first-level cache with some activations. Partial sums are added in
	// column order: the constant is part of the result's definition.
	floatCols = 1024
)

// floatBlock computes row block b of p in floating point.
func (w *Worker) floatBlock(p *Product, b int) {
	m := p.M
	first, n := m.RowBlock(b)
	f, at := w.Floats(m, b)
	acc := w.acc[:floatRows*p.Tokens]
	cols := buffer.RoundUp(m.Cols, vec.Lanes)
	for i := 0; i < n; i += floatRows {
		clear(acc)
		rows := min(floatRows, n-i)
		for c := 0; c < cols; c += floatCols {
			width := min(floatCols, cols-c)
			for j := range rows {
				f.Widen(w.weights[j*floatCols:][:width], at+i+j, c, m.Cols)
			}
			// Where fewer rows are left, the others' sums are not used.
			w.k.Dot4(acc, vec.Rows{V: w.weights, Stride: floatCols}, vec.Rows{V: p.X[c:], Stride: p.XStride}, p.Tokens, width)
		}
		for t := range p.Tokens {
			for j := range rows {
				p.store(t, first+i+j, acc[floatRows*t+j])
			}
		}
	}
}
