package product

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// dotTile adds a tile's products with few tokens to acc, [token][row].
func (w *Worker) dotTile(p *tileProduct, acc []float32) {
	n, lowBits := p.Block.N, p.M.LowBits
	var low dot.Rows
	if lowBits > 0 {
		low = w.Low(&p.Tile)
	}
	for t := range p.Tokens {
		x := p.activationsOf(t, 1)
		if p.Rows.CorrectStart != nil {
			p.Rows.Values, p.Rows.Sums = p.Q.valuesOf(p.QFirst+t, p.From), w.running
		}
		p.Q.dot.Dot(w.sums, &p.Rows, x.Q)
		if lowBits > 0 {
			p.Q.dot.Dot(w.lowSums, &low, x.Q)
		}
		scale, offset := p.scaleOf(t)
		out, sums := acc[t*n:][:n], w.sums[:2*n]
		more := w.exceptionSums(p, t)
		if more == nil && lowBits == 0 {
			for r := range out {
				out[r] += float32(scale * float32(int64(sums[2*r])<<8+int64(sums[2*r+1])+offset)) // rounded, then added
			}
			continue
		}
		for r := range out {
			v := int64(sums[2*r])<<8 + int64(sums[2*r+1])
			if lowBits > 0 {
				v = v<<lowBits + int64(w.lowSums[2*r])<<8 + int64(w.lowSums[2*r+1])
			}
			if more != nil {
				v += more[r]
			}
			out[r] += float32(scale * float32(v+offset))
		}
	}
}

// exceptionSums returns what exception entries add to each row's sum for token t, or nil if the row block has none.
func (w *Worker) exceptionSums(p *tileProduct, t int) []int64 {
	if len(p.Exceptions) == 0 {
		return nil
	}
	sums, x := w.wideSums[:p.Block.N], p.Q.token(p.QFirst+t)
	clear(sums)
	for _, e := range p.Exceptions {
		if o := format.UnpackOutlier(e); o.Col >= p.From && o.Col < p.End {
			sums[o.Row] += int64(o.Delta) * p.Q.dot.At(x, o.Col)
		}
	}
	for r := range sums {
		sums[r] <<= p.Block.Shift
	}
	return sums
}

// dotScaledTile adds a tile's products with few tokens to acc, for codes with scales of blocks.
func (w *Worker) dotScaledTile(p *tileProduct, acc []float32) {
	n := p.Block.N
	for t := range p.Tokens {
		p.Q.dot.DotBlocks(w.results, &p.Rows, p.Block.Scales.Cols, p.activationsOf(t, 1).Q)
		scale, _ := p.scaleOf(t)
		for r := 0; r < n; r += dot.BlockRows {
			rest := w.fourRest[:dot.BlockRows]
			w.restOf(rest, p, fourRows{r, t, 1})
			for i := range min(dot.BlockRows, n-r) {
				acc[t*n+r+i] += float32(scale * (w.results[r+i] + rest[i])) // rounded before it is added, as in GemmBlocks
			}
		}
	}
}
