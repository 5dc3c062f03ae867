package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// What the model writes for its own calibration.
const (
	ownTextTokens  = 512     // of one text, its beginning included
	ownTextMost    = 1 << 20 // tokens
	ownTextsAtOnce = 16      // a token of each then takes a third of the time that it takes alone (docs/quality.md)
	draftBPW       = 5.0     // of the file that writes: near to the source, and quick
)

// ownText lets the model write texts to calibrate with: a temporary draft, compressed without data and written beside the output,
// samples tokens at temperature 1. Texts begin in turn as a user's message of the chat template does, where
// there is one, and with a random token. The same model and the same number of tokens give the same texts on the same device.
func (p *program) ownText(ctx context.Context, src source.Model, out, device string, tokens int) ([][]int32, error) {
	start := time.Now()
	dir, err := makeDraft(out)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	draft := filepath.Join(dir, "draft.ellm")
	bar := p.newProgress("compressing a draft")
	_, err = convert.Compress(ctx, src, draft, convert.Options{BPW: draftBPW}, bar.stage)
	bar.finish()
	if err != nil {
		return nil, fmt.Errorf("the draft that is to write text: %w", err)
	}
	n := (tokens + ownTextTokens - 1) / ownTextTokens
	m, err := p.load(ctx, draft, device, engine.LoadOptions{NCtx: ownTextTokens, Sequences: min(n, ownTextsAtOnce)})
	if err != nil {
		return nil, err
	}
	defer m.close()
	bar = p.newProgress("writing text")
	defer bar.finish()
	var texts [][]int32
	for len(texts) < n {
		written := len(texts) * ownTextTokens
		more, err := writeTexts(ctx, m, len(texts), min(n-len(texts), ownTextsAtOnce),
			func(k int) { bar.update(int64(written+k), int64(n*ownTextTokens)) })
		if err != nil {
			return nil, fmt.Errorf("writing text: %w", err)
		}
		texts = append(texts, more...)
	}
	bar.finish()
	p.notef("the model wrote %d tokens to calibrate with in %.0f s", n*ownTextTokens, time.Since(start).Seconds())
	return texts, nil
}

// writeTexts returns n texts, the first of which has that number, written side by side. progress receives how many tokens there
// are.
func writeTexts(ctx context.Context, m *loaded, first, n int, progress func(tokens int)) ([][]int32, error) {
	texts, errs := make([][]int32, n), make([]error, n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // of progress
	var wg sync.WaitGroup
	done := 0
	for i := range n {
		start, sampler := textStart(ctx, m, uint64(first+i))
		count := func(k int) {
			mu.Lock()
			defer mu.Unlock()
			done += k
			progress(done)
		}
		count(len(start))
		req := engine.Request{
			Prompt: start, MaxTokens: ownTextTokens - len(start), Sampler: sampler, IgnoreEnd: true,
			OnStep: func(engine.Step) { count(1) },
		}
		wg.Go(func() {
			r, err := m.Generate(ctx, req)
			if err == nil && len(r.Tokens) < req.MaxTokens {
				err = context.Canceled
			}
			if errs[i] = err; err != nil {
				cancel()
				return
			}
			texts[i] = append(start[:len(start):len(start)], r.Tokens...)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	return texts, errors.Join(errs...)
}

// textStart returns how a text begins and what chooses its tokens.
func textStart(ctx context.Context, m *loaded, seed uint64) ([]int32, *sample.Sampler) {
	o := sample.DefaultOptions()
	o.Temperature, o.TopK, o.TopP, o.MinP, o.Seed = 1, 0, 1, 0, seed
	return beginning(ctx, m, seed), sample.New(o)
}

// beginning returns the first tokens of a text: in turn what comes before a user's message in the chat template, where there is
// one, and a random token.
func beginning(ctx context.Context, m *loaded, seed uint64) []int32 {
	if seed%2 == 0 {
		a, errA := m.ChatTokens(ctx, question("A"))
		b, errB := m.ChatTokens(ctx, question("1"))
		same := 0
		for same < min(len(a), len(b)) && a[same] == b[same] {
			same++
		}
		if errA == nil && errB == nil && same > 0 && same < ownTextTokens/2 {
			return a[:same:same]
		}
	}
	return append(m.RawTokens(""), convert.RandomToken(rand.New(rand.NewPCG(seed, 1)), m.NVocab()))
}

// question is a conversation of one user's message.
func question(text string) chat.Conversation {
	return chat.Conversation{Messages: messages("", text), GenerationPrompt: true}
}
