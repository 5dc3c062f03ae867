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
		sums := w.sums // of the numbers that exceptions are differences of
		if low != nil {
			sums = w.lowSums
			w.gemmRows(sums, p, low[first*stride:], rows, p.M.LowBits)
		}
		w.addExceptions(p, sums, first, rows)
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
		w.dot.AddScaled(out, hi, lo, scale, offset)
		return
	}
	lowHi, lowLo := w.lowSums[2*t*dot.PanelRows:][:len(out)], w.lowSums[(2*t+1)*dot.PanelRows:][:len(out)]
	for r := range out {
		v := (int64(hi[r])<<8+int64(lo[r]))<<lowBits + int64(lowHi[r])<<8 + int64(lowLo[r])
		out[r] += float32(scale * float32(v+offset))
	}
}

// gemmBytes returns the tile's rows as bytes below 1<<width; after the last there is memory for a whole panel. It moves
// exceptions into the bytes as far as these hold them; p.Exceptions are those that are left.
func (w *Worker) gemmBytes(p *tileProduct) (bytes []byte, width int) {
	stride := p.Rows.Steps * format.StepCols
	width = p.Bits()
	fold := len(p.Exceptions) > 0 && p.M.LowBits == 0
	if p.Rows.CorrectStart == nil && !fold || width > 6 {
		return w.Unpack(&p.Tile, 0), width
	}
	// A bit more than the numbers have leaves room for differences below and above them; up to 7 bits every instruction set
	// multiplies fast.
	const room = -dot.MinCorrection
	bytes, width = w.Unpack(&p.Tile, room), max(6, width+1)
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

// addExceptions adds what exception entries contribute to the sums, [token][2][dot.PanelRows], of rows first … first+n−1.
func (w *Worker) addExceptions(p *tileProduct, sums []int32, first, n int) {
	for _, e := range p.Exceptions {
		o := format.UnpackOutlier(e)
		r := o.Row - first
		if r < 0 || r >= n || o.Col < p.From || o.Col >= p.End {
			continue
		}
		d := int32(o.Delta << p.Block.Shift)
		for t := range p.Tokens {
			v, at := p.Q.dot.At(p.Q.token(p.QFirst+t), o.Col), 2*t*dot.PanelRows+r
			sums[at] += d * int32(v>>8)
			sums[at+dot.PanelRows] += d * int32(v&0xff)
		}
	}
}
