//go:build goexperiment.simd

package vec

import (
	"simd/archsimd"
	"unsafe"
)

type f32x16 = archsimd.Float32x16

// dot4x512 takes four tokens at a time: 16 accumulators.
func dot4x512(out []float32, weights, vectors Rows, tokens, n int) {
	w, ws, x, xs := weights.V, weights.Stride, vectors.V, vectors.Stride
	out, w, x = out[:4*tokens], w[:3*ws+n], x[:(tokens-1)*xs+n]
	t := 0
	for ; t+4 <= tokens; t += 4 {
		dot4t4x512(out[4*t:], w, ws, x[t*xs:], xs, n)
	}
	for ; t < tokens; t++ {
		var a0, a1, a2, a3 f32x16
		for i := 0; i < n; i += 16 {
			v := archsimd.LoadFloat32x16(f16At(x, t*xs+i))
			a0 = archsimd.LoadFloat32x16(f16At(w, i)).MulAdd(v, a0)
			a1 = archsimd.LoadFloat32x16(f16At(w, ws+i)).MulAdd(v, a1)
			a2 = archsimd.LoadFloat32x16(f16At(w, 2*ws+i)).MulAdd(v, a2)
			a3 = archsimd.LoadFloat32x16(f16At(w, 3*ws+i)).MulAdd(v, a3)
		}
		addSums512(out, 4*t, a0, a1, a2, a3)
	}
	archsimd.ClearAVXUpperBits()
}

func dot4t4x512(out, w []float32, ws int, x []float32, xs, n int) {
	var a00, a10, a20, a30, a01, a11, a21, a31, a02, a12, a22, a32, a03, a13, a23, a33 f32x16
	w0, w1, w2, w3 := f16At(w, 0), f16At(w, ws), f16At(w, 2*ws), f16At(w, 3*ws)
	x0, x1, x2, x3 := f16At(x, 0), f16At(x, xs), f16At(x, 2*xs), f16At(x, 3*xs)
	for i := uintptr(0); i < uintptr(n)*4; i += 64 {
		r0 := archsimd.LoadFloat32x16((*[16]float32)(unsafe.Add(unsafe.Pointer(w0), i)))
		r1 := archsimd.LoadFloat32x16((*[16]float32)(unsafe.Add(unsafe.Pointer(w1), i)))
		r2 := archsimd.LoadFloat32x16((*[16]float32)(unsafe.Add(unsafe.Pointer(w2), i)))
		r3 := archsimd.LoadFloat32x16((*[16]float32)(unsafe.Add(unsafe.Pointer(w3), i)))
		v := archsimd.LoadFloat32x16((*[16]float32)(unsafe.Add(unsafe.Pointer(x0), i)))
		a00, a10, a20, a30 = r0.MulAdd(v, a00), r1.MulAdd(v, a10), r2.MulAdd(v, a20), r3.MulAdd(v, a30)
		v = archsimd.LoadFloat32x16((*[16]float32)(unsafe.Add(unsafe.Pointer(x1), i)))
		a01, a11, a21, a31 = r0.MulAdd(v, a01), r1.MulAdd(v, a11), r2.MulAdd(v, a21), r3.MulAdd(v, a31)
		v = archsimd.LoadFloat32x16((*[16]float32)(unsafe.Add(unsafe.Pointer(x2), i)))
		a02, a12, a22, a32 = r0.MulAdd(v, a02), r1.MulAdd(v, a12), r2.MulAdd(v, a22), r3.MulAdd(v, a32)
		v = archsimd.LoadFloat32x16((*[16]float32)(unsafe.Add(unsafe.Pointer(x3), i)))
		a03, a13, a23, a33 = r0.MulAdd(v, a03), r1.MulAdd(v, a13), r2.MulAdd(v, a23), r3.MulAdd(v, a33)
	}
	addSums512(out, 0, a00, a10, a20, a30)
	addSums512(out, 4, a01, a11, a21, a31)
	addSums512(out, 8, a02, a12, a22, a32)
	addSums512(out, 12, a03, a13, a23, a33)
}

// addSums512 adds the sums of four vectors to out[i:i+4].
func addSums512(out []float32, i int, a, b, c, d f32x16) {
	ab := quarter512(a).AddPairs(quarter512(b))
	cd := quarter512(c).AddPairs(quarter512(d))
	archsimd.LoadFloat32x4(f4At(out, i)).Add(ab.AddPairs(cd)).Store(f4At(out, i))
}

// quarter512 returns four partial sums.
func quarter512(a f32x16) archsimd.Float32x4 {
	h := a.GetLo().Add(a.GetHi())
	return h.GetLo().Add(h.GetHi())
}

func half512(dst []float32, src []uint16) {
	n := len(src)
	dst = dst[:n]
	p, mask, f := unsafe.SliceData(src), archsimd.BroadcastInt32x16(-0x7fff_ffff-1|0x0fff_e000),
		archsimd.BroadcastFloat32x16(0x1p112)
	for i := 0; i < n; i += 16 {
		h := archsimd.LoadInt16x16((*[16]int16)(elem(p, i))).ExtendToInt32()
		h.ShiftAllLeft(13).And(mask).AsFloat32x16().Mul(f).Store(f16At(dst, i))
	}
	archsimd.ClearAVXUpperBits()
}

