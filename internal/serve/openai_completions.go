package serve

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// completionRequest is the body of /v1/completions.
type completionRequest struct {
	Model         string        `json:"model"`
	Prompt        prompts       `json:"prompt"`
	Suffix        string        `json:"suffix"`
	Stream        bool          `json:"stream"`
	StreamOptions streamOptions `json:"stream_options"`
	MaxTokens     *int          `json:"max_tokens"`
	N             *int          `json:"n"`
	BestOf        *int          `json:"best_of"`
	Stop          stops         `json:"stop"`
	Logprobs      *int          `json:"logprobs"`
	Echo          bool          `json:"echo"`
	sampling
}

// prompts is OpenAI's field prompt: a text, several, tokens, or several lists of tokens.
type prompts []prompt

type prompt struct {
	text   string
	tokens []int32
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *prompts) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*p = prompts{{text: text}}
		return nil
	}
	var tokens []int32
	if json.Unmarshal(b, &tokens) == nil && len(tokens) > 0 {
		*p = prompts{{tokens: tokens}}
		return nil
	}
	var texts []string
	if json.Unmarshal(b, &texts) == nil {
		for _, t := range texts {
			*p = append(*p, prompt{text: t})
		}
		return nil
	}
	var lists [][]int32
	if err := json.Unmarshal(b, &lists); err != nil {
		return errors.New("expected a text, tokens, or a list of these")
	}
	for _, l := range lists {
		*p = append(*p, prompt{tokens: l})
	}
	return nil
}

// maxPrompts is how many prompts one request may have.
const maxPrompts = 64

func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	var req completionRequest
	if err := readJSON(r, &req); err != nil {
		s.failWith(w, r, err)
		return
	}
	if err := req.check(); err != nil {
		s.failWith(w, r, err)
		return
	}
	l, ctx, done, err := s.lease(r, req.Model)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all, err := s.newCompletions(l, &req)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	c := &completionStream{id: newID("cmpl"), model: l.name, created: time.Now().Unix()}
	if req.Stream {
		c.ev = newEvents(w, false, cancel)
	}
	s.runCompletions(ctx, all, c)
	s.finishCompletions(w, r, &req, all, c)
}

func (q *completionRequest) check() error {
	n := 1
	if q.N != nil {
		n = *q.N
	}
	switch {
	case len(q.Prompt) == 0 || len(q.Prompt) > maxPrompts:
		return badRequest("prompt", "prompt: %d prompts, expected 1 to %d", len(q.Prompt), maxPrompts)
	case n < 1 || n > maxChoices:
		return badRequest("n", "n: %d, expected 1 to %d", n, maxChoices)
	case q.BestOf != nil && *q.BestOf != n:
		return badRequest("best_of", "best_of other than n is not supported")
	case q.Suffix != "":
		return badRequest("suffix", "suffix is not supported")
	case q.Logprobs != nil && (*q.Logprobs < 0 || *q.Logprobs > maxLogprobs):
		return badRequest("logprobs", "logprobs: %d, expected 0 to %d", *q.Logprobs, maxLogprobs)
	case q.Echo && q.Stream:
		return badRequest("echo", "echo together with stream is not supported")
	}
	return nil
}

// completion is one answer to one prompt.
type completion struct {
	job    *job // nil: only the prompt is asked for (max_tokens 0 with echo)
	lease  *lease
	prompt []int32
	text   string
	echo   bool
	top    *int
	prior  []engine.Step // of the prompt's tokens, for echo with logprobs
	res    *engine.Result
	err    error
}

func (s *Server) newCompletions(l *lease, req *completionRequest) ([]*completion, error) {
	n := 1
	if req.N != nil {
		n = *req.N
	}
	var all []*completion
	for _, p := range req.Prompt {
		tokens, text := p.tokens, p.text
		if tokens == nil {
			tokens = l.model.Engine.RawTokens(text)
		} else {
			text = l.model.Engine.Tokenizer().Decode(tokens)
		}
		for i := range n {
			c := &completion{lease: l, prompt: tokens, text: text, echo: req.Echo, top: req.Logprobs}
			all = append(all, c)
			limit := s.limit(req.MaxTokens)
			if req.MaxTokens == nil && limit < 0 {
				limit = 16 // OpenAI's default
			}
			if limit == 0 && req.Echo {
				continue
			}
			j, err := newJob(l, &req.sampling, req.Stop, limit, "", nil)
			if err != nil {
				return nil, err
			}
			j.prompt, j.logprobs = tokens, req.Logprobs != nil
			if req.Logprobs != nil {
				j.top = *req.Logprobs
			}
			j.options.Seed += uint64(i)
			c.job = j
		}
	}
	return all, nil
}

// completionStream is what all answers of a request have in common.
type completionStream struct {
	id, model string
	created   int64
	mu        sync.Mutex
	ev        *events // nil: not streamed
}

func (c *completionStream) body(choices ...map[string]any) map[string]any {
	return map[string]any{"id": c.id, "object": "text_completion", "created": c.created, "model": c.model, "choices": choices}
}

