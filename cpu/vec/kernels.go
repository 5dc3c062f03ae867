// Package vec holds the floating-point loops of package cpu, each in generic Go and in the vector instructions of the processor:
// products, attention, activations, and the conversions of float16, bfloat16 and sub-scales.
//
// Vector code comes in two ways in this project. Floating-point loops for amd64 are Go with simd/archsimd, which the compiler
// schedules as well as one would by hand; builds without GOEXPERIMENT=simd take the generic ones. The integer products of cpu/dot
// and the decoders of cpu/decode are assembly written by internal/asm: most of a model's time goes there, so every build has
// them, one generator makes the bodies for all code widths, and their loops use every register of the processor. On arm64, where
// archsimd does not exist, internal/asm/arm64 writes both.
package vec

import "math"

// Lanes is the widest vector in floats: row lengths in scratch buffers are multiples of it.
const Lanes = 16

// Rows are rows of floats, Stride floats apart.
type Rows struct {
	V      []float32
	Stride int
}

// Kernels are the loops in one instruction set. Lengths are multiples of Lanes. The result of every function depends only on its
// operands and not on how a product was split, so all plans, thread counts and batch sizes give the same bits.
type Kernels struct {
	Name string
	// Dot4 adds to out[4t + r] the product of row r of w (4 rows) and row t of x (tokens rows), n floats each.
	Dot4 func(out []float32, w, x Rows, tokens, n int)
	// Half converts finite float16 numbers.
	Half func(dst []float32, src []uint16)
	// Factors sets dst to the sub-scales or minima of super-blocks first … first+len(d)−1, times d. f.Per is a multiple of 8.
	Factors func(dst []float32, d []uint16, f *SubFactors, first int)
	// Scaled sets dst[i] = src[i] · scale[i mod len(scale)].
	Scaled func(dst []float32, src []int8, scale []float32)
	// Weighted adds Σ p[i] · v[i·stride + j] to acc[j].
	Weighted func(acc, p, v []float32, stride int)
	// Mix sets row i of m, of len(x) floats, to f times itself plus g[i]·x: every product and sum is rounded.
	Mix func(m, g, x []float32, f float32)
	// Exp sets v[i] = exp(v[i] − shift), 0 below shift − 87, and returns the sum.
	Exp func(v []float32, shift float32) float32
	// SwiGLU sets dst[i] = silu(gate[i]) · up[i].
	SwiGLU func(dst, gate, up []float32)
}

// Best returns the fastest kernels that this processor runs.
func Best() *Kernels {
	if k := Available(); len(k) > 0 {
		return k[0]
	}
	return Generic()
}

// Generic returns the kernels in portable Go.
func Generic() *Kernels {
	return &Kernels{
		Name:     "generic Go",
		Dot4:     dot4Generic,
		Half:     halfGeneric,
		Factors:  factorsGeneric,
		Scaled:   scaledGeneric,
		Weighted: weightedGeneric,
		Mix:      mixGeneric,
		Exp:      expGeneric,
		SwiGLU:   swigluGeneric,
	}
}

func dot4Generic(out []float32, w, x Rows, tokens, n int) {
	for t := range tokens {
		v := x.V[t*x.Stride:][:n]
		for r := range 4 {
			out[4*t+r] += dotGeneric(w.V[r*w.Stride:][:n], v)
		}
	}
}

// dotGeneric sums in four chains, which the processor can overlap.
func dotGeneric(a, b []float32) float32 {
	var s0, s1, s2, s3 float32
	b = b[:len(a)]
	for i := 0; i+4 <= len(a); i += 4 {
		p, q := a[i:i+4:i+4], b[i:i+4:i+4]
		s0 += p[0] * q[0]
		s1 += p[1] * q[1]
		s2 += p[2] * q[2]
		s3 += p[3] * q[3]
	}
	return (s0 + s2) + (s1 + s3)
}

func mixGeneric(m, g, x []float32, f float32) {
	for i, s := range g {
		row := m[i*len(x):][:len(x)]
		for j, v := range x {
			row[j] = float32(f*row[j]) + float32(s*v)
		}
	}
}

func halfGeneric(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, h := range src {
		// Sign to bit 31, exponent and mantissa below; the factor makes up for the difference between the exponents' biases.
		v := uint32(int32(int16(h))<<13) & 0x8fffe000
		dst[i] = math.Float32frombits(v) * 0x1p112
	}
}

func scaledGeneric(dst []float32, src []int8, scale []float32) {
	src = src[:len(dst)]
	for i := 0; i < len(dst); i += len(scale) {
		for j, s := range scale {
			dst[i+j] = float32(src[i+j]) * s
		}
	}
}

// weightedGeneric takes four rows at a time.
func weightedGeneric(acc, p, v []float32, stride int) {
	for len(p) >= 4 {
		f0, f1, f2, f3 := p[0], p[1], p[2], p[3]
		r0, r1, r2, r3 := v[:len(acc)], v[stride:][:len(acc)], v[2*stride:][:len(acc)], v[3*stride:][:len(acc)]
		for j := range acc {
			acc[j] += float32(float32(f0*r0[j])+float32(f1*r1[j])) + float32(float32(f2*r2[j])+float32(f3*r3[j]))
		}
		if p = p[4:]; len(p) > 0 {
			v = v[4*stride:]
		}
	}
	for i, f := range p {
		row := v[i*stride:][:len(acc)]
		for j := range acc {
			acc[j] += float32(f * row[j])
		}
	}
}

// Cody and Waite's reduction x = n·ln(2) + r, in which n·ln2Hi is exact.
const (
	log2e = 1.44269504088896341
	ln2Hi = 0.693359375
	ln2Lo = -2.12194440e-4
	// minExp is where exp is taken as 0: results stay normal numbers.
	minExp = -87
	// maxExp keeps exp within float32.
	maxExp = 88
)

// expFloat returns exp(x) for minExp ≤ x ≤ maxExp.
func expFloat(x float32) float32 {
	const whole = 0x1.8p23 // added to a small number, it leaves the nearest whole one, in the lowest bits
	k := float32(x*log2e) + whole
	n := k - whole
	r := x - float32(n*ln2Hi) - float32(n*ln2Lo)
	y := float32(r*(1./5040)) + 1./720
	y = float32(y*r) + 1./120
	y = float32(y*r) + 1./24
	y = float32(y*r) + 1./6
	y = float32(y*r) + 1./2
	y = float32(y*r) + 1
	y = float32(y*r) + 1
	return y * math.Float32frombits((math.Float32bits(k)+127)<<23)
}

func expGeneric(v []float32, shift float32) float32 {
	sum := float32(0)
	for i, f := range v {
		e := float32(0)
		if f -= shift; f >= minExp {
			e = expFloat(f)
		}
		v[i] = e
		sum += e
	}
	return sum
}

func swigluGeneric(dst, gate, up []float32) {
	gate, up = gate[:len(dst)], up[:len(dst)]
	for i, g := range gate {
		dst[i] = g / (1 + expFloat(min(max(-g, minExp), maxExp))) * up[i]
	}
}
