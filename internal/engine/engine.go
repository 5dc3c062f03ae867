package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

const (
	// defaultBatch is the most tokens of one Forward call for backends that name none.
	defaultBatch = 256
	// maxLogits bounds the logits of one Forward call, in floats.
	maxLogits = 1 << 24
	// defaultMaxCtx bounds the context when the caller does not ask for a size: long-context models would otherwise take more
	// memory for the cache than for their weights.
	defaultMaxCtx = 4096
)

// Engine generates text with a model on a backend, for any number of callers at once. One goroutine owns the backend while
// there is work; each of its steps computes the next tokens of all sequences together (docs/engine.md).
type Engine struct {
	backend  Backend
	tok      *tokenizer.Tokenizer
	prog     *model.Program
	meta     *format.Meta
	nCtx     int // most positions of a sequence
	maxBatch int
	loadTime time.Duration
	template func() (*chat.Template, error)
	now      func() time.Time

	mu      sync.Mutex
	waiting []*sequence // in order of arrival, except that preempted ones come first
	running bool        // a goroutine runs steps
	forget  bool        // Reset was called
	stats   Stats

	stepper // belongs to the goroutine that runs steps
}

// Stats say what an engine is doing.
type Stats struct {
	Running, Waiting int   // sequences
	Pages, PagesUsed int   // of the cache; used are those that running sequences have
	Steps            int64 // since the start
	PromptTokens     int64 // computed, since the start
	Tokens           int64 // generated, since the start
	Preemptions      int64
}

// Describe reads a container's model description without touching its weights.
func Describe(f *format.Reader) (*model.Program, *tokenizer.Tokenizer, error) {
	var cfg model.Config
	if err := json.Unmarshal(f.Meta().Config, &cfg); err != nil {
		return nil, nil, fmt.Errorf("%s: model configuration: %w", f.Path(), err)
	}
	prog, err := model.Build(&cfg, func(name string) bool { _, ok := f.Tensor(name); return ok })
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", f.Path(), err)
	}
	b, err := f.Section(format.KindTokenizer)
	if err != nil {
		return nil, nil, err
	}
	if b == nil {
		return nil, nil, fmt.Errorf("%s: the file has no tokenizer (compress it again from a source that has one)", f.Path())
	}
	tok, err := tokenizer.Unmarshal(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: tokenizer: %w", f.Path(), err)
	}
	if tok.NVocab() > cfg.NVocab {
		return nil, nil, fmt.Errorf("%s: the tokenizer has %d tokens, the model's vocabulary only %d",
			f.Path(), tok.NVocab(), cfg.NVocab)
	}
	tok.AddEnds(f.Meta().Ends)
	return prog, tok, nil
}

// New loads the model in f on backend b. The caller closes b and f, in that order, when no call to the engine is in progress.
// opt.NCtx of 0 means the model's own context length, at most 4096.
func New(ctx context.Context, f *format.Reader, b Backend, opt LoadOptions) (*Engine, error) {
	start := time.Now()
	prog, tok, err := Describe(f)
	if err != nil {
		return nil, err
	}
	opt.NCtx = ContextLength(&prog.Config, opt.NCtx)
	if opt.MaxBatch > 0 {
		opt.MaxBatch = opt.Batch(opt.MaxBatch)
	}
	if err := b.Load(ctx, f, prog, opt); err != nil {
		return nil, err
	}
	if opt.MaxBatch == 0 {
		if opt.MaxBatch = b.Memory().Batch; opt.MaxBatch == 0 {
			opt.MaxBatch = opt.Batch(defaultBatch)
		}
	}
	if got, want := b.Memory().Pages, opt.Pages(); got < want {
		return nil, fmt.Errorf("%s has a cache of %d pages, %d were asked for", b.Describe(), got, want)
	}
	e := newEngine(b, tok, prog, f.Meta(), opt)
	e.loadTime = time.Since(start)
	return e, nil
}

func newEngine(b Backend, tok *tokenizer.Tokenizer, prog *model.Program, meta *format.Meta, opt LoadOptions) *Engine {
	e := &Engine{
		backend: b, tok: tok, prog: prog, meta: meta, nCtx: min(opt.NCtx, opt.Pages()*PageTokens), maxBatch: opt.MaxBatch,
		now: time.Now,
	}
	e.template = sync.OnceValues(func() (*chat.Template, error) {
		return chat.New(meta.ChatTemplate, e.pieceOf(tok.BOS()), e.pieceOf(tok.EOS()))
	})
	e.pool = newPool(b.Memory().Pages, b.Memory().States)
	for i := max(opt.Sequences, 1) - 1; i >= 0; i-- {
		e.slots = append(e.slots, i)
	}
	e.stats.Pages = len(e.pool.refs)
	return e
}

// ContextLength returns the most positions of a sequence for a wish of nCtx; 0 means no wish.
func ContextLength(cfg *model.Config, nCtx int) int {
	if nCtx > 0 {
		return nCtx
	}
	if cfg.NCtx > 0 {
		return min(cfg.NCtx, defaultMaxCtx)
	}
	return defaultMaxCtx
}

