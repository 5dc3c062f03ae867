package weights

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// BlockScales are the scales of some rows that have one scale per 16 or 32 columns.
type BlockScales struct {
	Cols  int // columns per scale; 0: there are none
	N     int // scales per row
	Scale []float32
	// Add is what a block's weights have besides scale · stored number, or nil: then they have scale · base instead, the rest of
	// their code.
	Add []float32
}

// slack is how many floats past the last row vec.Kernels.Dot4 may read: three rows and a vector.
func (b *BlockScales) slack() int { return 3*b.N + vec.Lanes }

// scaleShape returns m's blocks without memory.
func scaleShape(m *Matrix) BlockScales {
	b := BlockScales{Cols: m.ScaleBlock()}
	if b.Cols > 0 {
		b.N = m.Cols / b.Cols
	}
	return b
}

// newScales allocates scales for n rows of m.
func newScales(m *Matrix, n int) BlockScales {
	b := scaleShape(m)
	if b.Cols == 0 {
		return b
	}
	b.Scale = make([]float32, n*b.N+b.slack())
	if m.Coded.DMin != nil {
		b.Add = make([]float32, n*b.N+b.slack())
	}
	return b
}

// scaleBytes returns what newScales allocates.
func scaleBytes(m *Matrix, n int) int64 {
	b := scaleShape(m)
	if b.Cols == 0 {
		return 0
	}
	size := 4 * int64(n*b.N+b.slack())
	if m.Coded.DMin != nil {
		size *= 2
	}
	return size
}

// fill computes the scales of n rows of m from a stored row on, into b's rows from row `at` on.
func (b *BlockScales) fill(k *vec.Kernels, m *Matrix, stored, n, at int) {
	c := m.Coded
	super := c.Scale.Super / b.Cols // entries per super-block
	first, supers := stored*(c.Cols/c.Scale.Super), n*b.N/super
	scale := b.Scale[at*b.N : (at+n)*b.N]
	var add []float32
	if b.Add != nil {
		add = b.Add[at*b.N : (at+n)*b.N]
	}
	if super == 1 && len(c.SubScale) == 0 && len(c.SubMin) == 0 {
		k.WidenHalves(scale, c.D[first:first+supers])
		if add != nil {
			k.WidenHalves(add, c.DMin[first:first+supers])
		}
	} else {
		b.spread(k, m, first, supers, scale, add)
	}
	// What is independent of the decoded byte is joined.
	if base := float32(m.base); base != 0 && add != nil {
		for i, s := range scale {
			add[i] += s * base
		}
	}
}

// spread computes the scales of super-blocks first … first+supers−1.
func (b *BlockScales) spread(k *vec.Kernels, m *Matrix, first, supers int, scale, add []float32) {
	c := m.Coded
	wide := m.block / b.Cols // entries per block of the file
	scales, mins := subScales(c), subMinima(c)
	scales.Times(k, scale, wide, c.D[first:first+supers], first)
	if add != nil {
		mins.Times(k, add, wide, c.DMin[first:first+supers], first)
	}
}

// subScales returns the scales of c's blocks in units of its super-blocks' scales.
func subScales(c *format.Coded) vec.SubFactors {
	s := &c.Scale
	return vec.SubFactors{Bytes: c.SubScale, Bits: s.SubBits, Bias: s.SubBias, Signed: s.SubBits == 8, Per: s.Super / s.Block}
}

// subMinima returns the minima of c's blocks in units of its super-blocks' minima.
func subMinima(c *format.Coded) vec.SubFactors {
	s := &c.Scale
	return vec.SubFactors{Bytes: c.SubMin, Bits: s.SubBits, Per: s.Super / s.Block}
}

// slice returns the scales from row `first` on.
func (b *BlockScales) slice(first int) BlockScales {
	s := *b
	if b.Cols > 0 {
		s.Scale = b.Scale[first*b.N:]
		if b.Add != nil {
			s.Add = b.Add[first*b.N:]
		}
	}
	return s
}
