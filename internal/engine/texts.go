package engine

import (
	"context"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// SampleTexts continues several texts until each has length tokens, whatever ends of generation are among them: text i begins with starts[i], and
// samplers[i] chooses what follows. The texts are the same as if they were written one after the other with Generate; on a TextsBackend that was loaded for
// as many they are written side by side. progress receives how many tokens there are in all.
func (s *Session) SampleTexts(ctx context.Context, starts [][]int32, samplers []*sample.Sampler, length int, progress func(tokens int)) ([][]int32, error) {
	if length > s.nCtx || len(samplers) != len(starts) {
		return nil, fmt.Errorf("%d texts of %d tokens with %d samplers in a context of %d", len(starts), length, len(samplers), s.nCtx)
	}
	for i, start := range starts {
		if len(start) == 0 || len(start) > length {
			return nil, fmt.Errorf("text %d begins with %d tokens, expected 1 to %d", i, len(start), length)
		}
	}
	if b, ok := s.backend.(TextsBackend); ok && len(starts) <= min(s.texts, s.maxBatch) {
		s.Reset()
		return s.sampleTogether(ctx, b, starts, samplers, length, progress)
	}
	texts := make([][]int32, len(starts))
	for i, start := range starts {
		n := i*length + len(start)
		r, err := s.Generate(ctx, Request{
			Prompt: start, MaxTokens: length - len(start), Sampler: samplers[i], IgnoreEnd: true,
			OnText: func(string) { n++; progress(min(n, (i+1)*length)) },
		})
		if err == nil && r.StopReason == StopCancelled {
			err = context.Canceled
		}
		if err != nil {
			return nil, err
		}
		texts[i] = append(start[:len(start):len(start)], r.Tokens...)
		progress((i + 1) * length) // some tokens have no text
	}
	return texts, nil
}

// sampleTogether takes a step in all texts at a time: they are always equally long.
func (s *Session) sampleTogether(ctx context.Context, b TextsBackend, starts [][]int32, samplers []*sample.Sampler, length int, progress func(tokens int)) ([][]int32, error) {
	texts := make([][]int32, len(starts))
	for i, start := range starts {
		texts[i] = append(make([]int32, 0, length), start...)
		for _, t := range start {
			samplers[i].Accept(t)
		}
	}
	tokens, vocab := make([]int32, len(texts)), s.NVocab()
	for pos := range length - 1 {
		for i, text := range texts {
			tokens[i] = text[pos]
		}
		logits, err := b.ForwardTexts(ctx, tokens, pos)
		if err != nil {
			return nil, err
		}
		for i, text := range texts {
			if len(text) > pos+1 {
				continue // still at what was given
			}
			next, err := samplers[i].Next(logits[i*vocab : (i+1)*vocab])
			if err != nil {
				return nil, err
			}
			samplers[i].Accept(next)
			texts[i] = append(text, next)
		}
		progress((pos + 2) * len(texts))
	}
	return texts, nil
}
