//go:build goexperiment.simd

package vec

import (
	"simd/archsimd"
	"unsafe"
)

type f32x8 = archsimd.Float32x8

// dot4x256 takes two tokens at a time: 8 accumulators, as many as 16 registers allow.
func dot4x256(out []float32, weights, vectors Rows, tokens, n int) {
	w, ws, x, xs := weights.V, weights.Stride, vectors.V, vectors.Stride
	out, w, x = out[:4*tokens], w[:3*ws+n], x[:(tokens-1)*xs+n]
	t := 0
	for ; t+2 <= tokens; t += 2 {
		var a0, a1, a2, a3, b0, b1, b2, b3 f32x8
		for i := 0; i < n; i += 8 {
			u, v := archsimd.LoadFloat32x8(f8At(x, t*xs+i)), archsimd.LoadFloat32x8(f8At(x, (t+1)*xs+i))
			r := archsimd.LoadFloat32x8(f8At(w, i))
			a0, b0 = r.MulAdd(u, a0), r.MulAdd(v, b0)
			r = archsimd.LoadFloat32x8(f8At(w, ws+i))
			a1, b1 = r.MulAdd(u, a1), r.MulAdd(v, b1)
			r = archsimd.LoadFloat32x8(f8At(w, 2*ws+i))
			a2, b2 = r.MulAdd(u, a2), r.MulAdd(v, b2)
			r = archsimd.LoadFloat32x8(f8At(w, 3*ws+i))
			a3, b3 = r.MulAdd(u, a3), r.MulAdd(v, b3)
		}
		addSums256(out, 4*t, a0, a1, a2, a3)
		addSums256(out, 4*t+4, b0, b1, b2, b3)
	}
	for ; t < tokens; t++ {
		var a0, a1, a2, a3 f32x8
		for i := 0; i < n; i += 8 {
			v := archsimd.LoadFloat32x8(f8At(x, t*xs+i))
			a0 = archsimd.LoadFloat32x8(f8At(w, i)).MulAdd(v, a0)
			a1 = archsimd.LoadFloat32x8(f8At(w, ws+i)).MulAdd(v, a1)
			a2 = archsimd.LoadFloat32x8(f8At(w, 2*ws+i)).MulAdd(v, a2)
			a3 = archsimd.LoadFloat32x8(f8At(w, 3*ws+i)).MulAdd(v, a3)
		}
		addSums256(out, 4*t, a0, a1, a2, a3)
	}
	archsimd.ClearAVXUpperBits()
}

// addSums256 adds the sums of four vectors to out[i:i+4].
func addSums256(out []float32, i int, a, b, c, d f32x8) {
	ab := a.GetLo().Add(a.GetHi()).AddPairs(b.GetLo().Add(b.GetHi()))
	cd := c.GetLo().Add(c.GetHi()).AddPairs(d.GetLo().Add(d.GetHi()))
	archsimd.LoadFloat32x4(f4At(out, i)).Add(ab.AddPairs(cd)).Store(f4At(out, i))
}

func half256(dst []float32, src []uint16) {
	n := len(src)
	dst = dst[:n]
	p, mask, f := unsafe.SliceData(src), archsimd.BroadcastInt32x8(-0x7fff_ffff-1|0x0fff_e000), archsimd.BroadcastFloat32x8(0x1p112)
	for i := 0; i < n; i += 8 {
		h := archsimd.LoadInt16x8((*[8]int16)(elem(p, i))).ExtendToInt32()
		h.ShiftAllLeft(13).And(mask).AsFloat32x8().Mul(f).Store(f8At(dst, i))
	}
	archsimd.ClearAVXUpperBits()
}

func factors256(dst []float32, d []uint16, f *SubFactors, first int) {
	bits := uint(f.Bits)
	shifts := [8]int32{0, int32(bits), int32(2 * bits), int32(3 * bits), 0, int32(bits), int32(2 * bits), int32(3 * bits)}
	sign := int32(0)
	if f.Signed {
		sign = 1 << (bits - 1)
	}
	// What is replicated passes through memory: between vector instructions the compiler's scalar ones would be slow.
	const batch = 32
	var words, scales [batch][4]uint64 // 8 × uint32
	const twice = 1<<32 | 1
	from := uint(first*f.Per/8) * bits
	for i := 0; i < len(dst)/8; i += batch {
		n := min(batch, len(dst)/8-i)
		for g := range n {
			w := word(f.Bytes, from)
			low, high := uint64(uint32(w))*twice, uint64(uint32(w>>(4*bits)))*twice
			words[g] = [4]uint64{low, low, high, high}
			s := uint64(HalfBits(d[(i+g)*8/f.Per])) * twice
			scales[g] = [4]uint64{s, s, s, s}
			from += bits
		}
		shift, mask := archsimd.LoadInt32x8(&shifts), archsimd.BroadcastInt32x8(1<<bits-1)
		top, bias := archsimd.BroadcastInt32x8(sign), archsimd.BroadcastInt32x8(int32(f.Bias)-sign)
		for g := range n {
			v := archsimd.LoadInt32x8((*[8]int32)(unsafe.Pointer(&words[g]))).ShiftRight(shift).And(mask).Xor(top).Add(bias)
			v.ConvertToFloat32().Mul(archsimd.LoadFloat32x8((*[8]float32)(unsafe.Pointer(&scales[g])))).Store(f8At(dst, (i+g)*8))
		}
		archsimd.ClearAVXUpperBits()
	}
}

