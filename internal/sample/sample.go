// Package sample chooses the next token from a model's logits.
package sample

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
)

// ErrExcluded is returned when every token is excluded by a logit of −Inf.
var ErrExcluded = errors.New("no token may follow: all of them are excluded")

// ErrNaN is returned when logits contain NaN: the model computed nonsense, and no token follows from that.
var ErrNaN = errors.New("logits contain NaN")

// ErrInfinite is the same for a logit of +∞ that the model computed.
var ErrInfinite = errors.New("a logit is infinite")

// Options select the steps of a Sampler. The zero value is greedy decoding.
type Options struct {
	Temperature float32 // 0 or less: the most probable token, always
	TopK        int     // keep the K most probable tokens; 0: all
	TopP        float32 // keep the most probable tokens that together have probability P (Holtzman et al., 2019); 0 or ≥ 1: all
	MinP        float32 // keep tokens at least MinP times as probable as the best one; 0: all
	Typical     float32 // keep the tokens nearest to the expected surprise that together have probability Typical; 0 or ≥ 1: all

	// With probability XTCProbability, tokens at least as probable as XTCThreshold are left out, but for the least probable of
	// them ("exclude top choices"). A threshold above ½ leaves out none.
	XTCProbability, XTCThreshold float32

	Mirostat Mirostat // instead of the above, if its version is not 0

	// of tokens in the window: positive logits are divided by it, others multiplied (Keskar et al., 2019); 0 or 1: none
	RepeatPenalty    float32
	FrequencyPenalty float32 // subtracted from the logit for every occurrence in the window
	PresencePenalty  float32 // subtracted once
	PenaltyWindow    int     // number of last tokens accepted that are penalized; 0: none
	DRY              DRY

	Bias map[int32]float32 // added to the logits of these tokens before anything else; −Inf excludes one

	Seed uint64 // the same seed and logits give the same tokens
}

// DefaultOptions are the usual ones for conversation.
func DefaultOptions() Options {
	return Options{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05, PenaltyWindow: 64, XTCThreshold: 0.1, DRY: DefaultDRY(),
		Mirostat: Mirostat{Tau: 5, Eta: 0.1}}
}

// Sampler draws tokens in the order of llama.cpp's default chain: bias, penalties, DRY, top-k, typical, top-p, min-p, XTC,
// temperature, draw. At temperature 0 the best token follows bias, penalties and DRY at once. Tokens of equal logit rank by id,
// lowest first. Not safe for concurrent use.
type Sampler struct {
	opt    Options
	rng    *rand.Rand
	window []int32         // ring of the last tokens accepted
	at     int             // where the next one goes
	counts map[int32]int32 // occurrences in the window
	penal  []int32         // ids whose logits the current Next has changed
	saved  []float32       // their logits before
	kept   []candidate     // tokens to draw from
	dry    dry
	mu     float64 // the most surprise, in bits, that Mirostat allows
}

type candidate struct {
	logit float32
	id    int32
	p     float64 // unnormalized probability
}

// New returns a Sampler.
func New(opt Options) *Sampler {
	s := &Sampler{opt: opt, counts: map[int32]int32{}}
	s.rng = rand.New(rand.NewPCG(opt.Seed, 0x9E3779B97F4A7C15))
	if opt.PenaltyWindow > 0 && s.penalizes() {
		s.window = make([]int32, 0, opt.PenaltyWindow)
	}
	s.mu = 2 * float64(opt.Mirostat.Tau)
	return s
}

func (s *Sampler) penalizes() bool {
	o := &s.opt
	return o.RepeatPenalty > 0 && o.RepeatPenalty != 1 || o.FrequencyPenalty != 0 || o.PresencePenalty != 0
}

// Accept tells the sampler that id is part of the text, for the penalties: tokens of the prompt and those that
// Next returned (which does not do it by itself).
func (s *Sampler) Accept(id int32) {
	s.dry.accept(&s.opt.DRY, id)
	if cap(s.window) == 0 {
		return
	}
	if len(s.window) < cap(s.window) {
		s.window = append(s.window, id)
	} else {
		old := s.window[s.at]
		if s.counts[old]--; s.counts[old] == 0 {
			delete(s.counts, old)
		}
		s.window[s.at] = id
		s.at = (s.at + 1) % len(s.window)
	}
	s.counts[id]++
}

