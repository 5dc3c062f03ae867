package vec

import "encoding/binary"

// SubFactors are the sub-scales, or minima, of a matrix: Per for every super-block, Bits each, least significant bit first.
// Signed ones have 8 bits.
type SubFactors struct {
	Bytes      []byte // empty: all factors are 1
	Bits, Bias int    // a factor is its bits as a number, plus Bias
	Signed     bool
	Per        int // per super-block
}

// Times sets dst to the factors of len(d) super-blocks, the first of which is super-block `first` of the matrix, times d (finite
// float16 numbers), each `wide` times.
func (f *SubFactors) Times(k *Kernels, dst []float32, wide int, d []uint16, first int) {
	if wide == 1 && f.Per%8 == 0 && len(f.Bytes) > 0 {
		k.Factors(dst, d, f, first)
		return
	}
	f.repeated(dst, wide, d, first)
}

// repeated is Times for all widths.
func (f *SubFactors) repeated(dst []float32, wide int, d []uint16, first int) {
	var v [8]float32
	at := 0
	for i, h := range d {
		scale := Half(h)
		for j := 0; j < f.Per; j += len(v) {
			f.eight(&v, (first+i)*f.Per+j)
			for _, x := range v[:min(len(v), f.Per-j)] {
				for range wide {
					dst[at] = scale * x
					at++
				}
			}
		}
	}
}

func factorsGeneric(dst []float32, d []uint16, f *SubFactors, first int) {
	f.repeated(dst, 1, d, first)
}

// At returns factor i of the matrix.
func (f *SubFactors) At(i int) float32 {
	var v [8]float32
	f.eight(&v, i)
	return v[0]
}

// eight unpacks eight factors from factor `first` of the matrix on. Those past the last are meaningless.
func (f *SubFactors) eight(v *[8]float32, first int) {
	if len(f.Bytes) == 0 {
		for i := range v {
			v[i] = 1
		}
		return
	}
	bits := uint(f.Bits)
	bit := uint(first) * bits
	w := word(f.Bytes, bit/8) >> (bit % 8)
	if bit%8+8*bits > 64 {
		w |= word(f.Bytes, bit/8+8) << (64 - bit%8)
	}
	if f.Signed {
		for i := range v {
			v[i] = float32(int(int8(w>>(8*i))) + f.Bias)
		}
		return
	}
	mask := uint64(1)<<bits - 1
	for i := range v {
		v[i] = float32(int(w>>(uint(i)*bits)&mask) + f.Bias)
	}
}

// word returns 8 bytes of b from byte `at` on, 0 past its end.
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
