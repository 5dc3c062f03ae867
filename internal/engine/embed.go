package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// HiddenStates is a backend that gives access to what its last Forward computed before the output matrix.
type HiddenStates interface {
	// Hidden returns the normalized hidden state (n_embd values) from which row `row` of the logits was computed, valid until
	// the next Forward.
	Hidden(row int) []float32
}

// Pooling says how the hidden states of a text become one vector.
type Pooling string

const (
	PoolMean Pooling = "mean" // of all tokens
	PoolLast Pooling = "last" // that of the last token
)

// Embed returns a vector for tokens: the final norm's output, pooled and scaled to length 1.
func (e *Engine) Embed(ctx context.Context, tokens []int32, pool Pooling) ([]float32, error) {
	b, ok := e.backend.(HiddenStates)
	if !ok {
		return nil, fmt.Errorf("embeddings are not supported on this device (%s); use --device cpu", e.Device())
	}
	if len(tokens) == 0 {
		return nil, errors.New("the text to embed has no tokens")
	}
	if len(tokens) > e.nCtx {
		return nil, fmt.Errorf("%w: %d tokens, context of %d (use a larger --ctx or a shorter text)",
			ErrPromptTooLong, len(tokens), e.nCtx)
	}
	first := 0
	if pool == PoolLast {
		first = len(tokens) - 1
	} else if pool != PoolMean {
		return nil, fmt.Errorf("unknown pooling %q: expected mean or last", pool)
	}
	if err := e.checkTokens(tokens); err != nil {
		return nil, err
	}
	sum := make([]float64, e.prog.Config.NEmbd)
	s := e.newSequence(ctx, &Request{}, tokens)
	s.first = first
	s.visit = func(int, []float32) error {
		for i := range s.rows {
			for j, v := range b.Hidden(s.row + i) {
				sum[j] += float64(v)
			}
		}
		return nil
	}
	if err := e.evaluate(s); err != nil {
		return nil, err
	}
	return unit(sum), nil
}

// unit scales a vector to length 1.
func unit(v []float64) []float32 {
	square := 0.0
	for _, x := range v {
		square += x * x
	}
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = float32(x / max(math.Sqrt(square), math.SmallestNonzeroFloat32))
	}
	return out
}
