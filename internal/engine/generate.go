package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// StopReason says why a generation ended.
type StopReason string

const (
	StopEnd       StopReason = "eos"       // the model ended its text
	StopString    StopReason = "stop"      // a stop string appeared
	StopLength    StopReason = "length"    // Request.MaxTokens were generated
	StopContext   StopReason = "context"   // prompt and answer fill the context
	StopCancelled StopReason = "cancelled" // the caller's context ended
)

// ErrPromptTooLong is wrapped by Generate's error for a prompt that leaves no room for an answer.
var ErrPromptTooLong = errors.New("the prompt does not fit the context")

// Request is one generation.
type Request struct {
	Prompt    []int32 // all tokens from position 0 on; what the cache already holds of them is not computed again
	MaxTokens int     // negative: until the model ends or the context is full
	Sampler   *sample.Sampler
	Stop      []string          // end before any of these appears in the text
	IgnoreEnd bool              // go on after an end-of-generation token
	TopLogits int               // record this many best candidates of each step
	OnText    func(text string) // receives the text as it appears; may be nil
}

// Result is what a generation produced.
type Result struct {
	Text         string
	Tokens       []int32 // generated ones, without the end-of-generation token
	StopReason   StopReason
	PromptTokens int
	CachedTokens int // those of the prompt that the cache already held
	PrefillTime  time.Duration
	DecodeTime   time.Duration // of Forward calls and sampling after the first token
	Steps        []Step        // one per element of Tokens, if Request.TopLogits is set
}

// Step records the candidates among which a token was chosen, best first.
type Step struct {
	Candidates []Candidate `json:"candidates"`
}

// Candidate is a token and the model's score for it.
type Candidate struct {
	Token int32   `json:"token"`
	Text  string  `json:"text"`
	Logit float32 `json:"logit"`
}

// PrefillTPS returns computed prompt tokens per second.
func (r *Result) PrefillTPS() float64 { return rate(r.PromptTokens-r.CachedTokens, r.PrefillTime) }

// DecodeTPS returns generated tokens per second; the first one belongs to the prefill.
func (r *Result) DecodeTPS() float64 { return rate(len(r.Tokens)-1, r.DecodeTime) }

func rate(n int, d time.Duration) float64 {
	if n <= 0 || d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// Generate continues req.Prompt. When ctx ends it returns what there is, with StopCancelled and no error.
func (s *Session) Generate(ctx context.Context, req Request) (*Result, error) {
	if len(req.Prompt) == 0 {
		return nil, errors.New("the prompt is empty")
	}
	if len(req.Prompt) >= s.nCtx {
		return nil, fmt.Errorf("%w: %d tokens, context of %d (use a larger --ctx or a shorter prompt)", ErrPromptTooLong, len(req.Prompt), s.nCtx)
	}
	g := generation{s: s, req: req, stream: s.tok.NewStream(), text: stopFilter{stops: req.Stop, emit: req.OnText}}
	g.res.PromptTokens = len(req.Prompt)
	err := g.run(ctx)
	if err != nil && ctx.Err() != nil {
		g.res.StopReason, err = StopCancelled, nil
	}
	if err != nil {
		return nil, err
	}
	if g.res.StopReason != StopString {
		g.text.add(g.stream.Flush())
		g.text.flush()
	}
	g.res.Text = g.text.text.String()
	return &g.res, nil
}

// generation is the state of one Generate call.
type generation struct {
	s      *Session
	req    Request
	stream *tokenizer.Stream
	text   stopFilter
	res    Result
}

func (g *generation) run(ctx context.Context) error {
	start := time.Now()
	logits, err := g.prefill(ctx)
	g.res.PrefillTime = time.Since(start)
	if err != nil {
		return err
	}
	start = time.Now()
	defer func() { g.res.DecodeTime = time.Since(start) }()
	for g.req.MaxTokens < 0 || len(g.res.Tokens) < g.req.MaxTokens {
		token, done, err := g.step(logits)
		if done || err != nil {
			return err
		}
		if len(g.res.Tokens) == g.req.MaxTokens {
			break // its successor is not wanted: spare the product
		}
		if len(g.s.cached) == g.s.nCtx {
			g.res.StopReason = StopContext
			return nil
		}
		if logits, err = g.s.forward(ctx, []int32{token}, 1); err != nil {
			return err
		}
	}
	g.res.StopReason = StopLength
	return nil
}

// prefill brings the cache up to the prompt and returns the logits after its last token.
func (g *generation) prefill(ctx context.Context) ([]float32, error) {
	prompt, s := g.req.Prompt, g.s
	keep := s.reuse(prompt, len(prompt)-1)
	g.res.CachedTokens = keep
	rest := prompt[keep:]
	whole := (len(rest) - 1) / s.maxBatch * s.maxBatch
	if err := s.prefill(ctx, rest[:whole]); err != nil {
		return nil, err
	}
	for _, t := range prompt {
		g.req.Sampler.Accept(t)
	}
	return s.forward(ctx, rest[whole:], 1)
}

// step chooses the next token and appends it to the result; done means that the generation ends with it.
func (g *generation) step(logits []float32) (token int32, done bool, err error) {
	var candidates []Candidate
	if g.req.TopLogits > 0 {
		candidates = g.s.topLogits(logits, g.req.TopLogits)
	}
	if token, err = g.req.Sampler.Next(logits); err != nil {
		return token, true, err
	}
	if g.s.tok.IsEOG(token) && !g.req.IgnoreEnd {
		g.res.StopReason = StopEnd
		return token, true, nil
	}
	g.req.Sampler.Accept(token)
	g.res.Tokens = append(g.res.Tokens, token)
	if candidates != nil {
		g.res.Steps = append(g.res.Steps, Step{Candidates: candidates})
	}
	if g.text.add(g.stream.Push(token)) {
		g.res.StopReason = StopString
		return token, true, nil
	}
	return token, false, nil
}

// topLogits returns the k best candidates; equal scores are ordered by token.
func (s *Session) topLogits(logits []float32, k int) []Candidate {
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
		top[i].Text = s.tok.Piece(top[i].Token)
	}
	return top
}
