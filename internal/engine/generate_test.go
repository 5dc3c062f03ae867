package engine

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// alphabetBackend is a model whose every token is followed by the next letter; after 'z' comes the end.
// Its logits depend on the whole cache, so that a wrong position or a stale entry changes them.
type alphabetBackend struct {
	nVocab  int
	cache   []int32
	calls   [][]int32
	onCall  func()
	failing error
	nan     bool
}

const (
	tokenEnd = 1
	tokenA   = 2
)

func (b *alphabetBackend) Load(context.Context, *format.Reader, *model.Program, LoadOptions) error {
	return nil
}
func (b *alphabetBackend) Memory() MemoryPlan { return MemoryPlan{Plan: PlanResident} }
func (b *alphabetBackend) Describe() string   { return "alphabet" }
func (b *alphabetBackend) Close() error       { return nil }

func (b *alphabetBackend) Forward(_ context.Context, tokens []int32, pos, rows int) ([]float32, error) {
	if b.onCall != nil {
		b.onCall()
	}
	if b.failing != nil {
		return nil, b.failing
	}
	if pos > len(b.cache) {
		return nil, errors.New("hole in the cache")
	}
	b.cache = append(b.cache[:pos], tokens...)
	b.calls = append(b.calls, append([]int32(nil), tokens...))
	logits := make([]float32, rows*b.nVocab)
	for r := range rows {
		at := len(b.cache) - rows + r
		next := int(b.cache[at]) + 1
		if next == b.nVocab {
			next = tokenEnd
		}
		logits[r*b.nVocab+next] = 4
		for i, t := range b.cache[:at+1] {
			logits[r*b.nVocab] -= float32(t) * float32(i+1) // token 0 carries a checksum of the cache
		}
		if b.nan {
			logits[r*b.nVocab+3] = float32(math.NaN())
		}
	}
	return logits, nil
}

func alphabetSession(t *testing.T, nCtx, batch int) (*Session, *alphabetBackend) {
	t.Helper()
	tokens := []string{"<s>", "</s>"}
	types := []int32{3, 3}
	for c := 'a'; c <= 'z'; c++ {
		tokens, types = append(tokens, string(c)), append(types, 1)
	}
	tok, err := tokenizer.FromGGUF(tokenizer.GGUFVocab{Model: "gpt2", Pre: "gpt-2", Tokens: tokens, Types: types, BOS: 0, EOS: tokenEnd, UNK: -1, PAD: -1, EOT: -1})
	require.NoError(t, err)
	b := &alphabetBackend{nVocab: len(tokens)}
	prog := &model.Program{Config: model.Config{NVocab: len(tokens)}}
	return &Session{backend: b, tok: tok, prog: prog, nCtx: nCtx, maxBatch: batch}, b
}

func greedy(prompt string, n int) Request {
	r := Request{MaxTokens: n, Sampler: sample.New(sample.Options{})}
	for _, c := range prompt {
		r.Prompt = append(r.Prompt, int32(c-'a')+tokenA)
	}
	return r
}

func TestGenerateStops(t *testing.T) {
	for _, c := range []struct {
		name   string
		nCtx   int
		change func(*Request)
		text   string
		reason StopReason
		tokens int
	}{
		{"length", 64, func(r *Request) { r.MaxTokens = 3 }, "klm", StopLength, 3},
		{"nothing wanted", 64, func(r *Request) { r.MaxTokens = 0 }, "", StopLength, 0},
		{"end of text", 64, func(*Request) {}, "klmnopqrstuvwxyz", StopEnd, 16},
		{"end ignored", 64, func(r *Request) { r.IgnoreEnd, r.MaxTokens = true, 18 }, "klmnopqrstuvwxyza", StopLength, 18},
		{"context full", 8, func(*Request) {}, "klmnop", StopContext, 6},
		{"stop string over tokens", 64, func(r *Request) { r.Stop = []string{"zz", "nop"} }, "klm", StopString, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := alphabetSession(t, c.nCtx, 4)
			req := greedy("hij", -1)
			c.change(&req)
			shown := ""
			req.OnText = func(text string) { shown += text }
			r, err := s.Generate(context.Background(), req)
			require.NoError(t, err)
			assert.Equal(t, c.text, r.Text)
			assert.Equal(t, c.text, shown)
			assert.Equal(t, c.reason, r.StopReason)
			assert.Len(t, r.Tokens, c.tokens)
			assert.Equal(t, 3, r.PromptTokens)
		})
	}
}

