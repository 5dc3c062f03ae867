package cpu

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/format"
)

// floats is a matrix of floating-point weights: raw tensors, coded floats, and integer codes that package dot does not multiply (more than 8 bits, or
// block scales of unusual width), which are scaled when they are decoded. Rows are stride apart; exactly one of u16 and f32 is used.
type floats struct {
	dtype  format.DType
	u16    []uint16
	f32    []float32
	stride int
}

// rawFloats views a raw tensor.
func rawFloats(r *format.Raw) (*floats, error) {
	f := &floats{dtype: r.DType, stride: r.Cols}
	p := unsafe.Pointer(unsafe.SliceData(r.Data))
	switch n := r.Rows * r.Cols; r.DType {
	case format.F32:
		f.f32 = unsafe.Slice((*float32)(p), n)
	case format.F16, format.BF16:
		f.u16 = unsafe.Slice((*uint16)(p), n)
	default:
		return nil, fmt.Errorf("type %q, expected F32, F16 or BF16", r.DType)
	}
	return f, nil
}

// codedFloats describes how a coded matrix becomes floats; room is made by alloc.
func codedFloats(m *matrix) *floats {
	f := &floats{dtype: format.F32, stride: m.stride()}
	switch {
	case m.colScale != nil:
	case m.coded.Coding.Float == format.FloatBF16:
		f.dtype = format.BF16
	case m.coded.Coding.Float == format.FloatF16:
		f.dtype = format.F16
	}
	return f
}

// alloc returns f with room for n rows.
func (f *floats) alloc(n int) *floats {
	out := &floats{dtype: f.dtype, stride: f.stride}
	if f.dtype == format.F32 {
		out.f32 = make([]float32, n*f.stride)
	} else {
		out.u16 = make([]uint16, n*f.stride)
	}
	return out
}

// floatScratch is what decoding a group to floats needs besides its destination.
type floatScratch struct {
	bytes []byte
	wide  []uint16
	codes []int32
}

func newFloatScratch(m *matrix) floatScratch {
	n := m.unitRows * m.stride()
	return floatScratch{codes: make([]int32, n), wide: make([]uint16, n), bytes: make([]byte, n)}
}

// decodeFloats decodes group g to f, from row `at` on.
func (m *matrix) decodeFloats(g int, f *floats, at int, s *floatScratch) {
	c, stride, n := m.coded, m.stride(), m.coded.GroupRows(g)
	base := int32(m.base)
	if m.decoder.Wide() {
		m.decoder.GroupWide(g, s.wide, stride)
		for i, v := range s.wide[:n*stride] {
			s.codes[i] = int32(v)
		}
	} else {
		m.decodeGroup(g, s.bytes, stride)
		for i, v := range s.bytes[:n*stride] {
			s.codes[i] = int32(v)
		}
	}
	for _, v := range m.outliers(g) {
		o := format.UnpackOutlier(v)
		s.codes[o.Row*stride+o.Col] += int32(o.Delta) << m.sparseShift
	}
	for r := range n {
		// What the padding decodes to is unspecified, it might be a NaN: only real columns are kept.
		codes := s.codes[r*stride:][:m.cols]
		out := (at + r) * f.stride
		if c.Coding.Float == format.NotFloat {
			for i := range codes {
				codes[i] += base
			}
			m.scaleRow(f.f32[out:], codes, g*c.Coding.RowsPerGroup+r)
			continue
		}
		if f.dtype != format.F32 {
			floatBits(&c.Coding, f.u16[out:], codes)
			continue
		}
		for i, q := range codes {
			f.f32[out+i] = floatWeight(&c.Coding, q) * m.colScale[i]
		}
	}
}

// floatBits assembles the bits of bfloat16 or float16 weights from their codes (docs/format.md, 6.2).
func floatBits(k *format.Coding, dst []uint16, codes []int32) {
	dst = dst[:len(codes)]
	if k.Float == format.FloatBF16 {
		for i, q := range codes {
			dst[i] = uint16(q&0x80<<8 | (k.Zero+q>>8)&0xff<<7 | q&0x7f)
		}
		return
	}
	for i, q := range codes {
		dst[i] = uint16(q&0x400<<5 | (k.Zero+q>>11)&0x1f<<10 | q&0x3ff)
	}
}

func floatWeight(k *format.Coding, q int32) float32 {
	var v [1]uint16
	floatBits(k, v[:], []int32{q})
	if k.Float == format.FloatBF16 {
		return math.Float32frombits(uint32(v[0]) << 16)
	}
	return half(v[0])
}

// widen sets dst to columns col … of row i, 0 behind the last of cols columns.
func (f *floats) widen(dst []float32, i, col, cols int) {
	n := min(len(dst), cols-col)
	at := i*f.stride + col
	switch f.dtype {
	case format.F32:
		copy(dst, f.f32[at:at+n])
	case format.BF16:
		bf16(dst, f.u16[at:at+n])
	default:
		for j, h := range f.u16[at : at+n] {
			dst[j] = half(h)
		}
	}
	clear(dst[n:])
}

const (
	// floatRows is how many rows a floating-point product takes at a time: what kernels.dot4 multiplies.
	floatRows = 4
	// floatCols is how many columns are widened at a time, so that they and some activations fit the first-level cache. Sums of such pieces are added
	// in order: the constant is part of the result's definition.
	floatCols = 1024
)

// floatsOf returns unit u of m as floats, decoding it if necessary; the unit's first row is row `at` of it.
func (w *worker) floatsOf(m *matrix, u int) (f *floats, at int) {
	first, _ := m.unit(u)
	if m.floats.f32 != nil || m.floats.u16 != nil {
		return m.floats, first
	}
	w.floats.dtype, w.floats.stride = m.floats.dtype, m.floats.stride
	m.decodeFloats(u, &w.floats, 0, &w.scratch)
	return &w.floats, 0
}

// floatUnit computes unit u of p in floating point.
func (w *worker) floatUnit(p *product, u int) {
	m := p.m
	first, n := m.unit(u)
	f, at := w.floatsOf(m, u)
	acc := w.acc[:floatRows*p.tokens]
	cols := roundUp(m.cols, lanes)
	for i := 0; i < n; i += floatRows {
		clear(acc)
		rows := min(floatRows, n-i)
		for c := 0; c < cols; c += floatCols {
			width := min(floatCols, cols-c)
			for j := range rows {
				f.widen(w.weights[j*floatCols:][:width], at+i+j, c, m.cols)
			}
			// Where fewer rows are left, the others' sums are not used.
			w.k.dot4(acc, w.weights, floatCols, p.x[c:], p.xStride, p.tokens, width)
		}
		for t := range p.tokens {
			for j := range rows {
				p.store(t, first+i+j, acc[floatRows*t+j])
			}
		}
	}
}
