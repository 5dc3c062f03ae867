package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

// together decodes r.Parallel sequences at once and returns the time from the first pass to the last. Each sequence begins with
// one token of its own.
func (r *benchResult) together(ctx context.Context, e *engine.Engine) (time.Duration, error) {
	errs := make([]error, r.Parallel)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range r.Parallel {
		req := engine.Request{
			Prompt: []int32{benchTokens(e, i+1)[i]}, MaxTokens: r.Gen, IgnoreEnd: true, Sampler: sample.New(sample.Options{}),
		}
		wg.Go(func() {
			res, err := e.Generate(ctx, req)
			if err == nil && res.StopReason == engine.StopCancelled {
				err = context.Canceled
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return time.Since(start), errors.Join(errs...)
}

// speculated compares generation from a prompt with and without speculation, in turn. Each result counts the tokens after the
// first one.
func (p *program) speculated(ctx context.Context, m *loaded, base benchResult, opt benchOptions) ([]benchResult, error) {
	prompt, err := m.ChatTokens(ctx, question(opt.prompt))
	if err != nil {
		return nil, err
	}
	results := []benchResult{base, base}
	var texts [2][]int32
	for rep := range opt.reps + 1 {
		for i, how := range []engine.Speculation{engine.SpeculateOff, opt.speculate} {
			r := &results[i]
			req := engine.Request{Prompt: prompt, MaxTokens: opt.gen, Sampler: sample.New(sample.Options{}), Speculate: how}
			res, err := m.Generate(ctx, req)
			if err != nil {
				return nil, err
			}
			if res.StopReason == engine.StopCancelled {
				return nil, context.Canceled
			}
			if rep == 0 {
				texts[i] = res.Tokens
				continue
			}
			r.Prompt, r.Gen, r.Speculate, r.Speculation = len(prompt), len(res.Tokens), string(how), &res.Speculation
			r.add(res.DecodeTime, max(len(res.Tokens)-1, 0))
		}
	}
	for i := range results {
		results[i].summarize()
	}
	if !slices.Equal(texts[0], texts[1]) {
		p.notef("warning: the texts with and without speculation differ (on this device, logits depend on how many tokens " +
			"share a pass)")
	}
	return results, nil
}

// testName names a test as llama-bench does.
func (r *benchResult) testName() string {
	switch {
	case r.Speculation != nil && r.Speculate == "":
		return fmt.Sprintf("tg%d, plain", r.Gen)
	case r.Speculation != nil:
		s := r.Speculation
		return fmt.Sprintf("tg%d, %s: %d of %d accepted, %d passes", r.Gen, r.Speculate, s.Accepted, s.Proposed, s.Passes)
	case r.Parallel > 1:
		return fmt.Sprintf("tg%d × %d", r.Gen, r.Parallel)
	case r.Gen > 0:
		return fmt.Sprintf("tg%d", r.Gen)
	}
	return fmt.Sprintf("pp%d", r.Prompt)
}
