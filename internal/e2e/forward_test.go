package e2e_test

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/chat"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/eval"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
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

// runs takes every lossless file once (those of qwen2, of which there are two, twice), so that each pair of scheme and plan
// occurs for both architectures.
func runs() []run {
	pairs := []run{
		{scheme: convert.SchemeBF16, plan: engine.PlanResident}, {scheme: convert.SchemeLossless, plan: engine.PlanFused},
		{scheme: convert.SchemeLossless, plan: engine.PlanResident}, {scheme: convert.SchemeBF16, plan: engine.PlanFused},
	}
	var all []run
	used := map[string]int{}
	for _, w := range lossless() {
		for range map[string]int{"llama": 1, "qwen2": 2}[w.arch] {
			r := pairs[used[w.arch]%len(pairs)]
			r.file = w
			used[w.arch]++
			all = append(all, r)
		}
	}
	return all
}

// session compresses the file and loads the result on the CPU.
func (r run) session(t *testing.T) *engine.Engine {
	t.Helper()
	f := r.container(t)
	b := cpu.New()
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	s, err := engine.New(context.Background(), f, b, engine.LoadOptions{Plan: r.plan, NCtx: nCtx, Threads: 2})
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

// The reference keeps keys and values in float32, the backend in float16 (relative error 2⁻¹¹), which moves logits by up to
// 0.005. A reference with rounded keys and values agrees to 1e-5, but where a value is so near the middle of two float16 numbers
// that the order of a sum decides.
const logitTolerance = 0.008

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
			res, err := s.Generate(context.Background(), engine.Request{Prompt: p.Tokens, MaxTokens: len(p.Greedy),
				Sampler: sample.New(sample.Options{})})
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
			text, err := template.Render(context.Background(),
				chat.Conversation{Messages: []chat.Message{{Role: "user", Content: p.Message}}, GenerationPrompt: true})
			require.NoError(t, err, r)
			assert.Equal(t, p.Text, text, r)
			assert.Equal(t, p.Tokens, s.Tokenizer().Encode(text, true, true), r)
			res, err := s.Generate(context.Background(), engine.Request{Prompt: p.Tokens, MaxTokens: 64,
				Sampler: sample.New(sample.Options{})})
			require.NoError(t, err, r)
			assert.Equal(t, engine.StopEnd, res.StopReason, "%s: %q", r, res.Text)
			assert.Equal(t, p.Greedy[:len(p.Greedy)-1], res.Tokens, r)
			assert.Equal(t, p.Output, res.Text, r)
		}
	}
}

func TestPerplexityAgreesWithTransformers(t *testing.T) {
	for i, r := range []run{
		{lossless()[0], convert.SchemeBF16, engine.PlanFused},
		{lossless()[5], convert.SchemeLossless, engine.PlanResident},
	} {
		s, want := r.session(t), r.reference(t).Perplexity[i]
		tokens := s.Tokenizer().Encode(testmodel.HeldOut(), true, false)
		got, err := eval.Perplexity(context.Background(), s, tokens, eval.PerplexityOptions{NCtx: want.NCtx})
		require.NoError(t, err, r)
		assert.Equal(t, want.Chunks, got.Chunks, r)
		assert.InEpsilon(t, want.Value, got.Perplexity, 1e-4, "%s, context %d", r, want.NCtx)
	}
}

// dequantized stores the weights of a GGUF file as F32, with the arithmetic of ggml's reference.
func dequantized(t *testing.T, path string) string {
	t.Helper()
	in, err := gguf.Open(path)
	require.NoError(t, err)
	defer func() { assert.NoError(t, in.Close()) }()
	tensors := slices.Clone(in.Tensors)
	for i := range tensors {
		tensors[i].Type = gguf.F32
	}
	path = filepath.Join(t.TempDir(), "dequantized.gguf")
	out, err := gguf.Create(path, &in.Metadata, tensors)
	require.NoError(t, err)
	defer out.Abort()
	for i := range in.Tensors {
		tensor := &in.Tensors[i]
		raw, err := in.Rows(tensor, 0, tensor.Rows())
		require.NoError(t, err)
		x := make([]float32, tensor.Rows()*tensor.Cols())
		require.NoError(t, gguf.Dequantize(tensor.Type, raw, x))
		require.NoError(t, out.WriteFloats(x))
	}
	require.NoError(t, out.Close())
	return path
}

// Blocks of integers imported without loss compute what their weights as floats compute.
func TestQuantizedFilesComputeWhatTheirWeightsSay(t *testing.T) {
	prompt := goldens(t).Llama.Prompts[3].Tokens
	for _, typ := range []string{"Q8_0", "Q4_1"} {
		for _, plan := range []engine.Plan{engine.PlanResident, engine.PlanFused} {
			integers := written{typ, "llama", testmodel.Variant{Type: typ}, testmodel.WriteGGUF}
			floats := integers
			floats.write = func(dir string, v testmodel.Variant) (string, error) {
				path, err := testmodel.WriteGGUF(dir, v)
				require.NoError(t, err)
				return dequantized(t, path), nil
			}
			logits := func(w written) (all []float32) {
				s := run{w, convert.SchemeLossless, plan}.session(t)
				require.NoError(t, s.Evaluate(context.Background(), prompt, 0, func(_ int, logits []float32) error {
					all = append(all, logits...)
					return nil
				}))
				return all
			}
			want, got := logits(floats), logits(integers)
			require.Len(t, got, len(want))
			var worst float64
			for i := range want {
				worst = max(worst, math.Abs(float64(want[i]-got[i])))
			}
			t.Logf("%s %s %g", typ, plan, worst)
			assert.Less(t, worst, logitTolerance, "%s, %s", typ, plan)
		}
	}
}
