// Package eval measures the quality of a model's predictions.
package eval

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// PerplexityOptions controls Perplexity.
type PerplexityOptions struct {
	NCtx   int // tokens per chunk
	Chunks int // chunks to score; 0 or more than the text has = all
	// Progress, if set, is called after every chunk with the perplexity so far.
	Progress func(done, total int, perplexity float64)
}

// PerplexityResult is exp of the mean negative log-likelihood of the scored tokens.
type PerplexityResult struct {
	Perplexity float64 `json:"perplexity"`
	StdErr     float64 `json:"stderr"` // standard error of Perplexity
	NLL        float64 `json:"nll"`    // mean, in nats per token
	Chunks     int     `json:"chunks"`
	Tokens     int     `json:"tokens"` // scored ones
}

// Perplexity scores tokens (the tokenized text, with the model's leading BOS if it adds one) as
// llama.cpp's llama-perplexity does: the text is cut into chunks of NCtx tokens, each is evaluated alone,
// with its first token replaced by BOS if the model adds one, and the predictions made at positions
// NCtx/2 … NCtx−2 are scored.
func Perplexity(ctx context.Context, s *engine.Session, tokens []int32, opt PerplexityOptions) (PerplexityResult, error) {
	var r PerplexityResult
	if opt.NCtx < 4 || opt.NCtx > s.NCtx() {
		return r, fmt.Errorf("context of %d tokens: expected 4 to %d", opt.NCtx, s.NCtx())
	}
	if len(tokens) < 2*opt.NCtx {
		return r, fmt.Errorf("the text has %d tokens, at least %d are needed for a context of %d (use a longer text or a smaller --ctx)", len(tokens), 2*opt.NCtx, opt.NCtx)
	}
	chunks := len(tokens) / opt.NCtx
	if opt.Chunks > 0 {
		chunks = min(chunks, opt.Chunks)
	}
	var sum moments
	chunk := make([]int32, opt.NCtx)
	for i := range chunks {
		copy(chunk, tokens[i*opt.NCtx:])
		if bos, ok := s.AddsBOS(); ok {
			chunk[0] = bos
		}
		if err := scoreChunk(ctx, s, chunk, &sum); err != nil {
			return r, fmt.Errorf("chunk %d of %d: %w", i+1, chunks, err)
		}
		r.Chunks = i + 1
		r.NLL, _ = sum.mean()
		r.Perplexity = math.Exp(r.NLL)
		if opt.Progress != nil {
			opt.Progress(i+1, chunks, r.Perplexity)
		}
	}
	mean, stderr := sum.mean()
	r.NLL, r.Tokens, r.Perplexity, r.StdErr = mean, sum.n, math.Exp(mean), stderr*math.Exp(mean)
	return r, nil
}

func scoreChunk(ctx context.Context, s *engine.Session, chunk []int32, sum *moments) error {
	nVocab := s.NVocab()
	var nll []float64
	return s.Evaluate(ctx, chunk[:len(chunk)-1], len(chunk)/2, func(pos int, logits []float32) error {
		rows := len(logits) / nVocab
		nll = append(nll[:0], make([]float64, rows)...)
		parallel(rows, func(i int) {
			nll[i] = negLogProb(logits[i*nVocab:][:nVocab], chunk[pos+i+1])
		})
		for i, v := range nll {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("the logits at position %d are not finite", pos+i)
			}
			sum.add(v)
		}
		return nil
	})
}

// negLogProb returns −ln softmax(logits)[token].
func negLogProb(logits []float32, token int32) float64 {
	top := logits[0]
	for _, v := range logits {
		top = max(top, v)
	}
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v - top))
	}
	return math.Log(sum) - float64(logits[token]-top)
}

// moments accumulates a mean and its standard error.
type moments struct {
	n       int
	sum, sq float64
}

func (m *moments) add(v float64) {
	m.n++
	m.sum += v
	m.sq += v * v
}

func (m *moments) mean() (mean, stderr float64) {
	if m.n < 2 {
		return m.sum, 0
	}
	mean = m.sum / float64(m.n)
	variance := m.sq/float64(m.n) - mean*mean
	return mean, math.Sqrt(max(variance, 0) / float64(m.n-1))
}

// parallel calls f(0) … f(n−1) on all cores.
func parallel(n int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}
