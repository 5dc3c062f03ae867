package serve

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/grammar"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

const (
	maxStops    = 32
	maxStop     = 1024 // bytes of one
	maxChoices  = 8
	maxLogprobs = 20
)

// stops is OpenAI's field stop: a string, or several.
type stops []string

// UnmarshalJSON implements json.Unmarshaler.
func (s *stops) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		if one != "" {
			*s = stops{one}
		}
		return nil
	}
	var list []string
	err := json.Unmarshal(b, &list)
	*s = list
	return err
}

// check holds the strings of a field to the limits.
func (s stops) check(field string) error {
	if len(s) > maxStops {
		return badRequest(field, "%s: %d strings; at most %d are accepted", field, len(s), maxStops)
	}
	for _, t := range s {
		if t == "" || len(t) > maxStop {
			return badRequest(field, "%s: strings of 1 to %d bytes are expected", field, maxStop)
		}
	}
	return nil
}

// job is one generation for a request.
type job struct {
	lease     *lease
	prompt    []int32
	options   sample.Options
	mask      *grammar.Mask // nil: none
	maxTokens int           // negative: no limit
	stop      []string
	shown     []string // control tokens that an answer's parser must see
	ignoreEnd bool
	logprobs  bool
	top       int // candidates of each step
	onText    func(string)
	onStep    func(engine.Step)
}

// newJob returns a job for the sampling fields of a request. source and parse give its grammar; a nil parse means none.
func newJob(l *lease, f *sampling, stop stops, maxTokens int, source string, parse func() (*grammar.Grammar, error)) (*job,
	error) {
	opt, err := f.options()
	if err != nil {
		return nil, err
	}
	if err := stop.check("stop"); err != nil {
		return nil, err
	}
	if maxTokens == 0 || maxTokens > 1<<24 {
		return nil, badRequest("max_tokens", "max_tokens: %d, expected 1 to %d", maxTokens, 1<<24)
	}
	if opt.Bias, err = f.LogitBias.of(l.model.Engine.Tokenizer()); err != nil {
		return nil, &requestError{"logit_bias", err}
	}
	if opt.PenaltyWindow < 0 {
		opt.PenaltyWindow = l.model.Engine.NCtx()
	}
	opt.DRY.Piece = l.model.Engine.Tokenizer().Piece
	j := &job{lease: l, options: opt, maxTokens: maxTokens, stop: stop, ignoreEnd: f.IgnoreEOS}
	if parse == nil {
		source, parse = f.grammar()
	}
	if parse != nil {
		c, err := l.constraint(source, parse)
		if err != nil {
			return nil, &requestError{"response_format", err}
		}
		j.mask = grammar.NewMask(c)
	}
	return j, nil
}

// run computes the job. What ends the request ends the generation.
func (s *Server) run(ctx context.Context, j *job) (*engine.Result, error) {
	req := engine.Request{
		Prompt: j.prompt, MaxTokens: j.maxTokens, Sampler: sample.New(j.options), Stop: j.stop, Shown: j.shown, IgnoreEnd: j.ignoreEnd,
		Logprobs: j.logprobs, TopLogits: j.top, OnStep: j.onStep,
	}
	if j.mask != nil {
		req.Mask = j.mask
	}
	start, first := time.Now(), sync.Once{}
	req.OnText = func(text string) {
		first.Do(func() { s.metrics.firstToken(j.lease.name, time.Since(start)) })
		if j.onText != nil {
			j.onText(text)
		}
	}
	res, err := j.lease.model.Engine.Generate(ctx, req)
	if err != nil {
		return nil, err
	}
	s.metrics.generated(j.lease.name, res)
	switch res.StopReason {
	case engine.StopCancelled:
		return res, context.Canceled
	case engine.StopDeadline:
		return res, context.DeadlineExceeded
	}
	return res, nil
}

// lease acquires the model that a request names, under the request's time limit. The caller calls done when it has answered.
func (s *Server) lease(r *http.Request, name string) (l *lease, ctx context.Context, done func(), err error) {
	ctx, cancel := context.WithTimeout(r.Context(), s.opt.Timeout)
	l, err = s.models.acquire(ctx, name)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return l, ctx, func() { l.release(); cancel() }, nil
}

// limit returns the first of OpenAI's two names for the most tokens of an answer that is given.
func (s *Server) limit(values ...*int) int {
	for _, v := range values {
		if v != nil {
			return *v
		}
	}
	if s.opt.MaxToken > 0 {
		return s.opt.MaxToken
	}
	return -1
}
