package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// layout is how a product's columns are cut: into the container's tiles, which have one activation scale each, and perhaps into blocks.
type layout struct {
	cols     int
	steps    int
	tile     int // steps per tile
	tiles    int
	block    int       // columns per block scale, or 0
	colScale []float32 // applied to the activations
}

func layoutOf(m *matrix) layout {
	return layout{cols: m.cols, steps: m.steps(), tile: m.coded.StepsPerTile(), tiles: m.coded.Tiles(), block: m.productBlock(), colScale: m.colScale}
}

// same reports whether activations prepared for l serve o.
func (l *layout) same(o *layout) bool {
	return l.cols == o.cols && l.block == o.block && len(l.colScale) == 0 && len(o.colScale) == 0
}

// tileSteps returns the steps of tile k.
func (l *layout) tileSteps(k int) int { return min(l.tile, l.steps-k*l.tile) }

// tileBlocks returns the distance between the block sums of two tiles, padded to whole vectors.
func (l *layout) tileBlocks() int {
	if l.block == 0 {
		return 0
	}
	return roundUp(l.tile*format.StepCols/l.block, lanes)
}

// activations are the quantized inputs of a product: 16-bit whole numbers v with x ≈ scale · v.
type activations struct {
	layout
	q         []int8    // tokens × steps × 128, see package dot
	scale     []float32 // tokens × tiles
	sum       []int64   // tokens × tiles: Σ v
	blockSums []float32 // tokens × tiles × tileBlocks: Σ v of every block
}

// use prepares a for a layout. Its memory, made by alloc, is large enough for maxBatch tokens of it.
func (a *activations) use(l *layout) { a.layout = *l }

// alloc makes room for `tokens` tokens of any of the layouts, or with dry set only counts the bytes.
func (a *activations) alloc(layouts []layout, tokens int, dry bool) (bytes int64) {
	q, tiles, sums := 0, 0, 0
	for i := range layouts {
		l := &layouts[i]
		q, tiles, sums = max(q, l.steps*2*format.StepCols), max(tiles, l.tiles), max(sums, l.tiles*l.tileBlocks())
	}
	bytes += reserve(&a.q, tokens*q, dry)
	bytes += reserve(&a.scale, tokens*tiles, dry)
	bytes += reserve(&a.sum, tokens*tiles, dry)
	bytes += reserve(&a.blockSums, tokens*sums, dry)
	return bytes
}

// quantize fills token t's part from x, which is padded with zeros to whole steps. scratch is as long as x.
func (a *activations) quantize(isa dot.ISA, t int, x, scratch []float32) {
	if a.colScale != nil {
		for i, s := range a.colScale {
			scratch[i] = x[i] * s
		}
		x = scratch
	}
	q := a.token(t)
	for k := range a.tiles {
		first, n := k*a.tile, a.tileSteps(k)
		part := q[first*2*format.StepCols:][:n*2*format.StepCols]
		a.scale[t*a.tiles+k], a.sum[t*a.tiles+k] = isa.Quantize(part, x[first*format.StepCols:(first+n)*format.StepCols])
		if a.block > 0 {
			a.sumBlocks(part, a.blocksOf(t, k))
		}
	}
}

// token returns the numbers of token t.
func (a *activations) token(t int) []int8 {
	n := a.steps * 2 * format.StepCols
	return a.q[t*n : (t+1)*n]
}

// blocksOf returns the block sums of a token's tile.
func (a *activations) blocksOf(t, k int) []float32 {
	n := a.tileBlocks()
	return a.blockSums[(t*a.tiles+k)*n:][:n]
}

func (a *activations) sumBlocks(q []int8, sums []float32) {
	b := 0
	for s := 0; s < len(q); s += 2 * format.StepCols {
		hi, lo := q[s:s+format.StepCols], q[s+format.StepCols:s+2*format.StepCols]
		for c := 0; c < format.StepCols; c += a.block {
			h, l := int32(0), int32(0)
			for i := c; i < c+a.block; i++ {
				h += int32(hi[i])
				l += int32(lo[i])
			}
			sums[b] = float32(h<<8 + l)
			b++
		}
	}
	clear(sums[b:])
}

// at returns v of column col of the numbers q of one token.
func at(q []int8, col int) int64 {
	i := col/format.StepCols*2*format.StepCols + col%format.StepCols
	return int64(q[i])<<8 + int64(q[i+format.StepCols])
}
