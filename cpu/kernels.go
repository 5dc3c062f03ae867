package cpu

import "math"

// lanes is the widest vector in floats: row lengths in scratch buffers are multiples of it.
const lanes = 16

// kernels are the inner loops, in one instruction set. Lengths are multiples of lanes. Every function gives a result that depends only on its
// operands, not on how a product was split, so all plans, thread counts and batch sizes give the same bits.
type kernels struct {
	name string
	// dot4 adds to out[4t + r] the product of row r of w (4 rows, ws floats apart) and row t of x (tokens rows, xs floats apart), n floats each.
	dot4 func(out []float32, w []float32, ws int, x []float32, xs, tokens, n int)
	// half converts finite float16 numbers.
	half func(dst []float32, src []uint16)
	// factors sets dst to the sub-scales or minima of super-blocks first … first+len(d)−1, times d. Super-blocks have multiples of 8.
	factors func(dst []float32, d []uint16, f *subFactors, first int)
	// scaled sets dst[i] = src[i] · scale[i mod len(scale)].
	scaled func(dst []float32, src []int8, scale []float32)
	// weighted adds Σ p[i] · v[i·stride + j] to acc[j].
	weighted func(acc, p, v []float32, stride int)
	// exp sets v[i] = exp(v[i] − shift), 0 below shift − 87, and returns the sum.
	exp func(v []float32, shift float32) float32
	// swiglu sets dst[i] = silu(gate[i]) · up[i].
	swiglu func(dst, gate, up []float32)
}

func genericKernels() *kernels {
	return &kernels{
		name:     "generic Go",
		dot4:     dot4Generic,
		half:     halfGeneric,
		factors:  factorsGeneric,
		scaled:   scaledGeneric,
		weighted: weightedGeneric,
		exp:      expGeneric,
		swiglu:   swigluGeneric,
	}
}

func dot4Generic(out []float32, w []float32, ws int, x []float32, xs, tokens, n int) {
	for t := range tokens {
		v := x[t*xs:][:n]
		for r := range 4 {
			out[4*t+r] += dotGeneric(w[r*ws:][:n], v)
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

func weightedGeneric(acc, p, v []float32, stride int) {
	for i, f := range p {
		row := v[i*stride:][:len(acc)]
		for j := range acc {
			acc[j] += float32(f * row[j])
		}
	}
}

func expGeneric(v []float32, shift float32) float32 {
	sum := float32(0)
	for i, f := range v {
		e := float32(0)
		if f-shift >= minExp {
			e = float32(math.Exp(float64(f - shift)))
		}
		v[i] = e
		sum += e
	}
	return sum
}

// minExp is where exp is taken as 0: results stay normal numbers.
const minExp = -87

func swigluGeneric(dst, gate, up []float32) {
	gate, up = gate[:len(dst)], up[:len(dst)]
	for i, g := range gate {
		dst[i] = g / (1 + float32(math.Exp(float64(-g)))) * up[i]
	}
}