func scaled512(dst []float32, src []int8, scale []float32) {
	src = src[:len(dst)]
	p := unsafe.SliceData(src)
	for i := 0; i < len(dst); i += len(scale) {
		for j := 0; j < len(scale); j += 16 {
			q := archsimd.LoadInt8x16((*[16]int8)(elem(p, i+j))).ExtendToInt32().ConvertToFloat32()
			q.Mul(archsimd.LoadFloat32x16(f16At(scale, j))).Store(f16At(dst, i+j))
		}
	}
	archsimd.ClearAVXUpperBits()
}

func mix512(m, g, x []float32, f float32) {
	n, factor := len(x), archsimd.BroadcastFloat32x16(f)
	m = m[:len(g)*n]
	for j := 0; j < n; j += 16 {
		v := archsimd.LoadFloat32x16(f16At(x, j))
		for i, s := range g {
			row := f16At(m, i*n+j)
			archsimd.LoadFloat32x16(row).Mul(factor).Add(archsimd.BroadcastFloat32x16(s).Mul(v)).Store(row)
		}
	}
	archsimd.ClearAVXUpperBits()
}

func weighted512(acc, p, v []float32, stride int) {
	n, rows := len(acc), len(p)
	if rows == 0 {
		return
	}
	v = v[:(rows-1)*stride+n]
	j := 0
	for ; j+64 <= n; j += 64 {
		a0, a1 := archsimd.LoadFloat32x16(f16At(acc, j)), archsimd.LoadFloat32x16(f16At(acc, j+16))
		a2, a3 := archsimd.LoadFloat32x16(f16At(acc, j+32)), archsimd.LoadFloat32x16(f16At(acc, j+48))
		for i, f := range p {
			w, row := archsimd.BroadcastFloat32x16(f), i*stride+j
			a0 = w.MulAdd(archsimd.LoadFloat32x16(f16At(v, row)), a0)
			a1 = w.MulAdd(archsimd.LoadFloat32x16(f16At(v, row+16)), a1)
			a2 = w.MulAdd(archsimd.LoadFloat32x16(f16At(v, row+32)), a2)
			a3 = w.MulAdd(archsimd.LoadFloat32x16(f16At(v, row+48)), a3)
		}
		a0.Store(f16At(acc, j))
		a1.Store(f16At(acc, j+16))
		a2.Store(f16At(acc, j+32))
		a3.Store(f16At(acc, j+48))
	}
	for ; j < n; j += 16 {
		a := archsimd.LoadFloat32x16(f16At(acc, j))
		for i, f := range p {
			a = archsimd.BroadcastFloat32x16(f).MulAdd(archsimd.LoadFloat32x16(f16At(v, i*stride+j)), a)
		}
		a.Store(f16At(acc, j))
	}
	archsimd.ClearAVXUpperBits()
}

// expVec512 returns exp(x) for minExp ≤ x ≤ maxExp.
func expVec512(x f32x16) f32x16 {
	n := x.Mul(archsimd.BroadcastFloat32x16(log2e)).RoundToEvenScaled(0)
	r := n.MulAdd(archsimd.BroadcastFloat32x16(-ln2Hi), x)
	r = n.MulAdd(archsimd.BroadcastFloat32x16(-ln2Lo), r)
	y := archsimd.BroadcastFloat32x16(1. / 5040)
	y = y.MulAdd(r, archsimd.BroadcastFloat32x16(1./720))
	y = y.MulAdd(r, archsimd.BroadcastFloat32x16(1./120))
	y = y.MulAdd(r, archsimd.BroadcastFloat32x16(1./24))
	y = y.MulAdd(r, archsimd.BroadcastFloat32x16(1./6))
	y = y.MulAdd(r, archsimd.BroadcastFloat32x16(1./2))
	one := archsimd.BroadcastFloat32x16(1)
	y = y.MulAdd(r, one).MulAdd(r, one)
	return y.Scale(n)
}

func exp512(v []float32, shift float32) float32 {
	var sum f32x16
	s, low := archsimd.BroadcastFloat32x16(shift), archsimd.BroadcastFloat32x16(minExp)
	for i := 0; i < len(v); i += 16 {
		x := archsimd.LoadFloat32x16(f16At(v, i)).Sub(s)
		e := expVec512(x.Max(low)).Masked(x.GreaterEqual(low))
		e.Store(f16At(v, i))
		sum = sum.Add(e)
	}
	q := quarter512(sum)
	q = q.AddPairs(q)
	total := q.AddPairs(q).GetElem(0)
	archsimd.ClearAVXUpperBits()
	return total
}

func swiglu512(dst, gate, up []float32) {
	gate, up = gate[:len(dst)], up[:len(dst)]
	one, zero := archsimd.BroadcastFloat32x16(1), archsimd.BroadcastFloat32x16(0)
	low, high := archsimd.BroadcastFloat32x16(minExp), archsimd.BroadcastFloat32x16(maxExp)
	for i := 0; i < len(dst); i += 16 {
		g := archsimd.LoadFloat32x16(f16At(gate, i))
		e := expVec512(zero.Sub(g).Min(high).Max(low))
		g.Div(e.Add(one)).Mul(archsimd.LoadFloat32x16(f16At(up, i))).Store(f16At(dst, i))
	}
	archsimd.ClearAVXUpperBits()
}
