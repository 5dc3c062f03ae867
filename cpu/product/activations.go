package product

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/cpu/weights"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// Tiling is how a product's columns are cut: into the container's tiles, which have one activation scale each, and perhaps
// into blocks.
type Tiling struct {
	cols     int
	steps    int
	tile     int // steps per tile
	tiles    int
	block    int       // columns per block scale, or 0
	colScale []float32 // applied to the activations
	dot      dot.Kernels
}

// TilingOf returns the tiling of m's columns. Products with scales of blocks take activations of 16 bits.
func TilingOf(m *weights.Matrix, d dot.Kernels) Tiling {
	if m.ScaleBlock() > 0 {
		d = d.WithBits(16)
	}
	return Tiling{cols: m.Cols, steps: m.Steps(), tile: m.Coded.StepsPerTile(), tiles: m.Coded.Tiles(),
		block: m.ScaleBlock(), colScale: m.ColScale, dot: d}
}

// Same reports whether activations prepared for l serve o.
func (l *Tiling) Same(o *Tiling) bool {
	return l.cols == o.cols && l.block == o.block && len(l.colScale) == 0 && len(o.colScale) == 0
}

// tileSteps returns the steps of tile k.
func (l *Tiling) tileSteps(k int) int { return min(l.tile, l.steps-k*l.tile) }

// tileBlocks returns the distance between the block sums of two tiles, padded to whole vectors.
func (l *Tiling) tileBlocks() int {
	if l.block == 0 {
		return 0
	}
	return buffer.RoundUp(l.tile*format.StepCols/l.block, vec.Lanes)
}

// Activations are the quantized inputs of a product: whole numbers v of 16 bits, or of 8 and a factor, with x ≈ scale · v.
type Activations struct {
	Tiling
	q         []int8    // tokens × steps × 128, see package dot
	scale     []float32 // tokens × tiles
	sum       []int64   // tokens × tiles: Σ v
	blockSums []float32 // tokens × tiles × tileBlocks: Σ v of every block
	values    []int16   // tokens × steps × 64: v, for corrections of few tokens
	hasValues bool      // they are those of q
	words     []int16   // tokens × steps × 64: v as dot.Kernels.GemmWords takes it
	hasWords  bool      // they are those of q
}

// Use prepares a for a tiling and tokens up to number `tokens`. Its memory, made by Alloc, is large enough for maxBatch of them.
func (a *Activations) Use(l *Tiling, tokens int) {
	a.Tiling = *l
	a.hasWords = tokens >= wordTokens && l.dot.HasWords() && l.block == 0
	a.hasValues = tokens < gemmTokens && !a.hasWords && !l.dot.HasEscapes() && l.block == 0
}

// Alloc makes room for `tokens` tokens of any of the tilings, or with dry set only counts the bytes.
func (a *Activations) Alloc(tilings []Tiling, tokens int, dry bool) (bytes int64) {
	q, tiles, sums, words := 0, 0, 0, 0
	for i := range tilings {
		l := &tilings[i]
		q, tiles, sums = max(q, l.steps*2*format.StepCols), max(tiles, l.tiles), max(sums, l.tiles*l.tileBlocks())
		if l.dot.HasWords() && l.block == 0 {
			words = max(words, l.steps*format.StepCols)
		}
	}
	bytes += buffer.Reserve(&a.q, tokens*q, dry)
	bytes += buffer.Reserve(&a.scale, tokens*tiles, dry)
	bytes += buffer.Reserve(&a.sum, tokens*tiles, dry)
	bytes += buffer.Reserve(&a.blockSums, tokens*sums, dry)
	bytes += buffer.Reserve(&a.words, tokens*words, dry)
	bytes += buffer.Reserve(&a.values, min(tokens, gemmTokens-1)*q/2, dry)
	return bytes
}

// Quantize fills token t's part from x, which is padded with zeros to whole steps. scratch is as long as x.
func (a *Activations) Quantize(t int, x, scratch []float32) {
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
		a.scale[t*a.tiles+k], a.sum[t*a.tiles+k] = a.dot.Quantize(part, x[first*format.StepCols:(first+n)*format.StepCols])
		if a.block > 0 {
			a.sumBlocks(part, a.blocksOf(t, k))
		}
	}
	if a.hasWords {
		n := a.steps * format.StepCols
		a.dot.Words(a.words[t*n:(t+1)*n], q, a.steps)
	}
	if a.hasValues {
		n := a.steps * format.StepCols
		a.dot.Values(a.values[t*n:(t+1)*n], q, a.steps)
	}
}

// valuesOf returns the values of token t from a column on, if there are any.
func (a *Activations) valuesOf(t, col int) []int16 {
	if !a.hasValues {
		return nil
	}
	n := a.steps * format.StepCols
	return a.values[t*n+col : (t+1)*n]
}

// token returns the numbers of token t.
func (a *Activations) token(t int) []int8 {
	n := a.steps * 2 * format.StepCols
	return a.q[t*n : (t+1)*n]
}

// blocksOf returns the block sums of a token's tile.
func (a *Activations) blocksOf(t, k int) []float32 {
	n := a.tileBlocks()
	return a.blockSums[(t*a.tiles+k)*n:][:n]
}

func (a *Activations) sumBlocks(q []int8, sums []float32) {
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

// total returns Σ x of a token as the products see it.
func (a *Activations) total(t int) float32 {
	s := float32(0)
	for k := t * a.tiles; k < (t+1)*a.tiles; k++ {
		s += float32(a.scale[k] * float32(a.sum[k]))
	}
	return s
}
