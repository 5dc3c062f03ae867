package testmodel_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/eval"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

const nCtx = 512

// run is one way from a file of weights to logits that must end at the reference's.
type run struct {
	file   written
	scheme convert.Scheme
	plan   engine.Plan
}

func (r run) String() string { return fmt.Sprintf("%s, %s, %s", r.file.name, r.scheme, r.plan) }

// runs pairs every lossless file with one scheme and plan, so that all of them occur for both architectures.
func runs() []run {
	var all []run
	schemes := []convert.Scheme{convert.SchemeBF16, convert.SchemeLossless}
	plans := []engine.Plan{engine.PlanResident, engine.PlanFused}
	for i, w := range lossless() {
		all = append(all, run{w, schemes[i%2], plans[i%2]}, run{w, schemes[1-i%2], plans[i%2]})
	}
	return all
}

// session compresses the file and loads the result on the CPU.
func (r run) session(t *testing.T) *engine.Session {
	t.Helper()
	f := r.container(t)
	b := cpu.New()
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	s, err := engine.NewSession(context.Background(), f, b, engine.LoadOptions{Plan: r.plan, NCtx: nCtx, Threads: 2})
	require.NoError(t, err, r)
	return s
}

func (r run) container(t *testing.T) *format.Reader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.ellm")
	_, err := convert.Compress(context.Background(), r.file.open(t), path, convert.Options{Scheme: r.scheme}, nil)
	require.NoError(t, err, r)
	f, err := format.Open(path)
	require.NoError(t, err, r)
	t.Cleanup(func() { assert.NoError(t, f.Close()) })
	return f
}

func (r run) reference(t *testing.T) testmodel.Reference {
	g := goldens(t)
	return map[string]testmodel.Reference{"llama": g.Llama, "qwen2": g.Qwen2}[r.file.arch]
}

// Logits agree to float32 rounding: they are of the order of 10, and three layers of sums of at most 352 terms lie behind them.
const logitTolerance = 2e-3

func TestLogitsAgreeWithTransformers(t *testing.T) {
	for _, r := range runs() {
		s, ref := r.session(t), r.reference(t)
		for _, p := range append(ref.Prompts, ref.Chat...) {
			seen := 0
			err := s.Evaluate(context.Background(), p.Tokens, 0, func(first int, logits []float32) error {
				for _, want := range p.Logits {
					row := logits[(want.Position-first)*s.NVocab():][:s.NVocab()]
					best, err := sample.Argmax(row)
					require.NoError(t, err)
					assert.Equal(t, want.Argmax, best, "%s: %q at %d", r, p.Text, want.Position)
					assert.InDeltaSlice(t, want.First, row[:len(want.First)], logitTolerance, "%s: %q at %d", r, p.Text, want.Position)
					seen++
				}
				return nil
			})
			require.NoError(t, err, r)
			assert.Len(t, p.Logits, seen)
		}
	}
}

func TestGreedyTextAgreesWithTransformers(t *testing.T) {
	for _, r := range runs() {
		s, ref := r.session(t), r.reference(t)
		for _, p := range ref.Prompts {
			assert.Equal(t, p.Tokens, s.Tokenizer().Encode(p.Text, true, false), "%s: %q", r, p.Text)
			res, err := s.Generate(context.Background(), engine.Request{Prompt: p.Tokens, MaxTokens: len(p.Greedy), Sampler: sample.New(sample.Options{})})
			require.NoError(t, err, r)
			assert.Equal(t, p.Greedy, res.Tokens, "%s: %q", r, p.Text)
			assert.Equal(t, p.Output, res.Text, "%s: %q", r, p.Text)
		}
	}
}

func TestChatAgreesWithTransformers(t *testing.T) {
	for _, r := range runs() {
		s, ref := r.session(t), r.reference(t)
		template, err := chat.New(r.container(t).Meta().ChatTemplate, "<|endoftext|>", "<|im_end|>")
		require.NoError(t, err, r)
		for _, p := range ref.Chat {
			text, err := template.Render([]chat.Message{{Role: "user", Content: p.Message}}, true)
			require.NoError(t, err, r)
			assert.Equal(t, p.Text, text, r)
			assert.Equal(t, p.Tokens, s.Tokenizer().Encode(text, true, true), r)
			res, err := s.Generate(context.Background(), engine.Request{Prompt: p.Tokens, MaxTokens: 64, Sampler: sample.New(sample.Options{})})
			require.NoError(t, err, r)
			assert.Equal(t, engine.StopEnd, res.StopReason, "%s: %q", r, res.Text)
			assert.Equal(t, p.Greedy[:len(p.Greedy)-1], res.Tokens, r)
			assert.Equal(t, p.Output, res.Text, r)
		}
	}
}

func TestPerplexityAgreesWithTransformers(t *testing.T) {
	for _, r := range runs() {
		s := r.session(t)
		tokens := s.Tokenizer().Encode(testmodel.HeldOut(), true, false)
		for _, want := range r.reference(t).Perplexity {
			got, err := eval.Perplexity(context.Background(), s, tokens, eval.PerplexityOptions{NCtx: want.NCtx})
			require.NoError(t, err, r)
			assert.Equal(t, want.Chunks, got.Chunks, r)
			assert.InEpsilon(t, want.Value, got.Perplexity, 1e-4, "%s, context %d", r, want.NCtx)
		}
	}
}
