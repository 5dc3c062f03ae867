package sample

import "math"

// Mirostat keeps the surprise of the text near Tau bits per token (Basu et al., 2021, "Mirostat", arXiv 2007.14966). Top-k,
// top-p, min-p, typical and XTC are without effect then.
type Mirostat struct {
	Version int     // 1 estimates the exponent of Zipf's law and keeps as many tokens as follow from it; 2 cuts by surprise; 0: off
	Tau     float32 // the target, in bits
	Eta     float32 // how much of the last error is corrected
}

// zipfTokens is how many of the best tokens the exponent is estimated from.
const zipfTokens = 100

// mirostat draws a token and learns from its surprise.
func (s *Sampler) mirostat(logits []float32, best float32) int32 {
	if s.opt.Mirostat.Version == 1 {
		s.zipf(logits)
	} else {
		s.unsurprising(logits, best)
	}
	i, p := s.draw()
	s.mu -= float64(s.opt.Mirostat.Eta) * (-math.Log2(p) - float64(s.opt.Mirostat.Tau))
	return s.kept[i].id
}

// zipf keeps the k best tokens, k being what gives the surprise mu if probabilities fall as rank^−e (section 4 of the paper).
func (s *Sampler) zipf(logits []float32) {
	n := len(logits)
	s.top(logits, min(n, zipfTokens))
	var tb, tt float64
	for i := range len(s.kept) - 1 {
		t := math.Log(float64(i+2) / float64(i+1))
		b := float64(s.kept[i].logit-s.kept[i+1].logit) / float64(s.opt.Temperature)
		if math.IsInf(b, 0) {
			break // excluded tokens follow
		}
		tb += t * b
		tt += t * t
	}
	exponent, k := tb/tt, 1.0
	if e := exponent - 1; exponent > 0 {
		k = math.Pow(e*math.Exp2(s.mu)/(1-math.Pow(float64(n), -e)), 1/exponent)
	}
	keep := 1
	if k > 1 { // false for NaN
		keep = int(min(k, float64(n)))
	}
	if keep <= len(s.kept) {
		s.kept = s.kept[:keep]
		return
	}
	s.top(logits, keep)
}

// unsurprising keeps the tokens of at most mu bits of surprise, and at least the best.
func (s *Sampler) unsurprising(logits []float32, best float32) {
	sum, t := 0.0, float64(s.opt.Temperature)
	for _, l := range logits {
		sum += math.Exp(float64(l-best) / t)
	}
	// −log2 p ≤ mu, p = exp((l−best)/t) / sum
	floor := min(float64(best), float64(best)+t*(math.Log(sum)-s.mu*math.Ln2))
	s.kept = s.kept[:0]
	for id, l := range logits {
		if float64(l) >= floor {
			s.kept = append(s.kept, candidate{logit: l, id: int32(id)})
		}
	}
}
