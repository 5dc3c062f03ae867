package cpu

import "encoding/binary"

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
func (b *blocks) fill(k *kernels, m *matrix, pos, n, at int) {
	c := m.coded
	super := c.Scale.Super / b.cols // entries per super-block
	first, supers := pos*(c.Cols/c.Scale.Super), n*b.n/super
	scale := b.scale[at*b.n : (at+n)*b.n]
	var add []float32
	if b.add != nil {
		add = b.add[at*b.n : (at+n)*b.n]
	}
	if super == 1 && len(c.SubScale) == 0 && len(c.SubMin) == 0 {
		widenHalves(k, scale, c.D[first:first+supers])
		if add != nil {
			widenHalves(k, add, c.DMin[first:first+supers])
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
func (b *blocks) spread(k *kernels, m *matrix, first, supers int, scale, add []float32) {
	c, s := m.coded, &m.coded.Scale
	wide := m.block / b.cols // entries per block of the file
	scales := subFactors{bytes: c.SubScale, bits: s.SubBits, bias: s.SubBias, signed: s.SubBits == 8, per: s.Super / m.block}
	mins := subFactors{bytes: c.SubMin, bits: s.SubBits, per: scales.per}
	scales.times(k, scale, wide, c.D[first:first+supers], first)
	if add != nil {
		mins.times(k, add, wide, c.DMin[first:first+supers], first)
	}
}

// subFactors are the sub-scales, or minima, of a matrix: `per` for every super-block.
type subFactors struct {
	bytes      []byte // none: the factors are 1
	bits, bias int
	signed     bool
	per        int
}

// times sets dst to the factors of some super-blocks, the first of which is super-block `first` of the matrix, times d, each `wide` times.
func (f *subFactors) times(k *kernels, dst []float32, wide int, d []uint16, first int) {
	if wide == 1 && f.per%8 == 0 && len(f.bytes) > 0 {
		k.factors(dst, d, f, first)
		return
	}
	f.repeated(dst, wide, d, first)
}

// repeated is times for all widths.
func (f *subFactors) repeated(dst []float32, wide int, d []uint16, first int) {
	var v [8]float32
	at := 0
	for i, h := range d {
		scale := half(h)
		for j := 0; j < f.per; j += len(v) {
			factors(&v, f.bytes, f.bits, (first+i)*f.per+j, f.bias, f.signed)
			for _, x := range v[:min(len(v), f.per-j)] {
				for range wide {
					dst[at] = scale * x
					at++
				}
			}
		}
	}
}

func factorsGeneric(dst []float32, d []uint16, f *subFactors, first int) {
	f.repeated(dst, 1, d, first)
}

// factors unpacks eight sub-scales, or minima, from block `first` of the matrix on: values of up to 8 bits, least significant bit first. Those behind the
// last are meaningless. Without any the factors are 1. Signed ones have 8 bits.
func factors(f *[8]float32, b []byte, width, first, bias int, signed bool) {
	if len(b) == 0 {
		for i := range f {
			f[i] = 1
		}
		return
	}
	bits := uint(width)
	bit := uint(first) * bits
	w := word(b, bit/8) >> (bit % 8)
	if bit%8+8*bits > 64 {
		w |= word(b, bit/8+8) << (64 - bit%8)
	}
	if signed {
		for i := range f {
			f[i] = float32(int(int8(w>>(8*i))) + bias)
		}
		return
	}
	mask := uint64(1)<<bits - 1
	for i := range f {
		f[i] = float32(int(w>>(uint(i)*bits)&mask) + bias)
	}
}

// word returns 8 bytes of b, 0 behind its end.
func word(b []byte, at uint) uint64 {
	if at+8 <= uint(len(b)) {
		return binary.LittleEndian.Uint64(b[at:])
	}
	w := uint64(0)
	for i := at; i < uint(len(b)); i++ {
		w |= uint64(b[i]) << (8 * (i - at))
	}
	return w
}

// widenHalves converts finite float16 numbers.
func widenHalves(k *kernels, dst []float32, src []uint16) {
	n := len(src) / lanes * lanes
	k.half(dst[:n], src[:n])
	for i, h := range src[n:] {
		dst[n+i] = half(h)
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
