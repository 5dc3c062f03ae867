package testmodel

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
)

func open(t *testing.T, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.Close()) })
	return f
}

func values(t *testing.T, f *gguf.File, tensor *gguf.Tensor) []float32 {
	t.Helper()
	raw, err := f.Rows(tensor, 0, tensor.Rows())
	require.NoError(t, err)
	x := make([]float32, tensor.Rows()*tensor.Cols())
	require.NoError(t, gguf.Dequantize(tensor.Type, raw, x))
	return x
}

func TestModelStaysSmall(t *testing.T) {
	assert.Less(t, len(embedded)+len(heldOut)+len(golden), 2_000_000)
}

func TestGoldensAreUsable(t *testing.T) {
	g, err := Goldens()
	require.NoError(t, err)
	for name, ref := range map[string]Reference{"llama": g.Llama, "qwen2": g.Qwen2} {
		require.NotEmpty(t, ref.Prompts, name)
		require.NotEmpty(t, ref.Chat, name)
		require.Len(t, ref.Perplexity, 2, name)
		for _, p := range ref.Prompts {
			assert.Len(t, p.Greedy, 64, p.Text)
			assert.Greater(t, p.MinGap, float32(0.05), p.Text)
		}
		for _, p := range ref.Perplexity {
			assert.Less(t, p.Value, g.UnigramPerplexity/4, "%s, context %d", name, p.NCtx)
		}
	}
}

// Every weight is representable in all three types, so lossless variants hold equal values.
func TestLosslessVariantsHoldEqualWeights(t *testing.T) {
	for _, arch := range []string{"llama", "qwen2"} {
		var want *gguf.File
		for _, typ := range []string{"F16", "BF16", "F32"} {
			path, err := WriteGGUF(t.TempDir(), Variant{Arch: arch, Type: typ})
			require.NoError(t, err)
			f := open(t, path)
			if want == nil {
				want = f
				continue
			}
			require.Len(t, f.Tensors, len(want.Tensors))
			for i := range f.Tensors {
				require.Equal(t, want.Tensors[i].Name, f.Tensors[i].Name)
				require.Equal(t, values(t, want, &want.Tensors[i]), values(t, f, &f.Tensors[i]), "%s %s %s", arch, typ, f.Tensors[i].Name)
			}
		}
	}
}

func TestZeroVariantEqualsTheEmbeddedFile(t *testing.T) {
	path, err := WriteGGUF(t.TempDir(), Variant{})
	require.NoError(t, err)
	want, got := open(t, Path(t)), open(t, path)
	assert.Equal(t, want.Keys(), got.Keys())
	require.Len(t, got.Tensors, len(want.Tensors))
	for i := range got.Tensors {
		assert.Equal(t, want.Tensors[i].Dims, got.Tensors[i].Dims)
		assert.Equal(t, want.Tensors[i].Type, got.Tensors[i].Type)
		assert.Equal(t, values(t, want, &want.Tensors[i]), values(t, got, &got.Tensors[i]))
	}
}

func TestQwen2AddsBiasesAndReordersRows(t *testing.T) {
	path, err := WriteGGUF(t.TempDir(), Variant{Arch: "qwen2"})
	require.NoError(t, err)
	llama, qwen2 := open(t, Path(t)), open(t, path)
	byName := map[string][]float32{}
	for i := range qwen2.Tensors {
		byName[qwen2.Tensors[i].Name] = values(t, qwen2, &qwen2.Tensors[i])
	}
	const headDim, layers = 32, 3
	assert.Len(t, byName, len(llama.Tensors)+3*layers)
	assert.Len(t, byName["blk.2.attn_k.bias"], 64)
	for i := range llama.Tensors {
		tensor := &llama.Tensors[i]
		old, now := values(t, llama, tensor), byName[tensor.Name]
		if tensor.Name != "blk.1.attn_q.weight" {
			continue
		}
		n := tensor.Cols()
		row := func(x []float32, r int) []float32 { return x[r*n : (r+1)*n] }
		assert.Equal(t, row(old, headDim+2), row(now, headDim+1), "second head: even rows come first")
		assert.Equal(t, row(old, headDim+1), row(now, headDim+headDim/2))
	}
}

func TestQuantizedVariantsStayClose(t *testing.T) {
	want := open(t, Path(t))
	for typ, tolerance := range map[string]float64{"Q8_0": 1.0 / 127, "Q4_1": 2.0 / 15} {
		path, err := WriteGGUF(t.TempDir(), Variant{Type: typ})
		require.NoError(t, err)
		f := open(t, path)
		for i := range f.Tensors {
			x, y := values(t, want, &want.Tensors[i]), values(t, f, &f.Tensors[i])
			var most float64
			for _, v := range x {
				most = max(most, float64(v), -float64(v))
			}
			require.InDeltaSlice(t, x, y, most*tolerance, "%s %s", typ, f.Tensors[i].Name)
		}
	}
}

func TestUnknownVariantsAreErrors(t *testing.T) {
	_, err := WriteGGUF(t.TempDir(), Variant{Arch: "gpt2"})
	assert.ErrorContains(t, err, "gpt2")
	_, err = WriteGGUF(t.TempDir(), Variant{Type: "Q2_K"})
	assert.ErrorContains(t, err, "Q2_K")
	_, err = WriteHF(t.TempDir(), Variant{Type: "Q8_0"})
	assert.ErrorContains(t, err, "Q8_0")
}

func TestShardsHaveAnIndex(t *testing.T) {
	dir, err := WriteHF(t.TempDir(), Variant{Shards: 3})
	require.NoError(t, err)
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json",
		"model-00003-of-00003.safetensors"} {
		_, err := os.Stat(dir + "/" + name)
		assert.NoError(t, err)
	}
}