func scaled256(dst []float32, src []int8, scale []float32) {
	src = src[:len(dst)]
	p := unsafe.SliceData(src)
	for i := 0; i < len(dst); i += len(scale) {
		for j := 0; j < len(scale); j += 16 {
			q := archsimd.LoadInt8x16((*[16]int8)(elem(p, i+j))).ExtendToInt16()
			q.GetLo().ExtendToInt32().ConvertToFloat32().Mul(archsimd.LoadFloat32x8(f8At(scale, j))).Store(f8At(dst, i+j))
			q.GetHi().ExtendToInt32().ConvertToFloat32().Mul(archsimd.LoadFloat32x8(f8At(scale, j+8))).Store(f8At(dst, i+j+8))
		}
	}
	archsimd.ClearAVXUpperBits()
}

func mix256(m, g, x []float32, f float32) {
	n, factor := len(x), archsimd.BroadcastFloat32x8(f)
	m = m[:len(g)*n]
	for j := 0; j < n; j += 8 {
		v := archsimd.LoadFloat32x8(f8At(x, j))
		for i, s := range g {
			row := f8At(m, i*n+j)
			archsimd.LoadFloat32x8(row).Mul(factor).Add(archsimd.BroadcastFloat32x8(s).Mul(v)).Store(row)
		}
	}
	archsimd.ClearAVXUpperBits()
}

func weighted256(acc, p, v []float32, stride int) {
	n, rows := len(acc), len(p)
	if rows == 0 {
		return
	}
	v = v[:(rows-1)*stride+n]
	for j := 0; j < n; j += 16 {
		a0, a1 := archsimd.LoadFloat32x8(f8At(acc, j)), archsimd.LoadFloat32x8(f8At(acc, j+8))
		for i, f := range p {
			w, row := archsimd.BroadcastFloat32x8(f), i*stride+j
			a0 = w.MulAdd(archsimd.LoadFloat32x8(f8At(v, row)), a0)
			a1 = w.MulAdd(archsimd.LoadFloat32x8(f8At(v, row+8)), a1)
		}
		a0.Store(f8At(acc, j))
		a1.Store(f8At(acc, j+8))
	}
	archsimd.ClearAVXUpperBits()
}

// expVec256 returns exp(x) for minExp ≤ x ≤ maxExp.
func expVec256(x f32x8) f32x8 {
	n := x.Mul(archsimd.BroadcastFloat32x8(log2e)).RoundToEven()
	r := n.MulAdd(archsimd.BroadcastFloat32x8(-ln2Hi), x)
	r = n.MulAdd(archsimd.BroadcastFloat32x8(-ln2Lo), r)
	y := archsimd.BroadcastFloat32x8(1. / 5040)
	y = y.MulAdd(r, archsimd.BroadcastFloat32x8(1./720))
	y = y.MulAdd(r, archsimd.BroadcastFloat32x8(1./120))
	y = y.MulAdd(r, archsimd.BroadcastFloat32x8(1./24))
	y = y.MulAdd(r, archsimd.BroadcastFloat32x8(1./6))
	y = y.MulAdd(r, archsimd.BroadcastFloat32x8(1./2))
	one := archsimd.BroadcastFloat32x8(1)
	y = y.MulAdd(r, one).MulAdd(r, one)
	return n.ConvertToInt32().Add(archsimd.BroadcastInt32x8(127)).ShiftAllLeft(23).AsFloat32x8().Mul(y)
}

func exp256(v []float32, shift float32) float32 {
	var sum f32x8
	s, low := archsimd.BroadcastFloat32x8(shift), archsimd.BroadcastFloat32x8(minExp)
	for i := 0; i < len(v); i += 8 {
		x := archsimd.LoadFloat32x8(f8At(v, i)).Sub(s)
		e := expVec256(x.Max(low)).Masked(x.GreaterEqual(low))
		e.Store(f8At(v, i))
		sum = sum.Add(e)
	}
	q := sum.GetLo().Add(sum.GetHi())
	q = q.AddPairs(q)
	total := q.AddPairs(q).GetElem(0)
	archsimd.ClearAVXUpperBits()
	return total
}

func swiglu256(dst, gate, up []float32) {
	gate, up = gate[:len(dst)], up[:len(dst)]
	one, zero := archsimd.BroadcastFloat32x8(1), archsimd.BroadcastFloat32x8(0)
	low, high := archsimd.BroadcastFloat32x8(minExp), archsimd.BroadcastFloat32x8(maxExp)
	for i := 0; i < len(dst); i += 8 {
		g := archsimd.LoadFloat32x8(f8At(gate, i))
		e := expVec256(zero.Sub(g).Min(high).Max(low))
		g.Div(e.Add(one)).Mul(archsimd.LoadFloat32x8(f8At(up, i))).Store(f8At(dst, i))
	}
	archsimd.ClearAVXUpperBits()
}