// NCtx returns the tokens that prompt and answer may have together.
func (e *Engine) NCtx() int { return e.nCtx }

// NVocab returns the number of logits per position.
func (e *Engine) NVocab() int { return e.prog.Config.NVocab }

// Config returns the model's hyperparameters.
func (e *Engine) Config() *model.Config { return &e.prog.Config }

// AddsBOS returns the token that begins every text, if the model has one.
func (e *Engine) AddsBOS() (int32, bool) { return e.tok.BOS(), e.tok.AddBOS() }

// Tokenizer returns the model's tokenizer.
func (e *Engine) Tokenizer() *tokenizer.Tokenizer { return e.tok }

// Memory returns what the backend has allocated.
func (e *Engine) Memory() MemoryPlan { return e.backend.Memory() }

// Device names what really computes.
func (e *Engine) Device() string { return e.backend.Describe() }

// LoadTime returns how long New took.
func (e *Engine) LoadTime() time.Duration { return e.loadTime }

// Stats returns what the engine is doing.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.Waiting = len(e.waiting)
	return s
}

// Reset forgets what the cache holds for sequences that have ended.
func (e *Engine) Reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		e.forget = true
	} else {
		e.pool.reset()
	}
}

// Generate continues req.Prompt; several goroutines may call it at once. When ctx ends it returns what there is, with
// StopCancelled or StopDeadline and no error.
func (e *Engine) Generate(ctx context.Context, req Request) (*Result, error) {
	if len(req.Prompt) == 0 {
		return nil, errors.New("the prompt is empty")
	}
	if len(req.Prompt) >= e.nCtx {
		return nil, fmt.Errorf("%w: %d tokens, context of %d (use a larger --ctx or a shorter prompt)",
			ErrPromptTooLong, len(req.Prompt), e.nCtx)
	}
	if err := e.checkTokens(req.Prompt); err != nil {
		return nil, err
	}
	if req.Speculate == SpeculateDraft && e.draft == nil {
		return nil, errors.New("speculation with a draft model needs one (--draft MODEL.ellm)")
	}
	if req.Sampler == nil {
		req.Sampler = sample.New(sample.Options{})
	}
	for _, t := range req.Prompt {
		req.Sampler.Accept(t)
	}
	s := e.newSequence(ctx, &req, req.Prompt)
	s.stream, s.text = e.tok.NewStream(req.Shown...), newStopFilter(req.Stop)
	for _, stop := range req.Stop {
		if id, ok := e.tok.Special(stop); ok {
			s.stopTokens = append(s.stopTokens, id)
		}
	}
	s.res.PromptTokens = len(req.Prompt)
	e.submit(s)
	s.wait()
	if s.err != nil {
		return nil, s.err
	}
	s.res.Text = string(s.text.text)
	return &s.res, nil
}

func (e *Engine) checkTokens(tokens []int32) error {
	for i, t := range tokens {
		if t < 0 || int(t) >= e.NVocab() {
			return fmt.Errorf("token %d of the prompt is %d, the vocabulary has %d entries", i, t, e.NVocab())
		}
	}
	return nil
}

// Evaluate runs tokens from position 0 on, without anything before them, and calls visit with the
// logits (rows × n_vocab) after positions pos, pos+1, …, until every position from first on has been visited.
// The logits are valid during the call only, for which other sequences wait.
func (e *Engine) Evaluate(ctx context.Context, tokens []int32, first int, visit func(pos int, logits []float32) error) error {
	s := e.newSequence(ctx, &Request{NoReuse: true}, tokens)
	s.visit, s.first = visit, first
	return e.evaluate(s)
}

// EvaluateCached is Evaluate that does not compute again what the cache already holds of the tokens before first.
func (e *Engine) EvaluateCached(
	ctx context.Context, tokens []int32, first int, visit func(pos int, logits []float32) error,
) error {
	s := e.newSequence(ctx, &Request{}, tokens)
	s.visit, s.first = visit, first
	return e.evaluate(s)
}

func (e *Engine) evaluate(s *sequence) error {
	if len(s.tokens) > e.nCtx {
		return fmt.Errorf("%d tokens do not fit a context of %d", len(s.tokens), e.nCtx)
	}
	if s.first >= len(s.tokens) {
		return nil
	}
	e.submit(s)
	s.wait()
	if s.err == nil && (s.res.StopReason == StopCancelled || s.res.StopReason == StopDeadline) {
		return s.ctx.Err()
	}
	return s.err
}

func (e *Engine) newSequence(ctx context.Context, req *Request, tokens []int32) *sequence {
	s := &sequence{ctx: ctx, req: req, tokens: append(make([]int32, 0, len(tokens)+PageTokens), tokens...), submitted: e.now()}
	s.feed.wake = make(chan struct{}, 1)
	return s
}

// submit queues s, and starts the goroutine that runs steps if none does.
func (e *Engine) submit(s *sequence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = append(e.waiting, s)
	if !e.running {
		e.running = true
		go e.run()
	}
}
