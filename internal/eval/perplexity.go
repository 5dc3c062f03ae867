// Package eval measures the quality of a model's predictions. docs/quality.md defines what it measures.
package eval

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// PerplexityOptions controls Perplexity.
type PerplexityOptions struct {
	Definition Definition // "" = LlamaCPP
	NCtx       int        // tokens per window
	Stride     int        // for Sliding
	Chunks     int        // windows to score; 0 or more than the text has = all
	Words      int        // of the text, for the perplexity per word; 0 = unknown
	State      *State     // of earlier runs; may be nil
	// Save, if set, receives the distributions; for LlamaCPP, without State.
	Save *LogitsWriter
	// Progress, if set, is called after every chunk with the perplexity so far.
	Progress func(done, total int, perplexity float64)
}

// PerplexityResult is exp of the mean negative log-likelihood of the scored tokens.
type PerplexityResult struct {
	Perplexity     float64 `json:"perplexity"`
	StdErr         float64 `json:"stderr"`                    // standard error of Perplexity
	WordPerplexity float64 `json:"word_perplexity,omitempty"` // exp(summed NLL / words), if a sliding window scored the whole text
	NLL            float64 `json:"nll"`                       // mean, in nats per token
	Chunks         int     `json:"chunks"`
	Tokens         int     `json:"tokens"` // scored ones
}

// Perplexity scores tokens: the tokenized text, with the model's leading BOS if it adds one.
func Perplexity(ctx context.Context, s *engine.Engine, tokens []int32, opt PerplexityOptions) (PerplexityResult, error) {
	var r PerplexityResult
	if opt.Definition == "" {
		opt.Definition = LlamaCPP
	}
	if opt.NCtx > s.NCtx() {
		return r, fmt.Errorf("context of %d tokens: expected at most the session's %d", opt.NCtx, s.NCtx())
	}
	if opt.Save != nil && (opt.State != nil || opt.Definition != LlamaCPP) {
		return r, errors.New("logits are saved by one whole run of llama.cpp's definition only (no state file)")
	}
	all, err := windows(opt.Definition, len(tokens), opt.NCtx, opt.Stride)
	if err != nil {
		return r, err
	}
	todo := all
	if opt.Chunks > 0 {
		todo = all[:min(len(all), opt.Chunks)]
	}
	if opt.Save != nil {
		if err := opt.Save.begin(opt.NCtx, s.NVocab(), tokens[:len(todo)*opt.NCtx]); err != nil {
			return r, err
		}
	}
	sum, err := scoreWindows(ctx, s, tokens, todo, opt)
	if err != nil {
		return r, err
	}
	e := sum.estimate()
	r = PerplexityResult{Perplexity: math.Exp(e.Value), StdErr: e.StdErr * math.Exp(e.Value), NLL: e.Value, Chunks: len(todo),
		Tokens: sum.N}
	if opt.Definition == Sliding && len(todo) == len(all) && opt.Words > 0 {
		r.WordPerplexity = math.Exp(sum.Sum / float64(opt.Words))
	}
	return r, nil
}

func scoreWindows(ctx context.Context, s *engine.Engine, tokens []int32, todo []window, opt PerplexityOptions) (moments, error) {
	var sum moments
	scorer := windowScorer{s: s, softmax: newSoftmax(), save: opt.Save}
	for i, w := range todo {
		var part moments
		known, err := opt.State.get(i, &part)
		if err == nil && !known {
			text := tokens[w.begin:w.end]
			if opt.Definition == LlamaCPP {
				text = withBOS(s, text)
			}
			if part, err = scorer.score(ctx, text, w.first-w.begin); err == nil {
				err = opt.State.put(i, part)
			}
		}
		if err != nil {
			return sum, fmt.Errorf("chunk %d of %d: %w", i+1, len(todo), err)
		}
		sum.merge(part)
		if opt.Progress != nil {
			opt.Progress(i+1, len(todo), math.Exp(sum.estimate().Value))
		}
	}
	return sum, nil
}

// withBOS returns chunk as the model gets to see it by llama.cpp's definition.
func withBOS(s *engine.Engine, chunk []int32) []int32 {
	bos, ok := s.AddsBOS()
	if !ok || chunk[0] == bos {
		return chunk
	}
	chunk = append([]int32(nil), chunk...)
	chunk[0] = bos
	return chunk
}

type windowScorer struct {
	s       *engine.Engine
	softmax *softmax
	save    *LogitsWriter
	nll     []float64
}

// score returns the negative log-likelihoods of the tokens from first on, of a text that begins with tokens[0].
func (w *windowScorer) score(ctx context.Context, tokens []int32, first int) (moments, error) {
	var sum moments
	nVocab := w.s.NVocab()
	err := w.s.Evaluate(ctx, tokens[:len(tokens)-1], first-1, func(pos int, logits []float32) error {
		rows := len(logits) / nVocab
		w.nll = append(w.nll[:0], make([]float64, rows)...)
		parallel.Do(rows, func(i int) {
			w.nll[i] = w.softmax.negLogProb(logits[i*nVocab:][:nVocab], tokens[pos+i+1])
		})
		for i, v := range w.nll {
			if !finite(v) {
				return notFinite(pos + i)
			}
			sum.add(v)
		}
		if w.save != nil {
			return w.save.write(logits)
		}
		return nil
	})
	return sum, err
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func notFinite(pos int) error {
	return fmt.Errorf("the logits at position %d are not finite (\"ellm-gpu verify\" tells whether the file is damaged)", pos)
}
