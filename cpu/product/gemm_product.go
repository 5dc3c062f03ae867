package product

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// gemmTile adds a tile's products with many tokens to acc, [token][row], a panel of rows at a time.
func (w *Worker) gemmTile(p *tileProduct, acc []float32) {
	steps, n := p.Rows.Steps, p.Block.N
	stride := steps * format.StepCols
	bytes, width := w.gemmBytes(p)
	var low []byte
	if p.M.LowBits > 0 {
		low = w.UnpackLow(&p.Tile)
	}
	for first := 0; first < n; first += dot.PanelRows {
		rows := min(dot.PanelRows, n-first)
		w.gemmRows(w.sums, p, bytes[first*stride:], rows, width)
		if low != nil {
			w.gemmRows(w.lowSums, p, low[first*stride:], rows, p.M.LowBits)
		}
		for t := range p.Tokens {
			w.addPanel(p, t, first, acc[t*n+first:][:rows])
		}
	}
}

// gemmRows multiplies up to dot.PanelRows rows of codes below 1<<width, one byte each.
func (w *Worker) gemmRows(sums []int32, p *tileProduct, rows []byte, n, width int) {
	steps := p.Rows.Steps
	stride := steps * format.StepCols
	if p.Q.hasWords {
		x := p.wordsOf(p.Tokens)
		x.Ahead = p.Next()
		p.Q.dot.GemmWords(sums, rows, stride, n, steps, x)
		return
	}
	p.Q.dot.Panel(w.panel, rows, stride, steps)
	p.Q.dot.Gemm(sums, w.panel, width, steps, p.activationsOf(0, p.Tokens))
}

// addPanel adds the products of token t and a panel of rows, the first of which is row `first` of the row block, to out.
func (w *Worker) addPanel(p *tileProduct, t, first int, out []float32) {
	scale, offset := p.scaleOf(t)
	hi, lo := w.sums[2*t*dot.PanelRows:][:len(out)], w.sums[(2*t+1)*dot.PanelRows:][:len(out)]
	lowBits := p.M.LowBits
	if lowBits == 0 {
		w.addExceptions(p, t, first, hi, lo)
		w.dot.AddScaled(out, hi, lo, scale, offset)
		return
	}
	lowHi, lowLo := w.lowSums[2*t*dot.PanelRows:][:len(out)], w.lowSums[(2*t+1)*dot.PanelRows:][:len(out)]
	w.addExceptions(p, t, first, lowHi, lowLo)
	for r := range out {
		v := (int64(hi[r])<<8+int64(lo[r]))<<lowBits + int64(lowHi[r])<<8 + int64(lowLo[r])
		out[r] += float32(scale * float32(v+offset))
	}
}

// gemmBytes returns the tile's rows as bytes below 1<<width; after the last there is memory for a whole panel. It moves
// exceptions into the bytes as far as these hold them; p.Exceptions are those that are left.
func (w *Worker) gemmBytes(p *tileProduct) (bytes []byte, width int) {
	stride := p.Rows.Steps * format.StepCols
	bytes, width = w.Unpack(&p.Tile)
	fold := len(p.Exceptions) > 0 && p.M.LowBits == 0
	if p.Rows.CorrectStart == nil && !fold || width > 6 {
		return bytes, width
	}
	// A bit more than the numbers have leaves room for differences below and above them; up to 7 bits every instruction set
	// multiplies fast.
	const room = -dot.MinCorrection
	width = max(6, width+1)
	w.dot.Raise(bytes[:p.Block.N*stride], room)
	p.raised = room << p.M.LowBits
	for r := range p.Block.N {
		for _, e := range p.Rows.Corrections(r) {
			col, delta := dot.UnpackCorrection(e)
			bytes[r*stride+col] += byte(delta)
		}
	}
	if fold {
		w.Fold(&p.Tile, bytes, width)
	}
	return bytes, width
}

// addExceptions adds what exception entries contribute to the sums of token t and rows first … first+len(hi)−1.
func (w *Worker) addExceptions(p *tileProduct, t, first int, hi, lo []int32) {
	if len(p.Exceptions) == 0 {
		return
	}
	x := p.Q.token(p.QFirst + t)
	for _, e := range p.Exceptions {
		o := format.UnpackOutlier(e)
		r := o.Row - first
		if r < 0 || r >= len(hi) || o.Col < p.From || o.Col >= p.End {
			continue
		}
		v, d := p.Q.dot.At(x, o.Col), int32(o.Delta<<p.Block.Shift)
		hi[r] += d * int32(v>>8)
		lo[r] += d * int32(v&0xff)
	}
}
