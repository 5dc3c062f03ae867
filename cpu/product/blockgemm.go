package product

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/cpu/weights"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// blockTokens is how many tokens pass over the rows of a row block at a time: their activations stay in the first-level cache.
const blockTokens = 8

// fourRows are rows row … row+3 of a row block, the rows of dot.Kernels.GemmBlocks, and tokens token … token+tokens−1.
type fourRows struct{ row, token, tokens int }

// scaledGemm computes a row block of a matrix with scales of blocks for many tokens, with the sums of dotScaledTile.
func (w *Worker) scaledGemm(p *Product, b *weights.RowBlock) {
	fours := buffer.RoundUp(b.N, dot.BlockRows) / dot.BlockRows
	acc := w.acc[:fours*dot.BlockRows*p.Tokens] // [four rows][token][row]
	clear(acc)
	for k := range p.Q.tiles {
		tile := tileProduct{Product: p}
		w.Tile(&tile.Tile, b, k)
		tile.Rows.Nibble, tile.Rows.Width = w.Unpack(&tile.Tile, 0), tile.Bits()
		tile.Rows.NibbleStride = tile.Rows.Steps * format.StepCols
		for t := range p.Tokens {
			w.tokenScale[t], _ = tile.scaleOf(t)
		}
		for t := 0; t < p.Tokens; t += blockTokens {
			n := min(blockTokens, p.Tokens-t)
			for i := range fours {
				w.gemmFour(&tile, fourRows{i * dot.BlockRows, t, n}, acc[(i*p.Tokens+t)*dot.BlockRows:])
			}
		}
	}
	for t := range p.Tokens {
		for r := range b.N {
			p.store(t, b.First+r, acc[(r/dot.BlockRows*p.Tokens+t)*dot.BlockRows+r%dot.BlockRows])
		}
	}
}

// gemmFour adds a tile's product of four rows and some tokens to acc. Sums of rows past the end are ignored.
func (w *Worker) gemmFour(p *tileProduct, f fourRows, acc []float32) {
	rest := w.fourRest[:dot.BlockRows*f.tokens]
	w.restOf(rest, p, f)
	four := p.Rows
	four.Nibble, four.Scale = four.Nibble[f.row*four.NibbleStride:], four.Scale[f.row*four.ScaleStride:]
	p.Q.dot.GemmBlocks(acc, rest, w.tokenScale[f.token:], &four, p.Block.Scales.Cols, p.activationsOf(f.token, f.tokens))
}

// restOf computes what the products of four rows have besides scales times stored numbers, [token][row]: the blocks' minima, or
// the base of the codes, and exception entries.
func (w *Worker) restOf(rest []float32, p *tileProduct, f fourRows) {
	q, b := p.Q, &p.Block.Scales
	first := p.K * q.tile * format.StepCols / b.Cols
	width := buffer.RoundUp(q.tileSteps(p.K)*format.StepCols/b.Cols, vec.Lanes)
	clear(rest)
	stride := q.tiles * q.tileBlocks()
	sums := vec.Rows{V: q.blockSums[(p.QFirst+f.token)*stride+p.K*q.tileBlocks():], Stride: stride}
	switch {
	case b.Add != nil:
		w.k.Dot4(rest, vec.Rows{V: b.Add[f.row*b.N+first:], Stride: b.N}, sums, f.tokens, width)
	case p.Block.Base != 0:
		w.k.Dot4(rest, vec.Rows{V: b.Scale[f.row*b.N+first:], Stride: b.N}, sums, f.tokens, width)
		for i := range rest {
			rest[i] *= float32(p.Block.Base)
		}
	}
	for _, e := range p.Exceptions {
		o := format.UnpackOutlier(e)
		if o.Row < f.row || o.Row >= f.row+dot.BlockRows || o.Col < p.From || o.Col >= p.End {
			continue
		}
		scale := b.Scale[o.Row*b.N+o.Col/b.Cols]
		for i := range f.tokens {
			x := q.token(p.QFirst + f.token + i)
			rest[dot.BlockRows*i+o.Row-f.row] += float32(scale *
				float32(int64(o.Delta)<<p.Block.Shift*p.Q.dot.At(x, o.Col)))
		}
	}
}
