package cpu

// blocks are the scales of some rows whose codes have one scale per 16 or 32 columns.
type blocks struct {
	cols  int // columns per scale; 0: there are none
	n     int // scales per row
	scale []float32
	// add is what a block's weights have besides scale · code, or nil: then they have scale · base instead, the rest of their code.
	add []float32
}

// slack is how many floats behind the last row kernels.dot4 may read: three rows and a vector.
func (b *blocks) slack() int { return 3*b.n + lanes }

// blockShape returns m's blocks without memory.
func blockShape(m *matrix) blocks {
	b := blocks{cols: m.productBlock()}
	if b.cols > 0 {
		b.n = m.cols / b.cols
	}
	return b
}

// newBlocks allocates scales for n rows of m.
func newBlocks(m *matrix, n int) blocks {
	b := blockShape(m)
	if b.cols == 0 {
		return b
	}
	b.scale = make([]float32, n*b.n+b.slack())
	if m.coded.DMin != nil {
		b.add = make([]float32, n*b.n+b.slack())
	}
	return b
}

// blockBytes returns what newBlocks allocates.
func blockBytes(m *matrix, n int) int64 {
	b := blockShape(m)
	if b.cols == 0 {
		return 0
	}
	size := 4 * int64(n*b.n+b.slack())
	if m.coded.DMin != nil {
		size *= 2
	}
	return size
}

// fill computes the scales of n rows of m from stored position pos on, into b's rows from row `at` on.
func (b *blocks) fill(m *matrix, pos, n, at int) {
	c := m.coded
	wide, super := m.block/b.cols, c.Scale.Super/b.cols // entries per block of the file and per super-block
	base := float32(m.base)
	block := pos * (c.Cols / m.block)
	first := pos * (c.Cols / c.Scale.Super)
	for i := range n * b.n / super {
		out := at*b.n + i*super
		d, dmin := half(c.D[first+i]), float32(0)
		if b.add != nil {
			dmin = half(c.DMin[first+i])
		}
		for j := out; j < out+super; j += wide {
			scale := d * subScale(c, block)
			add := dmin * subMin(c, block)
			block++
			for k := j; k < j+wide; k++ {
				b.scale[k] = scale
				if b.add != nil {
					// Both parts of what is independent of the decoded byte are joined.
					b.add[k] = add + scale*base
				}
			}
		}
	}
}

// slice returns the scales from row `first` on.
func (b *blocks) slice(first int) blocks {
	s := *b
	if b.cols > 0 {
		s.scale = b.scale[first*b.n:]
		if b.add != nil {
			s.add = b.add[first*b.n:]
		}
	}
	return s
}
