package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// written is a variant of the test model as some file.
type written struct {
	name    string
	arch    string
	variant testmodel.Variant
	write   func(dir string, v testmodel.Variant) (string, error)
}

// lossless lists files that all hold the same weights, per architecture; the first of each is the reference.
func lossless() []written {
	return []written{
		{"llama GGUF F16", "llama", testmodel.Variant{}, testmodel.WriteGGUF},
		{"llama GGUF BF16", "llama", testmodel.Variant{Type: "BF16"}, testmodel.WriteGGUF},
		{"llama folder BF16", "llama", testmodel.Variant{}, testmodel.WriteHF},
		{"llama folder F16, 3 shards", "llama", testmodel.Variant{Type: "F16", Shards: 3}, testmodel.WriteHF},
		{"llama folder F32", "llama", testmodel.Variant{Type: "F32"}, testmodel.WriteHF},
		{"qwen2 GGUF F16", "qwen2", testmodel.Variant{Arch: "qwen2"}, testmodel.WriteGGUF},
		{"qwen2 folder BF16, 2 shards", "qwen2", testmodel.Variant{Arch: "qwen2", Shards: 2}, testmodel.WriteHF},
	}
}

func (w written) open(t *testing.T) source.Model {
	t.Helper()
	path, err := w.write(t.TempDir(), w.variant)
	require.NoError(t, err)
	src, err := source.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, src.Close()) })
	return src
}

func goldens(t *testing.T) *testmodel.Golden {
	t.Helper()
	g, err := testmodel.Goldens()
	require.NoError(t, err)
	return g
}

func TestTokenizersAgreeWithHuggingFace(t *testing.T) {
	g := goldens(t)
	for _, w := range lossless() {
		tok, err := w.open(t).Tokenizer()
		require.NoError(t, err, w.name)
		texts := g.Texts
		for _, p := range append(g.Llama.Prompts, g.Llama.Chat...) {
			texts = append(texts, testmodel.Text{Text: p.Text, Tokens: p.Tokens})
			assert.Equal(t, p.Output, tok.Decode(p.Greedy), w.name)
		}
		for _, text := range texts {
			assert.Equal(t, text.Tokens, append([]int32{}, tok.Encode(text.Text, true, true)...), "%s: %q", w.name, text.Text)
		}
		assert.Len(t, tok.Encode(testmodel.HeldOut(), true, false), g.HeldOutTokens, w.name)
		assert.Equal(t, testmodel.HeldOut(), tok.Decode(tok.Encode(testmodel.HeldOut(), false, false)), w.name)
	}
}

// tensors returns all tensors of a source by name.
func tensors(t *testing.T, src source.Model) map[string][]float32 {
	t.Helper()
	all := map[string][]float32{}
	for i, info := range src.Tensors() {
		x := make([]float32, info.Rows*info.Cols)
		require.NoError(t, src.ReadRows(i, 0, info.Rows, x), info.Name)
		all[info.Name] = x
	}
	return all
}

func TestSourcesAgree(t *testing.T) {
	reference := map[string]source.Model{}
	for _, w := range lossless() {
		src := w.open(t)
		ref, ok := reference[w.arch]
		if !ok {
			reference[w.arch] = src
			continue
		}
		want, got := tensors(t, ref), tensors(t, src)
		require.Len(t, got, len(want), w.name)
		for name := range want {
			assert.Equal(t, want[name], got[name], "%s: %s", w.name, name)
		}
		wantConfig, err := ref.Config()
		require.NoError(t, err)
		config, err := src.Config()
		require.NoError(t, err, w.name)
		config.Name = wantConfig.Name
		assert.Equal(t, wantConfig, config, w.name)
		assert.Equal(t, ref.ChatTemplate(), src.ChatTemplate(), w.name)
	}
}
