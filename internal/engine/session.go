package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

const (
	// defaultBatch is the number of prompt tokens that one Forward call processes: enough to reuse every
	// decoded weight often, and short enough that Ctrl-C acts within a moment.
	defaultBatch = 256
	// maxLogits bounds the logits of one Forward call, in floats.
	maxLogits = 1 << 24
)

// Session is a model loaded on a backend together with what its cache holds. It is not safe for concurrent use.
type Session struct {
	backend  Backend
	tok      *tokenizer.Tokenizer
	prog     *model.Program
	meta     *format.Meta
	nCtx     int
	maxBatch int
	texts    int     // LoadOptions.Texts
	cached   []int32 // tokens whose keys and values are in the backend's cache, from position 0
	loadTime time.Duration
	template *chat.Template // nil until it is needed
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
		return nil, nil, fmt.Errorf("%s: the tokenizer has %d tokens, the model's vocabulary only %d", f.Path(), tok.NVocab(), cfg.NVocab)
	}
	return prog, tok, nil
}

// NewSession loads the model in f on backend b. The caller closes b and f, in that order, when done.
// opt.NCtx of 0 means the model's own context length, at most 4096.
func NewSession(ctx context.Context, f *format.Reader, b Backend, opt LoadOptions) (*Session, error) {
	start := time.Now()
	prog, tok, err := Describe(f)
	if err != nil {
		return nil, err
	}
	opt.NCtx = ContextLength(&prog.Config, opt.NCtx)
	if opt.MaxBatch == 0 {
		opt.MaxBatch = defaultBatch
	}
	opt.MaxBatch = min(opt.MaxBatch, opt.NCtx)
	if err := b.Load(ctx, f, prog, opt); err != nil {
		return nil, err
	}
	return &Session{backend: b, tok: tok, prog: prog, meta: f.Meta(), nCtx: opt.NCtx, maxBatch: opt.MaxBatch, texts: opt.Texts, loadTime: time.Since(start)}, nil
}

// defaultMaxCtx bounds the cache when the caller does not ask for a size: long-context models would
// otherwise take more memory for it than for their weights.
const defaultMaxCtx = 4096

// ContextLength returns the tokens of cache for a wish of nCtx; 0 means no wish.
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
func (s *Session) NCtx() int { return s.nCtx }

// NVocab returns the number of logits per position.
func (s *Session) NVocab() int { return s.prog.Config.NVocab }

// Config returns the model's hyperparameters.
func (s *Session) Config() *model.Config { return &s.prog.Config }

// AddsBOS returns the token that begins every text, if the model has one.
func (s *Session) AddsBOS() (int32, bool) { return s.tok.BOS(), s.tok.AddBOS() }

// Tokenizer returns the model's tokenizer.
func (s *Session) Tokenizer() *tokenizer.Tokenizer { return s.tok }

// Memory returns what the backend has allocated.
func (s *Session) Memory() MemoryPlan { return s.backend.Memory() }

// Device names what really computes.
func (s *Session) Device() string { return s.backend.Describe() }

// LoadTime returns how long NewSession took.
func (s *Session) LoadTime() time.Duration { return s.loadTime }

// Reset forgets the cache.
func (s *Session) Reset() { s.cached = s.cached[:0] }

// reuse keeps what the cache shares with tokens, at most that many, and returns how many tokens these are.
func (s *Session) reuse(tokens []int32, most int) int {
	keep := 0
	for keep < min(len(s.cached), most) && s.cached[keep] == tokens[keep] {
		keep++
	}
	s.cached = s.cached[:keep]
	return keep
}

// Evaluate runs tokens from position 0 on, without anything before them, and calls visit with the
// logits (rows × n_vocab) after positions pos, pos+1, …, until every position from first on has been visited.
// The logits are valid during the call only.
func (s *Session) Evaluate(ctx context.Context, tokens []int32, first int, visit func(pos int, logits []float32) error) error {
	s.Reset()
	return s.EvaluateCached(ctx, tokens, first, visit)
}

// EvaluateCached is Evaluate that does not compute again what the cache already holds of the tokens before first.
func (s *Session) EvaluateCached(ctx context.Context, tokens []int32, first int, visit func(pos int, logits []float32) error) error {
	if len(tokens) > s.nCtx {
		return fmt.Errorf("%d tokens do not fit a context of %d", len(tokens), s.nCtx)
	}
	keep := s.reuse(tokens, first)
	if err := s.prefill(ctx, tokens[keep:first]); err != nil {
		return err
	}
	rows := max(1, min(s.maxBatch, maxLogits/s.NVocab()))
	for pos := first; pos < len(tokens); pos += rows {
		batch := tokens[pos:min(pos+rows, len(tokens))]
		logits, err := s.forward(ctx, batch, len(batch))
		if err != nil {
			return err
		}
		if err := visit(pos, logits); err != nil {
			return err
		}
	}
	return nil
}

// prefill appends tokens to the cache without computing logits.
func (s *Session) prefill(ctx context.Context, tokens []int32) error {
	for len(tokens) > 0 {
		n := min(len(tokens), s.maxBatch)
		if _, err := s.forward(ctx, tokens[:n], 0); err != nil {
			return err
		}
		tokens = tokens[n:]
	}
	return nil
}

// forward appends tokens to the cache and returns the logits after the last rows of them.
func (s *Session) forward(ctx context.Context, tokens []int32, rows int) ([]float32, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	logits, err := s.backend.Forward(ctx, tokens, len(s.cached), rows)
	if err != nil {
		return nil, err
	}
	if len(logits) != rows*s.NVocab() {
		return nil, fmt.Errorf("backend returned %d logits, expected %d × %d", len(logits), rows, s.NVocab())
	}
	s.cached = append(s.cached, tokens...)
	return logits, nil
}
