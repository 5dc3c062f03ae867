package gpu

import (
	"math/bits"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

const (
	// A width is chosen only if at most this share of the weights is estimated to lie outside.
	maxClipped = 0.02
	// clippedCost is what a clipped weight costs in time where instructions limit a product, as many bits to read: its word, and
	// about forty instructions, while a weight that is not clipped takes two.
	clippedCost = 128
	// clipReserve scales the estimated number of exceptions to the reserved one.
	clipReserve = 1.25
)

// packedKernels returns the products for codes of each width, by kind of scale. min: blocks have minima.
func packedKernels(d *kernels.Matrix, min bool) map[int]kernels.ID {
	switch {
	case d.ScaleKind == kernels.ScaleTensor, d.ScaleKind == kernels.ScaleRow:
		return map[int]kernels.ID{
			3: kernels.GemvPacked3ID,
			4: kernels.GemvPacked4ID,
			5: kernels.GemvPacked5ID,
			6: kernels.GemvPacked6ID,
			8: kernels.GemvPacked8ID,
		}
	case d.ScaleKind != kernels.ScaleBlock || d.BlockShift < 4:
		return nil
	case d.BlockShift == 4 && min:
		return map[int]kernels.ID{
			3: kernels.GemvPacked3Block16MinID,
			8: kernels.GemvPacked8Block16MinID,
		}
	case d.BlockShift == 4:
		return map[int]kernels.ID{
			3: kernels.GemvPacked3Block16ID,
			6: kernels.GemvPacked6Block16ID,
			8: kernels.GemvPacked8Block16ID,
		}
	case min:
		return map[int]kernels.ID{
			4: kernels.GemvPacked4Block32MinID,
			5: kernels.GemvPacked5Block32MinID,
			8: kernels.GemvPacked8Block32MinID,
		}
	}
	return map[int]kernels.ID{
		4: kernels.GemvPacked4Block32ID,
		5: kernels.GemvPacked5Block32ID,
		8: kernels.GemvPacked8Block32ID,
	}
}

// describePacked chooses the width of the packed codes: the one that takes least time, what it leaves out included.
func (w *weight) describePacked(tables []*huffman.Table) {
	c, d, k := w.Coded, &w.desc, &w.Coded.Coding
	if k.Float != format.NotFloat {
		return
	}
	codes, first := k.Levels<<k.LowBits, int(k.Zero) // without outliers
	if len(k.Values) > 0 {
		lo, hi := codeRange(c)
		codes, first = hi-lo+1, lo
	}
	if codes > 256 {
		return
	}
	var shares []float64
	if len(k.Values) == 0 {
		shares = levelShares(c, tables)
	}
	least := 0.0
	kernels := packedKernels(d, c.DMin != nil)
	for _, width := range []int{3, 4, 5, 6, 8} {
		clip := levelRange{}
		if kernels[width] == 0 {
			continue
		}
		if 1<<width < codes {
			if shares == nil || width <= k.LowBits {
				continue
			}
			if clip = bestRange(shares, 1<<(width-k.LowBits)); clip.outside > maxClipped {
				continue
			}
		}
		cost := float64(width) + clippedCost*clip.outside
		if w.packed.bits != 0 && cost >= least {
			continue
		}
		least = cost
		room, expected := uint32(len(c.Outliers)), clip.outside*float64(w.Rows)*float64(w.Cols)+float64(len(c.Outliers))
		if clip.outside > 0 {
			room += uint32(clipReserve*clip.outside*float64(w.Rows)*float64(w.Cols)) + 64
		}
		w.packed = packing{width, clip.outside > 0, room, expected, kernels[width]}
		d.PackedBits, d.PackedFirst, d.PackedZero = int32(width), int32(clip.first), int32(first+clip.first<<k.LowBits)
	}
	d.PackedCenter = max(0, min(1<<d.PackedBits-1, int32(usualCode(c))-d.PackedZero))
}

// levelShares estimates how often each level occurs, outliers aside, from the lengths of the pairs' codes. What is rare comes out
// too often, since a code's length is limited.
func levelShares(c *format.Coded, tables []*huffman.Table) []float64 {
	cells := make([]int, len(tables)) // rows × steps
	for i, t := range c.ChunkTable {
		cells[t] += c.GroupRows(i/c.Tiles()) * c.TileSteps(i%c.Tiles())
	}
	n := c.Coding.Levels
	shares := make([]float64, n)
	for i, t := range tables {
		if cells[i] == 0 || t.Levels != n {
			continue
		}
		for pair, length := range t.Lens {
			if length > 0 {
				p := float64(cells[i]) / float64(c.Rows*c.Steps()) / float64(uint(2)<<length)
				shares[pair/n] += p
				shares[pair%n] += p
			}
		}
	}
	return shares
}

// levelRange is a range of levels, and the share of the weights outside.
type levelRange struct {
	first   int
	outside float64
}

// bestRange returns the range of n levels that leaves least outside.
func bestRange(shares []float64, n int) levelRange {
	best := levelRange{outside: 2}
	for first := range len(shares) - n + 1 {
		w := levelRange{first: first}
		for a, p := range shares {
			if a < first || a >= first+n {
				w.outside += p
			}
		}
		if w.outside < best.outside {
			best = w
		}
	}
	return best
}

// unpackedGroups returns how many groups are whole quads of rows, and how many load decodes at a time, to bytes, before it packs
// them.
func (w *weight) unpackedGroups(stretch int64) (unit, most int) {
	rows := w.Coded.Coding.RowsPerGroup
	unit = quadRows >> min(bits.TrailingZeros(uint(rows)), 2)
	fit := int(stretch) / (unit * rows * int(w.desc.Stride))
	return unit, max(fit, 1) * unit
}

// unpackedBytes returns the bytes that the rows decoded at a time take.
func (w *weight) unpackedBytes(stretch int64) int64 {
	_, most := w.unpackedGroups(stretch)
	return int64(min(most*w.Coded.Coding.RowsPerGroup, w.Rows)) * int64(w.desc.Stride)
}

// packedBase is what decoded codes are counted from before they are packed.
func (w *weight) packedBase() float32 {
	d := &w.desc
	return float32(d.PackedZero - d.PackedFirst<<d.LowBits)
}