func (c *completionStream) send(choice map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ev.send("", c.body(choice))
}

// runCompletions computes all answers side by side.
func (s *Server) runCompletions(ctx context.Context, all []*completion, c *completionStream) {
	var group sync.WaitGroup
	for i, a := range all {
		group.Go(func() {
			if a.echo && a.top != nil {
				if a.prior, a.err = promptSteps(ctx, a.lease.model.Engine, a.prompt, *a.top); a.err != nil {
					return
				}
			}
			if a.job == nil {
				a.res = &engine.Result{PromptTokens: len(a.prompt), StopReason: engine.StopLength}
				return
			}
			if c.ev != nil {
				s.streamCompletion(a, i, c)
			}
			a.res, a.err = s.run(ctx, a.job)
		})
	}
	group.Wait()
}

func (s *Server) streamCompletion(a *completion, index int, c *completionStream) {
	var steps []engine.Step
	if a.top != nil {
		a.job.onStep = func(st engine.Step) { steps = append(steps, st) }
	}
	a.job.onText = func(text string) {
		choice := map[string]any{"index": index, "text": text, "finish_reason": nil, "logprobs": nil}
		if len(steps) > 0 {
			choice["logprobs"] = textLogprobs(a.lease.model.Engine, steps, 0)
			steps = nil
		}
		c.send(choice)
	}
}

func (s *Server) finishCompletions(w http.ResponseWriter, r *http.Request, req *completionRequest, all []*completion,
	c *completionStream) {
	var choices []map[string]any
	var results []*engine.Result
	for i, a := range all {
		if a.err != nil {
			if c.ev == nil || !c.ev.started {
				s.failWith(w, r, a.err)
				return
			}
			c.ev.send("", errorBody(r.URL.Path, statusOf(a.err), a.err))
			c.ev.done()
			return
		}
		results = append(results, a.res)
		choices = append(choices, a.choice(i))
	}
	u := usageOf(results)
	u.PromptTokens = 0
	for i := 0; i < len(results); i += len(results) / len(req.Prompt) {
		u.PromptTokens += results[i].PromptTokens
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	if c.ev == nil {
		body := c.body(choices...)
		body["usage"] = u
		writeJSON(w, http.StatusOK, body)
		return
	}
	for i, a := range all {
		c.send(map[string]any{"index": i, "text": "", "finish_reason": finishReason(a.res.StopReason, false), "logprobs": nil})
	}
	if req.StreamOptions.IncludeUsage {
		body := c.body()
		body["choices"], body["usage"] = []any{}, u
		c.ev.send("", body)
	}
	c.ev.done()
}

// choice is the answer as an element of choices.
func (a *completion) choice(index int) map[string]any {
	text, steps := a.res.Text, a.res.Steps
	if a.echo {
		text = a.text + text
		steps = append(a.prior, steps...)
	}
	out := map[string]any{"index": index, "text": text, "finish_reason": finishReason(a.res.StopReason, false), "logprobs": nil}
	if a.top != nil {
		out["logprobs"] = textLogprobs(a.lease.model.Engine, steps, len(a.prior))
	}
	return out
}

// promptSteps returns the log-probability of every token of a prompt after those before it, with the top most probable ones
// there. The first token has no logits before it: its candidates are nil.
func promptSteps(ctx context.Context, e *engine.Engine, tokens []int32, top int) ([]engine.Step, error) {
	if len(tokens) == 0 {
		return nil, nil
	}
	steps := make([]engine.Step, 1, len(tokens))
	steps[0].Token = tokens[0]
	err := e.Evaluate(ctx, tokens, 0, func(first int, logits []float32) error {
		n := e.NVocab()
		for i := 0; i*n < len(logits); i++ {
			if at := first + i + 1; at < len(tokens) {
				steps = append(steps, e.Score(logits[i*n:(i+1)*n], tokens[at], top))
			}
		}
		return nil
	})
	return steps, err
}

// textLogprobs are OpenAI's logprobs of a text completion. The first token of an echoed prompt has none.
func textLogprobs(e *engine.Engine, steps []engine.Step, echoed int) map[string]any {
	tokens, probs, tops, offsets := []string{}, []any{}, []any{}, []int{}
	at := 0
	for i, st := range steps {
		piece := strings.ToValidUTF8(e.Tokenizer().Piece(st.Token), "\uFFFD")
		tokens, offsets = append(tokens, piece), append(offsets, at)
		at += len([]rune(piece))
		if i == 0 && echoed > 0 {
			probs, tops = append(probs, nil), append(tops, nil)
			continue
		}
		probs = append(probs, max(st.Logprob, -9999))
		top := map[string]float32{}
		for _, c := range st.Candidates {
			name := strings.ToValidUTF8(e.Tokenizer().Piece(c.Token), "\uFFFD")
			if _, twice := top[name]; !twice {
				top[name] = max(c.Logprob, -9999)
			}
		}
		tops = append(tops, top)
	}
	return map[string]any{"tokens": tokens, "token_logprobs": probs, "top_logprobs": tops, "text_offset": offsets}
}
