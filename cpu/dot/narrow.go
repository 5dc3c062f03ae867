package dot

import "math"

const (
	// maxNarrow bounds the magnitude of 8-bit activations, maxFactor their factors.
	maxNarrow = 127
	maxFactor = 255
	// Where a step's factors and nibbles lie among its bytes.
	factorAt       = StepCols
	nibbleFactorAt = StepCols + 4
	nibblesAt      = StepCols + 32
	// widened is how many times the mean of its tile a step's factor must be for 12 bits: such steps have nearly all of the error.
	widened = 1.5
)

// At returns v of column col of a token's activations.
func (k Kernels) At(x []int8, col int) int64 {
	step, c := x[col/StepCols*2*StepCols:][:2*StepCols], col%StepCols
	if !k.Factored() {
		return int64(step[c])<<8 + int64(step[c+StepCols])
	}
	nibble := int64(uint8(step[nibblesAt+c%32])>>(c/32*4)&15) - 8
	return int64(step[c])*int64(uint8(step[factorAt])) + nibble*int64(step[nibbleFactorAt])
}

// narrowStep says how a step is quantized: q = round(x · scale), and n = round((x · scale − q) · more).
type narrowStep struct{ scale, factor, more, nibble float32 }

// split quantizes a value.
func (s *narrowStep) split(x float32) (q, n int) {
	y := float32(x * s.scale)
	whole := float32(math.RoundToEven(float64(y)))
	n = int(math.RoundToEven(float64(float32(float32(y-whole) * s.more))))
	return int(whole), min(max(n, -8), 7)
}

// narrowScales returns the scale of a tile from the largest magnitudes of its steps, and sets each step's factors: the least with
// which 8 bits hold its values, and one for nibbles where that factor is large beside the others'.
func narrowScales(most []float32, steps []narrowStep) (scale float32) {
	all := float32(0)
	for _, m := range most {
		all = max(all, m)
	}
	if all < leastActivation {
		return 0
	}
	if !(all <= mostActivation) { // see scales
		return float32(math.NaN())
	}
	inv, sum := maxNarrow*maxFactor/all, float32(0)
	for i, m := range most {
		v := int(math.RoundToEven(float64(m * inv)))
		factor := float32(max(1, (v+maxNarrow-1)/maxNarrow))
		steps[i] = narrowStep{scale: inv / factor, factor: factor}
		sum += factor
	}
	for i := range most {
		s := &steps[i]
		if s.factor*float32(len(most)) > widened*sum {
			s.nibble = float32(int(s.factor+15) / 16)
			s.more = s.factor / s.nibble
		}
	}
	return all / (maxNarrow * maxFactor)
}

// quantizeNarrow is Quantize for activations of 8 bits.
func (k Kernels) quantizeNarrow(dst []int8, x []float32, steps int) (scale float32, sum int64) {
	var most [MaxSteps]float32
	var scales [MaxSteps]narrowStep
	fast := k.Factored() && len(x) == steps*StepCols && steps > 0
	if fast {
		stepMax(most[:steps], x)
	} else {
		for s := range steps {
			most[s] = absMax(x[s*StepCols : min(len(x), (s+1)*StepCols)])
		}
	}
	scale = narrowScales(most[:steps], scales[:steps])
	if !(scale > 0) {
		clear(dst[:2*StepCols*steps])
		return scale, 0
	}
	if fast {
		return scale, splitNarrow(dst, x, scales[:steps])
	}
	clear(dst[:2*StepCols*steps])
	for c, f := range x {
		s := &scales[c/StepCols]
		q, n := s.split(f)
		v := q*int(s.factor) + n*int(s.nibble)
		hi := (v + 128) >> 8
		at := c/StepCols*2*StepCols + c%StepCols
		dst[at], dst[at+StepCols] = int8(hi), int8(v-hi<<8)
		sum += int64(v)
	}
	return scale, sum
}
