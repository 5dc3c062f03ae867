package gpu

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// describe fills in everything of the descriptor but addresses.
func (w *weight) describe(tables []*huffman.Table) error {
	d := &w.desc
	d.Rows, d.Cols = int32(w.Rows), int32(w.Cols)
	if w.Raw != nil {
		d.ScaleKind, d.Stride = kernels.ScaleNone, int32(w.Cols)
		d.Type = map[format.DType]int32{format.F32: kernels.TypeF32, format.F16: kernels.TypeF16,
			format.BF16: kernels.TypeBf16}[w.Raw.DType]
		return nil
	}
	c := w.Coded
	d.Steps, d.Tiles, d.StepsPerTile = int32(c.Steps()), int32(c.Tiles()), int32(c.StepsPerTile())
	d.RowsPerGroup, d.Groups = int32(c.Coding.RowsPerGroup), int32(c.Groups())
	d.Levels, d.LowBits, d.Zero = int32(c.Coding.Levels), int32(c.Coding.LowBits), c.Coding.Zero
	d.Stride = d.Steps * format.StepCols
	var seen [256]bool
	for i, t := range c.ChunkTable {
		if int(t) >= len(tables) {
			return fmt.Errorf("tensor %s: chunk_table[%d] is %d, but the file has %d tables", w.Name, i, t, len(tables))
		}
		if !seen[t] {
			d.MaxLen = max(d.MaxLen, int32(longestCode(tables[t])))
		}
		seen[t] = true
	}
	if err := w.describeScale(); err != nil {
		return err
	}
	if err := w.describePlane(); err != nil {
		return err
	}
	w.describePacked(tables)
	w.describeFusedTable()
	return nil
}

// longestCode is at most t.MaxLen; the look-up table on the device is that much smaller.
func longestCode(t *huffman.Table) int {
	n := uint8(1)
	for _, l := range t.Lens {
		n = max(n, l)
	}
	return int(n)
}

func (w *weight) describeScale() error {
	c, d := w.Coded, &w.desc
	d.Scale, d.Min = c.Scale.Scale, c.Scale.Min
	switch c.Scale.Kind {
	case format.ScaleTensor:
		d.ScaleKind = kernels.ScaleTensor
	case format.ScaleRow:
		d.ScaleKind = kernels.ScaleRow
	case format.ScaleNone:
		d.ScaleKind = kernels.ScaleNone
	case format.ScaleBlock:
		d.ScaleKind, d.Blocks = kernels.ScaleBlock, int32(c.Cols/c.Scale.Block)
		if bits.OnesCount(uint(c.Scale.Block)) != 1 {
			return fmt.Errorf("tensor %s: blocks of %d columns; the GPU kernels need a power of two (use --device cpu)", w.Name,
				c.Scale.Block)
		}
		d.BlockShift = int32(bits.TrailingZeros(uint(c.Scale.Block)))
		d.BlockStride = int32(ceilDiv(c.Steps()*format.StepCols, c.Scale.Block))
		d.BlockUnit, d.MinUnit = halfUnit(c.D, subBound(c.SubScale, c.Scale.SubBits, c.Scale.SubBias)), 1
		if c.DMin != nil {
			d.MinUnit = halfUnit(c.DMin, subBound(c.SubMin, c.Scale.SubBits, 0))
		}
	}
	return nil
}

// subBound returns the largest magnitude that a sub-scale can have.
func subBound(sub []byte, subBits, bias int) float64 {
	if sub == nil || subBits == 0 {
		return 1
	}
	if subBits == 8 { // a signed byte
		return math.Abs(float64(bias)) + 128
	}
	return math.Max(math.Abs(float64(bias)), math.Abs(float64(bias+1<<subBits-1)))
}

// halfUnit returns the power of two by which scales are divided before they are rounded to float16, so that d times a sub-scale
// of at most `sub` stays within ±1 and small ones stay out of the subnormal numbers.
func halfUnit(d []uint16, sub float64) float32 {
	m := 0.0
	for _, v := range d {
		if x := math.Abs(float64(float16.Frombits(v).Float32())); x > m && !math.IsInf(x, 0) {
			m = x
		}
	}
	if m == 0 {
		return 1
	}
	_, exp := math.Frexp(m * sub) // m·sub < 2^exp
	return float32(math.Ldexp(1, exp))
}

