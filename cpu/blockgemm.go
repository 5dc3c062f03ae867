package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// blockTokens is how many tokens pass over a unit's rows at a time: their activations stay in the first-level cache.
const blockTokens = 8

// blockUnit computes unit u of a matrix with block scales for many tokens, with the sums of blockTile.
func (w *worker) blockUnit(p *product, c *codes, u int) {
	quads := roundUp(c.n, dot.BlockRows) / dot.BlockRows
	acc := w.acc[:quads*dot.BlockRows*p.tokens] // [four rows][token][row]
	clear(acc)
	for k := range p.q.tiles {
		rows := w.tileRows(p, c, u, k)
		w.unpackTile(p, c, &rows)
		scale := w.tokenScale[:p.tokens]
		for t := range scale {
			scale[t] = p.q.scale[(p.qFirst+t)*p.q.tiles+k]
		}
		for t := 0; t < p.tokens; t += blockTokens {
			n := min(blockTokens, p.tokens-t)
			for i := range quads {
				w.blockQuad(p, c, &rows, k, i*dot.BlockRows, t, n, acc[(i*p.tokens+t)*dot.BlockRows:])
			}
		}
	}
	for t := range p.tokens {
		for r := range c.n {
			p.store(t, c.first+r, acc[(r/dot.BlockRows*p.tokens+t)*dot.BlockRows+r%dot.BlockRows])
		}
	}
}

// unpackTile turns a tile's rows into bytes.
func (w *worker) unpackTile(p *product, c *codes, rows *dot.Rows) {
	if c.packed == nil {
		rows.Width = p.m.width
		return
	}
	stride := rows.Steps * format.StepCols
	for r := range c.n {
		w.isa.UnpackRow(rows, r, w.plain[r*stride:])
	}
	rows.Nibble, rows.NibbleStride = w.plain, stride
}

// blockQuad adds the product of tile k of rows r … r+3 and tokens t … t+n−1 to acc. Rows behind the unit's last give sums that nobody reads.
func (w *worker) blockQuad(p *product, c *codes, rows *dot.Rows, k, r, t, n int, acc []float32) {
	q := p.q
	rest := w.blockRest[:dot.BlockRows*n]
	w.restOf(rest, p, c, k, r, t, n)
	quad := *rows
	quad.Nibble, quad.Scale = rows.Nibble[r*rows.NibbleStride:], rows.Scale[r*rows.ScaleStride:]
	xStride := q.steps * 2 * format.StepCols
	x := q.q[(p.qFirst+t)*xStride+k*q.tile*2*format.StepCols:]
	w.isa.GemmBlocks(acc, rest, w.tokenScale[t:], &quad, c.blocks.cols, x, xStride, n)
}

// restOf computes what the products of rows r … r+3 and n tokens have besides scales times stored codes, [token][row]: the blocks' minima, or the base of the
// codes, and sparse entries.
func (w *worker) restOf(rest []float32, p *product, c *codes, k, r, t, n int) {
	q, b := p.q, &c.blocks
	first := k * q.tile * format.StepCols / b.cols
	width := roundUp(q.tileSteps(k)*format.StepCols/b.cols, lanes)
	clear(rest)
	stride := q.tiles * q.tileBlocks()
	sums := q.blockSums[(p.qFirst+t)*stride+k*q.tileBlocks():]
	switch {
	case b.add != nil:
		w.k.dot4(rest, b.add[r*b.n+first:], b.n, sums, stride, n, width)
	case c.base != 0:
		w.k.dot4(rest, b.scale[r*b.n+first:], b.n, sums, stride, n, width)
		for i := range rest {
			rest[i] *= float32(c.base)
		}
	}
	start := k * q.tile * format.StepCols
	end := start + q.tileSteps(k)*format.StepCols
	for _, e := range c.sparse {
		o := format.UnpackOutlier(e)
		if o.Row < r || o.Row >= r+dot.BlockRows || o.Col < start || o.Col >= end {
			continue
		}
		scale := b.scale[o.Row*b.n+o.Col/b.cols]
		for i := range n {
			rest[dot.BlockRows*i+o.Row-r] += scale * float32(int64(o.Delta)<<c.shift*at(q.token(p.qFirst+t+i), o.Col))
		}
	}
}

// foldOutliers adds outliers in columns first … first+cols−1 to the decoded bytes, as far as they stay below 1<<m.width, and appends the others to left. That
// keeps nearly all of them out of products with block scales, whatever the plan: most outliers are pairs without a code, their levels are ordinary ones.
func (m *matrix) foldOutliers(list []uint32, dst []byte, stride, first, cols int, left []uint32) []uint32 {
	for _, e := range list {
		o := format.UnpackOutlier(e)
		if o.Col < first || o.Col >= first+cols {
			continue
		}
		b := &dst[o.Row*stride+o.Col-first]
		if v := int(*b) + o.Delta<<m.sparseShift; v >= 0 && v < 1<<m.width {
			*b = byte(v)
		} else {
			left = append(left, e)
		}
	}
	return left
}
