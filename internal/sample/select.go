package sample

import (
	"cmp"
	"math"
	"slices"
)

// candidates fills s.kept with the tokens that top-k, typical, top-p and min-p keep. best is the largest logit.
func (s *Sampler) candidates(logits []float32, best float32) {
	k := s.opt.TopK
	all := k <= 0 || k >= len(logits)
	topP := s.opt.TopP > 0 && s.opt.TopP < 1
	floor := float32(math.Inf(-1))
	if p := s.opt.MinP; p > 0 {
		floor = best + float32(math.Log(float64(min(p, 1))))
	}
	switch {
	case s.opt.Typical > 0 && s.opt.Typical < 1:
		if all {
			k = len(logits)
		}
		s.top(logits, k)
		s.typical()
		if topP {
			s.nucleus(s.mass(best), best)
		}
		floor += s.kept[0].logit - best
	case !all:
		s.top(logits, k)
		if topP {
			s.nucleus(s.mass(best), best)
		}
	case topP:
		// Only as many tokens are sorted as turn out to be needed, though all share the probability.
		total := 0.0
		for _, l := range logits {
			total += math.Exp(float64(l - best))
		}
		for n := 256; ; n *= 8 {
			s.top(logits, min(n, len(logits)))
			if s.nucleus(total, best) || n >= len(logits) {
				break
			}
		}
	default:
		s.kept = s.kept[:0]
		for id, l := range logits {
			if l >= floor {
				s.kept = append(s.kept, candidate{logit: l, id: int32(id)})
			}
		}
		return
	}
	for i, c := range s.kept {
		if c.logit < floor {
			s.kept = s.kept[:i]
			break
		}
	}
}

// mass returns the unnormalized probability of s.kept.
func (s *Sampler) mass(best float32) (sum float64) {
	for _, c := range s.kept {
		sum += math.Exp(float64(c.logit - best))
	}
	return sum
}

// nucleus keeps the first tokens of s.kept that together have the share TopP of total; false if all of them
// have less.
func (s *Sampler) nucleus(total float64, best float32) bool {
	sum := 0.0
	for i, c := range s.kept {
		sum += math.Exp(float64(c.logit - best))
		if sum >= float64(s.opt.TopP)*total {
			s.kept = s.kept[:i+1]
			return true
		}
	}
	return false
}

// top fills s.kept with the k tokens of largest logits, sorted. A heap holds the best so far, the worst of
// them on top; ids come in ascending order, so an equal logit never replaces one that is there.
func (s *Sampler) top(logits []float32, k int) {
	h := s.kept[:0]
	for id, l := range logits[:k] {
		h = append(h, candidate{logit: l, id: int32(id)})
	}
	for i := k/2 - 1; i >= 0; i-- {
		siftDown(h, i)
	}
	worst := h[0].logit
	for i, l := range logits[k:] {
		if l > worst {
			h[0] = candidate{logit: l, id: int32(k + i)}
			siftDown(h, 0)
			worst = h[0].logit
		}
	}
	slices.SortFunc(h, byLogit)
	s.kept = h
}

// typical keeps those of s.kept whose surprise −log p is nearest to its mean, the entropy, and that together have the probability
// Typical (Meister et al., 2023, "Locally Typical Sampling", arXiv 2202.00666). s.kept is sorted by logit, and stays so.
func (s *Sampler) typical() {
	best, sum := s.kept[0].logit, 0.0
	for _, c := range s.kept {
		sum += math.Exp(float64(c.logit - best))
	}
	entropy := 0.0
	for i := range s.kept {
		c := &s.kept[i]
		c.p = math.Exp(float64(c.logit-best)) / sum
		if c.p > 0 {
			entropy -= c.p * math.Log(c.p)
		}
	}
	distance := func(c candidate) float64 {
		if c.p == 0 {
			return math.Inf(1)
		}
		return math.Abs(-math.Log(c.p) - entropy)
	}
	slices.SortStableFunc(s.kept, func(a, b candidate) int { return cmp.Compare(distance(a), distance(b)) })
	mass := 0.0
	for i, c := range s.kept {
		if mass += c.p; mass >= float64(s.opt.Typical) {
			s.kept = s.kept[:i+1]
			break
		}
	}
	slices.SortFunc(s.kept, byLogit)
}

// excludeTop leaves out of s.kept the tokens at least as probable as XTCThreshold but for the least probable of them, if u, drawn
// from [0, 1), is below XTCProbability (p-e-w, 2024, "XTC", text-generation-webui pull request 6335).
func (s *Sampler) excludeTop(u float64) {
	if u >= float64(s.opt.XTCProbability) || s.opt.XTCThreshold > 0.5 {
		return
	}
	slices.SortFunc(s.kept, byLogit)
	best, above := s.kept[0].logit, 0
	least := float64(s.opt.XTCThreshold) * s.mass(best)
	for above < len(s.kept) && math.Exp(float64(s.kept[above].logit-best)) >= least {
		above++
	}
	if above > 1 {
		s.kept = slices.Delete(s.kept, 0, above-1)
	}
}

func byLogit(a, b candidate) int {
	if a.logit != b.logit {
		return cmp.Compare(b.logit, a.logit)
	}
	return cmp.Compare(a.id, b.id)
}

func worse(a, b candidate) bool {
	return a.logit < b.logit || a.logit == b.logit && a.id > b.id
}

func siftDown(h []candidate, i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && worse(h[c+1], h[c]) {
			c++
		}
		if !worse(h[c], h[i]) {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}