func TestGeneratePrefillsInBatches(t *testing.T) {
	s, b := alphabetSession(t, 64, 4)
	_, err := s.Generate(context.Background(), greedy("abcdefghi", 1))
	require.NoError(t, err)
	var sizes []int
	for _, c := range b.calls {
		sizes = append(sizes, len(c))
	}
	assert.Equal(t, []int{4, 4, 1}, sizes)
}

func TestGenerateReusesTheCommonPrefix(t *testing.T) {
	s, b := alphabetSession(t, 64, 16)
	_, err := s.Generate(context.Background(), greedy("abc", 3))
	require.NoError(t, err)
	b.calls = nil

	// "abcde" is in the cache ("f" was generated, but nothing came after it).
	r, err := s.Generate(context.Background(), greedy("abcdxy", 1))
	require.NoError(t, err)
	assert.Equal(t, 4, r.CachedTokens)
	assert.Equal(t, []int32{tokenA + 23, tokenA + 24}, b.calls[0])
	assert.Equal(t, "z", r.Text)

	// The same prompt again: its last token must be computed for its logits.
	r, err = s.Generate(context.Background(), greedy("abcdxy", 1))
	require.NoError(t, err)
	assert.Equal(t, 5, r.CachedTokens)
	assert.Equal(t, "z", r.Text)

	s.Reset()
	r, err = s.Generate(context.Background(), greedy("abcdxy", 1))
	require.NoError(t, err)
	assert.Zero(t, r.CachedTokens)
}

func TestGenerateCancelled(t *testing.T) {
	s, b := alphabetSession(t, 64, 16)
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	b.onCall = func() {
		if n++; n == 4 {
			cancel()
		}
	}
	r, err := s.Generate(ctx, greedy("a", -1))
	require.NoError(t, err)
	assert.Equal(t, StopCancelled, r.StopReason)
	assert.Equal(t, "bcde", r.Text)

	// The session can go on.
	r, err = s.Generate(context.Background(), greedy("abc", 2))
	require.NoError(t, err)
	assert.Equal(t, "de", r.Text)
}

func TestGenerateErrors(t *testing.T) {
	s, b := alphabetSession(t, 4, 16)
	_, err := s.Generate(context.Background(), greedy("", 1))
	assert.ErrorContains(t, err, "empty")
	_, err = s.Generate(context.Background(), greedy("abcd", 1))
	assert.ErrorIs(t, err, ErrPromptTooLong)
	assert.ErrorContains(t, err, "--ctx")
	b.nan = true
	_, err = s.Generate(context.Background(), greedy("ab", 1))
	assert.ErrorIs(t, err, sample.ErrNaN)
	b.failing = errors.New("device is gone")
	_, err = s.Generate(context.Background(), greedy("b", 1))
	assert.ErrorIs(t, err, b.failing)
}

func TestTopLogits(t *testing.T) {
	s, _ := alphabetSession(t, 64, 16)
	req := greedy("ab", 2)
	req.TopLogits = 3
	r, err := s.Generate(context.Background(), req)
	require.NoError(t, err)
	require.Len(t, r.Steps, 2)
	assert.Equal(t, []Candidate{{Token: tokenA + 2, Text: "c", Logit: 4}, {Token: 1, Text: "</s>"}, {Token: 2, Text: "a"}}, r.Steps[0].Candidates)
}

func TestEvaluateVisitsEveryPositionOnce(t *testing.T) {
	whole, _ := alphabetSession(t, 64, 64)
	parts, b := alphabetSession(t, 64, 5)
	tokens := greedy("thequickbrownfox", 0).Prompt
	collect := func(s *Session) (all []float32) {
		at := 6
		require.NoError(t, s.Evaluate(context.Background(), tokens, 6, func(pos int, logits []float32) error {
			assert.Equal(t, at, pos)
			at += len(logits) / s.NVocab()
			all = append(all, logits...)
			return nil
		}))
		assert.Equal(t, len(tokens), at)
		return all
	}
	assert.Equal(t, collect(whole), collect(parts))
	assert.Greater(t, len(b.calls), 3)
	assert.Error(t, parts.Evaluate(context.Background(), make([]int32, 65), 0, nil))
}