// describePlane chooses the element type of the decoded form and the code that a stored 0 stands for.
func (w *weight) describePlane() error {
	c, d := w.Coded, &w.desc
	switch c.Coding.Float {
	case format.FloatBF16:
		d.FloatKind, d.Type = kernels.FloatBf16, kernels.TypeBf16
		d.FloatUnit = floatUnit(c, 127, 254)
		return nil
	case format.FloatF16:
		d.FloatKind, d.Type = kernels.FloatF16, kernels.TypeF16
		d.FloatUnit = floatUnit(c, 15, 30)
		return nil
	}
	lo, hi := codeRange(c)
	usual := max(lo, min(hi, usualCode(c)))
	switch {
	case hi-lo <= math.MaxUint8:
		d.Type, d.DataZero = kernels.TypeU8, float32(lo)
		d.DataOffset = float32(usual - lo - 128)
	case lo > -maxCode && hi < maxCode:
		d.Type, d.DataOffset = kernels.TypeI32, float32(usual-128)
	default:
		return fmt.Errorf("tensor %s: codes from %d to %d; the GPU kernels take codes within ±%d (use --device cpu)", w.Name, lo, hi,
			maxCode)
	}
	return nil
}

// maxCode bounds codes: float32 holds them exactly, half precision in units of 256.
const maxCode = 1 << 23

// codeRange bounds the integer codes that c can decode to, outliers included.
func codeRange(c *format.Coded) (lo, hi int) {
	k := &c.Coding
	if len(k.Values) > 0 {
		lo, hi = int(k.Values[0]), int(k.Values[0])
		for _, v := range k.Values {
			lo, hi = min(lo, int(v)), max(hi, int(v))
		}
		return lo, hi
	}
	least, most := outlierRange(c)
	return int(k.Zero) + least<<k.LowBits, int(k.Zero) + (k.Levels+most)<<k.LowBits - 1
}

// floatUnit returns a power of two that no weight of a float coding reaches twice. bias and most are the format's: of exponents,
// and the largest of a finite number.
func floatUnit(c *format.Coded, bias, most int) float32 {
	_, beyond := outlierRange(c)
	return float32(math.Ldexp(1, max(-100, min(int(c.Coding.Zero)+c.Coding.Levels-1+beyond, most)-bias)))
}

// outlierRange bounds what outliers add to levels, least ≤ 0 ≤ most.
func outlierRange(c *format.Coded) (least, most int) {
	sum := 0
	last := uint32(math.MaxUint32)
	for _, v := range c.Outliers {
		if at := v & 0xffffff; at != last { // entries of the same weight, which add up, follow each other
			last, sum = at, 0
		}
		sum += format.UnpackOutlier(v).Delta
		least, most = min(least, sum), max(most, sum)
	}
	return least, most
}

// usualCode estimates the commonest code: that of the weight nearest to 0, or the middle of the alphabet where minima move it.
// Kernels multiply the distance from it, because sums of small integers lose least in half precision.
func usualCode(c *format.Coded) int {
	k, s := &c.Coding, &c.Scale
	first, last := int(k.Zero), int(k.Zero)+k.Levels<<k.LowBits-1
	usual := 0
	switch {
	case s.Kind == format.ScaleTensor && s.Min != 0 && s.Scale != 0:
		usual = int(max(-1<<20, min(1<<20, math.Round(float64(-s.Min)/float64(s.Scale)))))
	case s.Kind == format.ScaleBlock && c.DMin != nil:
		usual = (first + last + 1) / 2
	}
	if len(k.Values) > 0 {
		return usual
	}
	return max(first, min(last, usual))
}

// describeFusedTable chooses the small integers that the fused kernels' tables hold: level + TableBias. Block scales have no
// place for an offset of the code, so there the zero point must be in the table. Otherwise the usual level becomes 0.
func (w *weight) describeFusedTable() {
	k, d := &w.Coded.Coding, &w.desc
	if w.Coded.Scale.Kind == format.ScaleBlock {
		d.TableBias = k.Zero >> k.LowBits
	} else {
		d.TableBias = -int32((usualCode(w.Coded) - int(k.Zero)) >> k.LowBits)
	}
	d.CodeOffset = k.Zero - d.TableBias<<k.LowBits
}
