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
			p.Rows.Values, p.Rows.Sums, p.Rows.Ahead = p.Q.valuesOf(p.QFirst+t, p.From), w.running, p.Next()
		}
		p.Q.dot.Dot(w.sums, &p.Rows, x.Q)
		if lowBits > 0 {
			p.Q.dot.Dot(w.lowSums, &low, x.Q)
		}
		scale, offset := p.scaleOf(t)
		out, sums := acc[t*n:][:n], w.sums[:2*n]
		fit := p.exceptionsFit()
		if lowBits == 0 && fit {
			w.addExceptionPairs(p, t, sums)
			w.dot.AddPairs(out, sums, scale, offset) // rounded, then added
			continue
		}
		var more []int64
		if !fit {
			more = p.exceptionSums(t)
		} else {
			w.addExceptionPairs(p, t, w.lowSums)
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

// exceptionsFit reports whether 32-bit sums hold what exception entries contribute, however these are spread over columns: a
// quarter of these for exceptions of up to 128 << Shift times activations of 16 bits in two parts of 8. Only a row of hardly
// anything else has more.
func (p *tileProduct) exceptionsFit() bool {
	most := 1 << 14 >> p.Block.Shift
	if len(p.Exceptions) <= most {
		return true
	}
	var rows [format.MaxRowsPerGroup]int
	for _, e := range p.Exceptions {
		row := format.UnpackOutlier(e).Row
		if rows[row]++; rows[row] > most {
			return false
		}
	}
	return true
}

// exceptionSums returns what exception entries contribute to each row for token t, where it may not fit 32 bits.
func (p *tileProduct) exceptionSums(t int) []int64 {
	sums, x := make([]int64, p.Block.N), p.Q.token(p.QFirst+t)
	for _, e := range p.Exceptions {
		if o := format.UnpackOutlier(e); o.Col >= p.From && o.Col < p.End {
			sums[o.Row] += int64(o.Delta) << p.Block.Shift * p.Q.dot.At(x, o.Col)
		}
	}
	return sums
}

// addExceptionPairs adds what exception entries contribute to the sums of token t, two parts of each row.
func (w *Worker) addExceptionPairs(p *tileProduct, t int, sums []int32) {
	x := p.Q.token(p.QFirst + t)
	for _, e := range p.Exceptions {
		o := format.UnpackOutlier(e)
		if o.Col < p.From || o.Col >= p.End {
			continue
		}
		v, d := p.Q.dot.At(x, o.Col), int32(o.Delta<<p.Block.Shift)
		sums[2*o.Row] += d * int32(v>>8)
		sums[2*o.Row+1] += d * int32(v&0xff)
	}
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
