package engine

import (
	"errors"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// StopReason says why a generation ended.
type StopReason string

const (
	StopEnd       StopReason = "eos"       // the model ended its text
	StopString    StopReason = "stop"      // a stop string appeared
	StopLength    StopReason = "length"    // Request.MaxTokens were generated
	StopContext   StopReason = "context"   // prompt and answer fill the context
	StopCancelled StopReason = "cancelled" // the caller's context was cancelled
	StopDeadline  StopReason = "deadline"  // the deadline of the caller's context passed
)

// ErrPromptTooLong is wrapped by Generate's error for a prompt that leaves no room for an answer.
var ErrPromptTooLong = errors.New("the prompt does not fit the context")

// Speculation names what proposes tokens ahead, which are then verified together.
type Speculation string

const (
	SpeculateOff   Speculation = ""
	SpeculateNgram Speculation = "ngram" // what followed the last occurrence of the present n-gram in prompt and answer
	SpeculateDraft Speculation = "draft" // the model of UseDraft
)

// Mask restricts the tokens that may follow, for example to those of a grammar. It belongs to one Request.
type Mask interface {
	// Mask sets the logits of tokens that may not follow to −Inf.
	Mask(logits []float32)
	// Accept tells that token was chosen.
	Accept(token int32)
}

// Request is one generation.
type Request struct {
	Prompt    []int32         // all tokens from position 0 on; what the cache holds of them is not computed again
	MaxTokens int             // negative: until the model ends or the context is full
	Sampler   *sample.Sampler // nil: the most probable token, always
	Mask      Mask            // may be nil
	Stop      []string        // end before any of these appears in the text, or is generated as a control token of that name
	Shown     []string        // names of control tokens that count as text, such as the marks of tool calls (chat.Markers)
	IgnoreEnd bool            // go on after an end-of-generation token
	Logprobs  bool            // record the log-probability of each token
	TopLogits int             // record this many best candidates of each step
	NoReuse   bool            // compute the whole prompt
	Speculate Speculation
	// Shift says what happens when prompt and answer fill the context: false ends with StopContext, true goes on without the
	// older half of the tokens after the first Keep. What remains is computed again, at its new positions.
	Shift bool
	Keep  int

	// OnText receives the text as it appears, OnStep each token. Both may be nil; they run on the caller's goroutine, and
	// other sequences do not wait for them.
	OnText func(text string)
	OnStep func(Step)
}

// Result is what a generation produced.
type Result struct {
	Text         string
	Tokens       []int32 // generated ones, without the end-of-generation token
	StopReason   StopReason
	PromptTokens int
	CachedTokens int           // those of the prompt that the cache already held
	QueueTime    time.Duration // until other sequences left room for this one
	PrefillTime  time.Duration // from then to the first logits
	DecodeTime   time.Duration // from then to the end
	Steps        []Step        // one per element of Tokens, if Request.TopLogits, Logprobs or OnStep is set
	Shifts       int           // how often the context was shifted
	Preemptions  int           // how often the sequence made room for others and was computed again
	Speculation  SpeculationStats
}

// SpeculationStats count what speculation did for a sequence.
type SpeculationStats struct {
	Proposed int `json:"proposed"` // tokens
	Accepted int `json:"accepted"` // of these
	Passes   int `json:"passes"`   // decoding passes over the weights, with or without proposals
}

// Step records a generated token and the candidates among which it was chosen, best first.
type Step struct {
	Token      int32       `json:"token"`
	Logprob    float32     `json:"logprob"` // natural logarithm of the model's probability at temperature 1; 0 unless asked for
	Candidates []Candidate `json:"candidates"`
}

// Candidate is a token and the model's score for it.
type Candidate struct {
	Token   int32   `json:"token"`
	Text    string  `json:"text"`
	Logit   float32 `json:"logit"`
	Logprob float32 `json:"logprob"`
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
