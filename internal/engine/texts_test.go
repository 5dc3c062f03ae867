package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// alphabets runs an alphabetBackend for every text.
type alphabets struct {
	*alphabetBackend
	texts []*alphabetBackend
	steps int
}

func (b *alphabets) ForwardTexts(ctx context.Context, tokens []int32, pos int) (logits []float32, err error) {
	b.steps++
	for i, t := range tokens {
		l, err := b.texts[i].Forward(ctx, []int32{t}, pos, 1)
		if err != nil {
			return nil, err
		}
		logits = append(logits, l...)
	}
	return logits, nil
}

func TestSampleTexts(t *testing.T) {
	ctx := context.Background()
	starts := [][]int32{{tokenA}, {tokenA + 3, tokenA + 9, tokenA + 1}, {tokenA + 24}}
	samplers := func() (s []*sample.Sampler) {
		for range starts {
			s = append(s, sample.New(sample.Options{})) // greedy
		}
		return s
	}
	s, one := alphabetSession(t, 8, 4)
	var progress []int
	alone, err := s.SampleTexts(ctx, starts, samplers(), 6, func(n int) { progress = append(progress, n) })
	require.NoError(t, err)
	const a = tokenA
	assert.Equal(t, [][]int32{{a, a + 1, a + 2, a + 3, a + 4, a + 5}, {a + 3, a + 9, a + 1, a + 2, a + 3, a + 4}, {a + 24, a + 25, tokenEnd, a, a + 1, a + 2}}, alone)
	assert.IsNonDecreasing(t, progress)
	assert.Equal(t, 18, progress[len(progress)-1])

	many := &alphabets{one, []*alphabetBackend{{nVocab: one.nVocab}, {nVocab: one.nVocab}, {nVocab: one.nVocab}}, 0}
	s.backend, s.texts = many, 3
	together, err := s.SampleTexts(ctx, starts, samplers(), 6, func(int) {})
	require.NoError(t, err)
	assert.Equal(t, alone, together)
	assert.Equal(t, 5, many.steps)
	for i, b := range many.texts {
		assert.Equal(t, alone[i][:5], b.cache) // each text has a cache of its own; what the last token leads to is not wanted
	}

	many.texts[1].failing = errors.New("out of order")
	_, err = s.SampleTexts(ctx, starts, samplers(), 6, func(int) {})
	require.ErrorContains(t, err, "out of order")
	for _, wrong := range [][][]int32{{{a}, {}, {a}}, {{a}, {a}}, {{a}, make([]int32, 7), {a}}} {
		_, err = s.SampleTexts(ctx, wrong, samplers(), 6, func(int) {})
		require.Error(t, err)
	}
	_, err = s.SampleTexts(ctx, starts, samplers(), 9, func(int) {})
	require.ErrorContains(t, err, "context of 8")

	cancelled, cancel := context.WithCancel(ctx)
	s.backend = one
	one.onCall = cancel
	_, err = s.SampleTexts(cancelled, starts, samplers(), 6, func(int) {})
	require.ErrorIs(t, err, context.Canceled)
}
