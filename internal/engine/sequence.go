package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/fault"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// sequence is a text that the engine is computing. Its fields belong to the goroutine that runs steps, except for feed.
type sequence struct {
	ctx    context.Context
	req    *Request
	tokens []int32 // prompt and answer; the last one has no entry in the cache yet
	cached int     // tokens whose keys and values are in the cache
	table  table
	states sequenceStates
	slot   int

	stream *tokenizer.Stream
	text   stopFilter
	// stopTokens are those that stop strings name: control tokens have no text in which a stop string could appear.
	stopTokens []int32
	shown      int // bytes of text given to feed
	res        Result
	err        error
	feed       feed

	visit func(pos int, logits []float32) error // of Evaluate; nil = generate
	first int                                   // position from which on visit wants logits

	// Of the step in progress.
	prefill  int // tokens without logits
	rows     int // tokens with logits
	row      int // number of the first of them in the batch
	proposal []int32
	logits   []float32
	finished bool
	counted  int // tokens that Stats know of

	submitted, started, decoding time.Time
	guess                        guesser
}

// feed carries what a sequence produces to the goroutine that waits for it.
type feed struct {
	wake chan struct{} // of capacity 1
	mu   sync.Mutex
	text []byte
	step []Step
	done bool
}

func (f *feed) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// wait hands out what arrives until the sequence is done. Two buffers take turns, so that nothing is allocated once they are
// large enough.
func (s *sequence) wait() {
	f := &s.feed
	var text []byte
	var steps []Step
	for done := false; !done; {
		<-f.wake
		f.mu.Lock()
		text, f.text = f.text, text[:0]
		steps, f.step = f.step, steps[:0]
		done = f.done
		f.mu.Unlock()
		if s.req.OnStep != nil {
			for _, st := range steps {
				s.req.OnStep(st)
			}
		}
		if s.req.OnText != nil && len(text) > 0 {
			s.req.OnText(string(text))
		}
	}
}

// publish gives the text that is new, and the steps from first on, to feed.
func (s *sequence) publish(first int, done bool) {
	f := &s.feed
	f.mu.Lock()
	if s.req.OnText != nil {
		f.text = append(f.text, s.text.text[s.shown:s.text.released]...)
	}
	s.shown = s.text.released
	if s.req.OnStep != nil {
		f.step = append(f.step, s.res.Steps[first:]...)
	}
	f.done = done
	f.mu.Unlock()
	if done || s.req.OnText != nil || s.req.OnStep != nil {
		f.notify()
	}
}

// needed is how many positions the sequence must have without logits before it goes on with logits.
func (s *sequence) needed() int {
	if s.visit != nil {
		return s.first
	}
	return len(s.tokens) - 1
}

// take chooses the next tokens from the logits of the step. It runs beside that of other sequences.
func (s *sequence) take(e *Engine) {
	first, vocab := len(s.res.Steps), e.NVocab()
	pos := s.cached
	if s.visit != nil {
		s.cached += s.rows
		s.err = fault.Guard(func() error { return s.visit(pos, s.logits) })
		s.finished = s.err != nil || s.cached == len(s.tokens)
		return
	}
	right := 0
	for i := 0; ; i++ {
		s.cached++
		s.next(e, s.logits[i*vocab:(i+1)*vocab])
		if s.finished || i == len(s.proposal) || s.proposal[i] != s.tokens[len(s.tokens)-1] {
			break
		}
		s.res.Speculation.Accepted++
		right++
	}
	s.res.Speculation.Proposed += len(s.proposal)
	s.res.Speculation.Passes++
	if s.req.Speculate != SpeculateOff && len(s.res.Tokens) > 1 {
		s.guess.learn(&e.costs, len(s.proposal), right, len(e.wanted))
	}
	s.publish(first, false)
}

// next chooses a token and appends it to the text.
func (s *sequence) next(e *Engine, logits []float32) {
	s.finished = true
	if len(s.res.Tokens) == s.req.MaxTokens {
		s.res.StopReason = StopLength
		return
	}
	step := Step{}
	if s.req.TopLogits > 0 {
		step.Candidates = e.topLogits(logits, s.req.TopLogits)
	}
	sum, scored := 0.0, s.req.TopLogits > 0 || s.req.Logprobs
	if scored {
		sum = logSum(logits)
	}
	if s.req.Mask != nil {
		s.req.Mask.Mask(logits)
	}
	token, err := s.choose(logits)
	if err != nil {
		s.err = err
		return
	}
	if e.tok.IsEOG(token) && !s.req.IgnoreEnd {
		s.res.StopReason = StopEnd
		return
	}
	if slices.Contains(s.stopTokens, token) {
		s.res.StopReason = StopString
		return
	}
	s.req.Sampler.Accept(token)
	if s.req.Mask != nil {
		s.req.Mask.Accept(token)
	}
	s.tokens = append(s.tokens, token)
	s.res.Tokens = append(s.res.Tokens, token)
	if scored {
		step.Logprob = logprob(logits[token], sum)
		for i := range step.Candidates {
			step.Candidates[i].Logprob = logprob(step.Candidates[i].Logit, sum)
		}
	}
	if scored || s.req.OnStep != nil {
		step.Token = token
		s.res.Steps = append(s.res.Steps, step)
	}
	s.text.text = s.stream.Append(s.text.text, token)
	switch {
	case s.text.check():
		s.res.StopReason = StopString
	case len(s.res.Tokens) == s.req.MaxTokens:
		s.res.StopReason = StopLength
	case s.cached == e.nCtx && !s.req.Shift:
		s.res.StopReason = StopContext
	default:
		s.finished = false
	}
}

// choose takes a token from the logits of the newest position.
func (s *sequence) choose(logits []float32) (int32, error) {
	token, err := s.req.Sampler.Next(logits)
	switch {
	case err == nil && math.IsInf(float64(logits[token]), -1):
		err = sample.ErrExcluded
	case err == nil && math.IsInf(float64(logits[token]), 1): // biases are taken back here
		err = sample.ErrInfinite
	}
	if errors.Is(err, sample.ErrNaN) || errors.Is(err, sample.ErrInfinite) {
		err = fmt.Errorf("position %d: %w (\"ellm-gpu verify\" tells whether the file is damaged; else the model is unusable)",
			s.cached-1, err)
	}
	return token, err
}

// logSum returns log Σ exp(logits).
func logSum(logits []float32) float64 {
	top := float64(math.Inf(-1))
	for _, l := range logits {
		top = max(top, float64(l))
	}
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) - top)
	}
	return top + math.Log(sum)
}

func logprob(logit float32, sum float64) float32 { return float32(float64(logit) - sum) }

// topLogits returns the k best candidates; equal scores are ordered by token.
func (e *Engine) topLogits(logits []float32, k int) []Candidate {
	top := make([]Candidate, 0, k+1)
	for i, v := range logits {
		if len(top) == k && v <= top[k-1].Logit {
			continue
		}
		at := len(top)
		for at > 0 && v > top[at-1].Logit {
			at--
		}
		top = append(top, Candidate{})
		copy(top[at+1:], top[at:])
		top[at] = Candidate{Token: int32(i), Logit: v}
		top = top[:min(len(top), k)]
	}
	for i := range top {
		top[i].Text = e.tok.Piece(top[i].Token)
	}
	return top
}
