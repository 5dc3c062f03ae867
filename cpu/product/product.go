// Package product multiplies the matrices of package weights by the activations of some tokens.
package product

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/weights"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// How Worker.Multiply computes a row block, by the kind of weights and the number of tokens:
//
//	weights                         | few tokens                     | several (Product.few)
//	floats                          | floatBlock (float_product.go)  | the same
//	integers, a scale per row       | dotTile (dot_product.go)       | gemmTile (gemm_product.go)
//	integers, scales of blocks      | dotScaledTile (dot_product.go) | scaledGemm (blockgemm.go)
//
// Integers come from resident planes or are decoded for the product, a tile at a time (weights.Reader.Tile). What a row's planes
// do not hold is added where it lies:
//
//	exception        | stored with                             | added by
//	escape           | planes, AVX-512                         | package dot, which puts it into the row
//	correction       | planes, AVX2 and NEON                   | dot.Kernels.Dot to the sums; gemmBytes to the bytes
//	exception entry  | planes; outliers of a decoded group     | addExceptions, addExceptionPairs, restOf; gemmBytes to the bytes
//	low bits         | planes or the file, decoded separately  | dotTile and gemmTile, as a second product

// Product is Y = M · X (+ Bias) for some tokens.
type Product struct {
	M       *weights.Matrix
	Bias    []float32 // or nil
	X       []float32 // tokens × XStride, zero past M.Cols
	XStride int
	Q       *Activations // the same, quantized, for integer products; token 0 is Q's token QFirst
	QFirst  int
	Y       []float32 // tokens × YStride
	YStride int
	Tokens  int
}

// tileProduct is what one tile of a row block contributes to a product.
type tileProduct struct {
	*Product
	weights.Tile
	raised int64 // what gemmBytes added to the codes
}

// scaleOf returns the scale of token t's activations in the tile, and their sum times the base of the codes as they are
// multiplied.
func (p *tileProduct) scaleOf(t int) (scale float32, offset int64) {
	at := (p.QFirst+t)*p.Q.tiles + p.K
	return p.Q.scale[at], (p.Block.Base - p.raised) * p.Q.sum[at]
}

// activationsOf returns the activations of token t and those after it in the tile.
func (p *tileProduct) activationsOf(t, tokens int) dot.Tokens {
	stride := p.Q.steps * 2 * format.StepCols
	return dot.Tokens{Q: p.Q.q[(p.QFirst+t)*stride+p.From*2:], Stride: stride, Count: tokens}
}

// wordsOf returns the first tokens' activations in the tile as words.
func (p *tileProduct) wordsOf(tokens int) dot.Words {
	stride := p.Q.steps * format.StepCols
	return dot.Words{V: p.Q.words[p.QFirst*stride+p.From:], Stride: stride, Count: tokens}
}

// store writes the result of a stored row.
func (p *Product) store(t, stored int, v float32) {
	row := stored
	if p.M.Order != nil {
		row = int(p.M.Order[stored])
	}
	if p.Bias != nil {
		v += p.Bias[row]
	}
	p.Y[t*p.YStride+row] = v
}

// Multiply computes row block i of p.
func (w *Worker) Multiply(p *Product, i int) {
	if p.M.IsFloat() {
		w.floatBlock(p, i)
		return
	}
	b := w.Block(p.M, i)
	few := p.few()
	if p.Q.block > 0 && !few {
		w.scaledGemm(p, b)
		return
	}
	acc := w.acc[:p.Tokens*b.N]
	clear(acc)
	for k := range p.Q.tiles {
		t := tileProduct{Product: p}
		w.Tile(&t.Tile, b, k)
		switch {
		case p.Q.block > 0:
			w.dotScaledTile(&t, acc)
		case few || !t.exceptionsFit():
			w.dotTile(&t, acc)
		default:
			w.gemmTile(&t, acc)
		}
	}
	w.storeRows(p, b, acc)
}

// storeRows scales and stores the results of a row block, [token][row].
func (w *Worker) storeRows(p *Product, b *weights.RowBlock, acc []float32) {
	m, scales := p.M, w.results[:b.N]
	for i := range scales {
		scales[i] = m.Scale
		if m.RowScale != nil {
			scales[i] *= m.RowScale[b.First+i]
		}
	}
	for t := range p.Tokens {
		add := float32(0)
		if m.Add != 0 {
			add = m.Add * p.Q.total(p.QFirst+t)
		}
		v, y := acc[t*b.N:][:len(scales)], p.Y[t*p.YStride:][:m.Rows]
		if m.Order == nil {
			y = y[b.First:][:len(v)]
			for i, s := range scales {
				y[i] = float32(v[i]*s) + add
			}
			if p.Bias != nil {
				for i, f := range p.Bias[b.First:][:len(y)] {
					y[i] += f
				}
			}
			continue
		}
		order := m.Order[b.First:][:len(v)]
		for i, row := range order {
			y[row] = float32(v[i]*scales[i]) + add
		}
		if p.Bias != nil {
			for _, row := range order {
				y[row] += p.Bias[row]
			}
		}
	}
}

// From how many tokens on rows are turned into bytes for package dot's products with several tokens: those with words need no
// other order of the rows.
const (
	wordTokens = 2
	gemmTokens = 4
)

// few reports whether p multiplies rows as they are, a token at a time.
func (p *Product) few() bool {
	if p.Q.hasWords {
		return p.Tokens < wordTokens
	}
	return p.Tokens < gemmTokens
}
