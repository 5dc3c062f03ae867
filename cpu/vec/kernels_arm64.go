package vec

import "unsafe"

// Available returns the kernels that this processor can run beside the generic ones, the fastest first.
func Available() []*Kernels {
	return []*Kernels{{
		Name: "NEON", Dot4: dot4Vectors, Half: halfVectors, Scaled: scaledVectors, Factors: factorsGeneric,
		Weighted: weightedVectors, Mix: mixGeneric, Exp: expVectors, SwiGLU: swigluVectors,
	}}
}

// neonArgs mirrors the offsets in internal/asm/arm64. Slices are checked before their pointers go there.
type neonArgs struct {
	dst, a, b        unsafe.Pointer
	strideA, strideB int
	n, rows          int
	value            float32
	_                uint32
}

// whole returns the part of n floats that the kernels' loops take: all of it, where lengths are what type Kernels says.
func whole(n int) int { return n / Lanes * Lanes }

func (a *neonArgs) pointer() *byte { return (*byte)(unsafe.Pointer(a)) }

func dot4Vectors(out []float32, weights, vectors Rows, tokens, n int) {
	w, ws, x, xs := weights.V, weights.Stride, vectors.V, vectors.Stride
	if n = whole(n); tokens == 0 || n == 0 {
		return
	}
	args := neonArgs{a: unsafe.Pointer(&w[:3*ws+n][0]), strideA: 4 * ws, strideB: 4 * xs, n: n}
	out, x = out[:4*tokens], x[:(tokens-1)*xs+n]
	for t := 0; t < tokens; t += 2 {
		args.dst, args.b = unsafe.Pointer(&out[4*t]), unsafe.Pointer(&x[t*xs])
		if t+1 < tokens {
			dot4NEON2(args.pointer())
		} else {
			dot4NEON1(args.pointer())
		}
	}
}

func halfVectors(dst []float32, src []uint16) {
	n := whole(len(src))
	if n == 0 {
		return
	}
	args := neonArgs{dst: unsafe.Pointer(&dst[:n][0]), a: unsafe.Pointer(&src[0]), n: n}
	halfNEON(args.pointer())
}

func scaledVectors(dst []float32, src []int8, scale []float32) {
	n := whole(len(scale))
	if n == 0 || len(dst) < n {
		return
	}
	args := neonArgs{dst: unsafe.Pointer(&dst[0]), a: unsafe.Pointer(&src[:len(dst)][0]), b: unsafe.Pointer(&scale[0]), n: n,
		rows: len(dst) / n}
	scaledNEON(args.pointer())
}

func weightedVectors(acc, p, v []float32, stride int) {
	n := whole(len(acc))
	if len(p) == 0 || n == 0 {
		return
	}
	args := neonArgs{
		dst: unsafe.Pointer(&acc[0]), a: unsafe.Pointer(&p[0]), b: unsafe.Pointer(&v[:(len(p)-1)*stride+n][0]),
		strideB: 4 * stride, n: n, rows: len(p),
	}
	weightedNEON(args.pointer())
}

func expVectors(v []float32, shift float32) float32 {
	n := whole(len(v))
	if n == 0 {
		return 0
	}
	args := neonArgs{dst: unsafe.Pointer(&v[0]), n: n, value: shift}
	expNEON(args.pointer())
	return args.value
}

func swigluVectors(dst, gate, up []float32) {
	n := whole(len(dst))
	if n == 0 {
		return
	}
	args := neonArgs{dst: unsafe.Pointer(&dst[0]), a: unsafe.Pointer(&gate[:n][0]), b: unsafe.Pointer(&up[:n][0]), n: n}
	swigluNEON(args.pointer())
}
