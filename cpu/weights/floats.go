package weights

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// Floats is a matrix of floating-point weights: raw tensors, coded floats, and integer codes that package dot does not multiply
// (more than 8 bits, or block scales of unusual width), which are scaled when they are decoded. Rows are stride apart; exactly
// one of u16 and f32 is used.
type Floats struct {
	dtype  format.DType
	u16    []uint16
	f32    []float32
	stride int
}

// rawFloats views a raw tensor.
func rawFloats(r *format.Raw) (*Floats, error) {
	f := &Floats{dtype: r.DType, stride: r.Cols}
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
func codedFloats(m *Matrix) *Floats {
	f := &Floats{dtype: format.F32, stride: m.Stride()}
	switch {
	case m.ColScale != nil:
	case m.Coded.Coding.Float == format.FloatBF16:
		f.dtype = format.BF16
	case m.Coded.Coding.Float == format.FloatF16:
		f.dtype = format.F16
	}
	return f
}

// alloc returns f with room for n rows.
func (f *Floats) alloc(n int) *Floats {
	out := &Floats{dtype: f.dtype, stride: f.stride}
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

func newFloatScratch(m *Matrix) floatScratch {
	n := m.blockRows * m.Stride()
	return floatScratch{codes: make([]int32, n), wide: make([]uint16, n), bytes: make([]byte, n)}
}

// decodeFloats decodes group g to f, from row `at` on.
func (m *Matrix) decodeFloats(g int, f *Floats, at int, s *floatScratch) {
	c, stride, n := m.Coded, m.Stride(), m.Coded.GroupRows(g)
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
		s.codes[o.Row*stride+o.Col] += int32(o.Delta) << m.outlierShift
	}
	for r := range n {
		// The decoded values of padding columns are unspecified and might be NaN: only real columns are kept.
		codes := s.codes[r*stride:][:m.Cols]
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
			f.f32[out+i] = floatWeight(&c.Coding, q) * m.ColScale[i]
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
	return vec.Half(v[0])
}

// Widen sets dst to columns col … of row i, 0 after the last of cols columns.
func (f *Floats) Widen(dst []float32, i, col, cols int) {
	n := min(len(dst), cols-col)
	at := i*f.stride + col
	switch f.dtype {
	case format.F32:
		copy(dst, f.f32[at:at+n])
	case format.BF16:
		vec.WidenBF16(dst, f.u16[at:at+n])
	default:
		for j, h := range f.u16[at : at+n] {
			dst[j] = vec.Half(h)
		}
	}
	clear(dst[n:])
}

// Vector returns the first row of m, a raw tensor.
func (m *Matrix) Vector() []float32 {
	v := make([]float32, m.Cols)
	m.floats.Widen(v, 0, 0, m.Cols)
	return v
}