// Next returns the next token for logits, one per token of the vocabulary. logits are the same afterwards.
func (s *Sampler) Next(logits []float32) (int32, error) {
	if len(logits) == 0 {
		return -1, fmt.Errorf("sample: no logits")
	}
	s.penalize(logits)
	id, err := s.choose(logits)
	for i := len(s.penal) - 1; i >= 0; i-- {
		logits[s.penal[i]] = s.saved[i]
	}
	return id, err
}

// change sets a logit and remembers what it was.
func (s *Sampler) change(logits []float32, id int32, to float32) {
	s.saved, s.penal = append(s.saved, logits[id]), append(s.penal, id)
	logits[id] = to
}

// penalize applies biases and penalties, and remembers what the logits were.
func (s *Sampler) penalize(logits []float32) {
	s.saved, s.penal = s.saved[:0], s.penal[:0]
	for id, b := range s.opt.Bias {
		if id < 0 || int(id) >= len(logits) {
			continue
		}
		to := logits[id] + b
		if math.IsInf(float64(b), -1) {
			to = b // the sum would be NaN for a logit of +∞
		}
		s.change(logits, id, to)
	}
	for id, n := range s.counts {
		if id < 0 || int(id) >= len(logits) {
			continue
		}
		l := logits[id]
		if r := s.opt.RepeatPenalty; r > 0 && r != 1 {
			if l > 0 {
				l /= r
			} else {
				l *= r
			}
		}
		s.change(logits, id, l-float32(n)*s.opt.FrequencyPenalty-s.opt.PresencePenalty)
	}
	for id, n := range s.dry.repeats(&s.opt.DRY) {
		if id >= 0 && int(id) < len(logits) {
			s.change(logits, id, logits[id]-s.opt.DRY.penalty(n))
		}
	}
}

func (s *Sampler) choose(logits []float32) (int32, error) {
	at, err := Argmax(logits)
	if err != nil {
		return at, err
	}
	best := logits[at]
	switch {
	case math.IsInf(float64(best), -1):
		return -1, fmt.Errorf("sample: %w", ErrExcluded)
	case s.opt.Temperature <= 0 || math.IsInf(float64(best), 1):
		return at, nil
	case s.opt.Mirostat.Version != 0:
		return s.mirostat(logits, best), nil
	}
	s.candidates(logits, best)
	if s.opt.XTCProbability > 0 {
		s.excludeTop(s.rng.Float64())
	}
	i, _ := s.draw()
	return s.kept[i].id, nil
}

// draw returns the index in s.kept of a token drawn at the temperature, and its probability among them.
func (s *Sampler) draw() (at int, p float64) {
	for i, c := range s.kept {
		if c.logit > s.kept[at].logit {
			at = i
		}
	}
	sum, best := 0.0, s.kept[at].logit
	for i := range s.kept {
		c := &s.kept[i]
		c.p = math.Exp(float64(c.logit-best) / float64(s.opt.Temperature))
		sum += c.p
	}
	u := s.rng.Float64() * sum
	for i := range s.kept {
		if u -= s.kept[i].p; u < 0 {
			at = i
			break
		}
	} // else rounding left a rest: the best
	return at, s.kept[at].p / sum
}

// Argmax returns the index of the largest logit, the lowest one of equals.
func Argmax(logits []float32) (int32, error) {
	if len(logits) == 0 {
		return -1, fmt.Errorf("sample: no logits")
	}
	best, at := logits[0], 0
	for i, l := range logits {
		if !(l <= best) { // larger, or NaN in either
			if l != l || best != best {
				return -1, fmt.Errorf("sample: %w (token %d)", ErrNaN, i)
			}
			best, at = l, i
		}
	}
	return int32(at), nil
}

// Nucleus returns the TopP that users mean by p: 0 keeps the most probable token alone, 1 all.
func Nucleus(p float64) float32 {
	if p <= 0 {
		return math.SmallestNonzeroFloat32
	}
	return float32(p)
}
