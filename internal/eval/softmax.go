package eval

import "math"

// softmax sums exponentials of logits: in float64, since a vocabulary has up to a few hundred thousand small
// terms, and with its own exponential, since these sums are all that evaluation itself computes.
type softmax struct {
	exp2 [64]float64 // 2^(j/64)
}

func newSoftmax() *softmax {
	s := new(softmax)
	for j := range s.exp2 {
		s.exp2[j] = math.Exp2(float64(j) / 64)
	}
	return s
}

// negligible is the exponent below which a term is left out: with e^−100 each, all tokens of a vocabulary together
// do not reach the last bit of a sum that is at least 1.
const negligible = -100

// exp returns e^x for |x| ≤ 700 with a relative error below 4e-11. It splits x into k·ln2/64 + r: adding
// 1.5·2⁵² leaves the integer k in the low bits of the sum.
func (s *softmax) exp(x float64) float64 {
	const toInteger = 3 << 51
	k := x*(64*math.Log2E) + toInteger
	r := x - (k-toInteger)*(math.Ln2/64)
	n := math.Float64bits(k)
	return (1 + r*(1+r*(1./2+r*(1./6)))) * s.exp2[n&63] * math.Float64frombits((n>>6+1023)<<52)
}

// top returns the largest logit and its first index.
func top(logits []float32) (v float32, at int) {
	v = logits[0]
	for i, x := range logits {
		if x > v {
			v, at = x, i
		}
	}
	return v, at
}

// logSum returns ln Σ e^logit and the index of the largest logit. It is not finite if some logit is NaN or +Inf.
func (s *softmax) logSum(logits []float32) (lse float64, argmax int) {
	m, argmax := top(logits)
	sum := 0.0
	for _, v := range logits {
		if x := float64(v) - float64(m); !(x < negligible) {
			sum += s.exp(x)
		}
	}
	return float64(m) + math.Log(sum), argmax
}

// logSumDiff returns what logSum does for a, and Σ p·(a−b) with p = softmax(a).
func (s *softmax) logSumDiff(a, b []float32) (lse, diff float64, argmax int) {
	m, argmax := top(a)
	sum := 0.0
	for i, v := range a {
		if x := float64(v) - float64(m); !(x < negligible) {
			e := s.exp(x)
			sum += e
			diff += e * (float64(v) - float64(b[i]))
		}
	}
	return float64(m) + math.Log(sum), diff / sum, argmax
}

// negLogProb returns −ln softmax(logits)[token].
func (s *softmax) negLogProb(logits []float32, token int32) float64 {
	lse, _ := s.logSum(logits)
	return lse - float64(logits[token])
}
