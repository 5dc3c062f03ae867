package source

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// tinyMetadata describes a Llama of 1 layer with 32 columns, for tinyTensors.
func tinyMetadata(changes map[string]any) *gguf.Metadata {
	m := &gguf.Metadata{}
	for _, kv := range []struct {
		key   string
		value any
	}{
		{"general.architecture", "llama"}, {"general.name", "Tiny"},
		{"llama.embedding_length", uint32(32)}, {"llama.block_count", uint32(1)}, {"llama.attention.head_count", uint32(4)},
		{"llama.feed_forward_length", uint32(64)}, {"llama.context_length", uint32(128)},
		{"llama.attention.layer_norm_rms_epsilon", float32(1e-6)},
		{keyTokenizer, "gpt2"}, {keyPre, "qwen2"}, {keyTokens, []string{"a", "b", "ab"}}, {keyTypes, []int32{1, 1, 1}},
		{keyMerges, []string{"a b"}},
		{keyChatTemplate, "template"},
	} {
		m.Set(kv.key, kv.value)
	}
	for k, v := range changes {
		m.Set(k, v)
	}
	return m
}

func tinyTensors() []gguf.Tensor {
	return []gguf.Tensor{
		{Name: "output_norm.weight", Dims: []uint64{32}},
		{Name: model.TokenEmbd, Dims: []uint64{32, 8}, Type: gguf.Q4_1},
		{Name: "blk.0.attn_norm.weight", Dims: []uint64{32}},
		{Name: "blk.0.attn_q.weight", Dims: []uint64{32, 32}, Type: gguf.Q8_0},
		{Name: "blk.0.attn_k.weight", Dims: []uint64{32, 32}, Type: gguf.F16},
		{Name: "blk.0.attn_v.weight", Dims: []uint64{32, 32}, Type: gguf.BF16},
		{Name: "blk.0.attn_output.weight", Dims: []uint64{32, 32}, Type: gguf.Q4_0},
		{Name: "blk.0.ffn_norm.weight", Dims: []uint64{32}},
		{Name: "blk.0.ffn_gate.weight", Dims: []uint64{32, 64}, Type: gguf.Q8_0},
		{Name: "blk.0.ffn_up.weight", Dims: []uint64{32, 64}, Type: gguf.Q8_0},
		{Name: "blk.0.ffn_down.weight", Dims: []uint64{64, 32}, Type: gguf.Q8_0},
	}
}

// writeGGUF fills the tensors with the bytes 0, 1, … 99, 0, 1, …
func writeGGUF(t testing.TB, m *gguf.Metadata, tensors []gguf.Tensor) string {
	t.Helper()
	return writeGGUFAt(t, filepath.Join(t.TempDir(), "tiny.gguf"), m, tensors)
}

func writeGGUFAt(t testing.TB, path string, m *gguf.Metadata, tensors []gguf.Tensor) string {
	t.Helper()
	w, err := gguf.Create(path, m, tensors)
	require.NoError(t, err)
	defer w.Abort()
	for _, x := range tensors {
		n := uint64(1)
		for _, d := range x.Dims {
			n *= d
		}
		size, ok := x.Type.Bytes(n)
		require.True(t, ok)
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i % 100)
		}
		_, err := w.Write(b)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return path
}

func TestGGUFSource(t *testing.T) {
	path := writeGGUF(t, tinyMetadata(nil), tinyTensors())
	s := open(t, path)
	require.Equal(t, path, s.Path())
	c, err := s.Config()
	require.NoError(t, err)
	require.Equal(t, model.Config{Architecture: "llama", Name: "Tiny", NVocab: 8, NEmbd: 32, NLayers: 1, NHeads: 4, NKVHeads: 4,
		HeadDim: 8, NFF: 64, NCtx: 128,
		NormEps: 1e-6, RopeBase: 10000, RopeDim: 8}, *c)
	require.Equal(t, "template", s.ChatTemplate())
	tok, err := s.Tokenizer()
	require.NoError(t, err)
	require.Equal(t, []int32{2}, tok.Encode("ab", false, false))

	i, info := find(t, s, model.TokenEmbd)
	require.Equal(t, TensorInfo{Name: model.TokenEmbd, Rows: 8, Cols: 32, Type: "Q4_1", Layout: gguf.Q4_1.Layout()}, info)
	all := readAll(t, s, model.TokenEmbd)
	part := make([]float32, 64)
	require.NoError(t, s.ReadRows(i, 3, 5, part))
	require.Equal(t, all[3*32:5*32], part)
	var b Blocks
	require.NoError(t, s.ReadBlocks(i, 3, 5, &b))
	for k := range part {
		require.Equal(t, part[k], float32(gguf.F16ToFloat(b.D[k/32])*float32(b.Codes[k]))+gguf.F16ToFloat(b.DMin[k/32]))
	}
	require.Error(t, s.ReadBits16(i, 0, 1, make([]uint16, 32)))

	i, _ = find(t, s, "blk.0.attn_v.weight")
	bits := make([]uint16, 32)
	require.NoError(t, s.ReadBits16(i, 1, 2, bits))
	require.EqualValues(t, 64|65<<8, bits[0])
	require.Error(t, s.ReadBits16(i, 1, 3, bits))
	require.Error(t, s.ReadRows(i, 1, 3, part[:63]))
	require.Error(t, s.ReadRows(i, 31, 33, part))
	require.Error(t, s.ReadRows(99, 0, 1, part))
	require.Error(t, s.ReadBlocks(i, 0, 1, &b))

	text, err := s.GGUFMetadata()
	require.NoError(t, err)
	m, err := gguf.DecodeMetadata(text)
	require.NoError(t, err)
	require.NotContains(t, m.Keys(), keyTokens)
	require.NotContains(t, m.Keys(), keyMerges)
	require.Contains(t, m.Keys(), keyPre)
}

func TestGGUFSourceConcurrently(t *testing.T) {
	s := open(t, writeGGUF(t, tinyMetadata(nil), tinyTensors()))
	want := readAll(t, s, "blk.0.ffn_up.weight")
	i, _ := find(t, s, "blk.0.ffn_up.weight")
	var wg sync.WaitGroup
	for r := range 64 {
		wg.Go(func() {
			x := make([]float32, 32)
			if err := s.ReadRows(i, r, r+1, x); err != nil || x[31] != want[32*r+31] {
				t.Errorf("row %d: %v", r, err)
			}
		})
	}
	wg.Wait()
}

func TestGGUFConfigVariants(t *testing.T) {
	c, err := ggufConfig(tinyMetadata(map[string]any{
		"llama.attention.head_count_kv": uint64(2), "llama.attention.key_length": uint32(16),
		"llama.attention.value_length": uint32(16),
		"llama.rope.dimension_count":   uint32(8), "llama.rope.freq_base": float32(5e5), "llama.rope.scaling.type": "linear",
		"llama.rope.scaling.factor": float32(2),
	}), "llama", 8)
	require.NoError(t, err)
	require.Equal(t, []int{2, 16, 8}, []int{c.NKVHeads, c.HeadDim, c.RopeDim})
	require.Equal(t, []float32{5e5, 2}, []float32{c.RopeBase, c.RopeScale})
	c, err = ggufConfig(tinyMetadata(map[string]any{"llama.rope.scaling.type": "none",
		"llama.rope.scaling.factor": float32(2)}), "llama", 8)
	require.NoError(t, err)
	require.Zero(t, c.RopeScale)
	c, err = ggufConfig(tinyMetadata(map[string]any{"llama.rope.scale_linear": float32(3)}), "llama", 8)
	require.NoError(t, err)
	require.EqualValues(t, 3, c.RopeScale)
}

func TestGGUFErrors(t *testing.T) {
	change := func(i int, x gguf.Tensor) []gguf.Tensor {
		ts := tinyTensors()
		ts[i] = x
		return ts
	}
	for _, c := range []struct {
		want    string
		keys    map[string]any
		tensors []gguf.Tensor
	}{
		{`architecture "mamba": unsupported architecture: Mamba layers are not supported (known: llama, qwen2, qwen3`,
			map[string]any{"general.architecture": "mamba"}, tinyTensors()},
		{"is part 1 of 3 by its metadata, but not named", map[string]any{keySplitCount: uint16(3), keySplitNo: uint16(0)},
			tinyTensors()},
		{`"split.no" is missing`, map[string]any{keySplitCount: uint16(3)}, tinyTensors()},
		{"split.count is 65535", map[string]any{keySplitCount: uint16(65535)}, tinyTensors()},
		{"n_heads is 0", map[string]any{"llama.attention.head_count": uint32(0)}, tinyTensors()},
		{"n_layers is 4294967295", map[string]any{"llama.block_count": uint32(1<<32 - 1)}, tinyTensors()},
		{"array of 2 values", map[string]any{"llama.feed_forward_length": []int32{64, 63}}, tinyTensors()},
		{"mixtures of experts", map[string]any{"llama.expert_count": uint32(8)}, tinyTensors()},
		{"same as key_length", map[string]any{"llama.attention.value_length": uint32(4)}, tinyTensors()},
		{`"dynamic" is not supported`, map[string]any{"llama.rope.scaling.type": "dynamic"}, tinyTensors()},
		{"yarn needs", map[string]any{"llama.rope.scaling.type": "yarn"}, tinyTensors()},
		{"tensor blk.0.ffn_down.weight is missing", nil, tinyTensors()[:10]},
		{"n_vocab is 0", nil, change(1, gguf.Tensor{Name: "x", Dims: []uint64{1}})},
		{"blk.0.attn_q.bias does not belong", nil, append(tinyTensors(), gguf.Tensor{Name: "blk.0.attn_q.bias", Dims: []uint64{32}})},
		{"expected 32 of 32", nil, change(4, gguf.Tensor{Name: "blk.0.attn_k.weight", Dims: []uint64{32, 8}})},
		{"expected 1 of 32", nil, change(0, gguf.Tensor{Name: "output_norm.weight", Dims: []uint64{32, 1}})},
	} {
		path := writeGGUF(t, tinyMetadata(c.keys), c.tensors)
		_, err := Open(path)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, path)
	}
	s := open(t, writeGGUF(t, tinyMetadata(map[string]any{keyTokens: make([]string, 9), keyTypes: make([]int32, 0)}), tinyTensors()))
	_, err := s.Tokenizer()
	require.Error(t, err)
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for want, path := range map[string]string{
		"the file is empty":                      put("empty", ""),
		`is a text that begins with "hello"`:     put("text", "hello"),
		`begins with "\x01\x02\xff\x00"`:         put("binary", "\x01\x02\xff\x00"),
		"Git LFS pointer":                        put("lfs.gguf", "version https://git-lfs.github.com/spec/v1\noid sha256:"),
		"is a web page":                          put("page.gguf", "<!DOCTYPE html><html>"),
		"GGML file of before GGUF":               put("old.bin", "tjgg\x03\x00\x00\x00"),
		"looks like a safetensors file (name it": put("blob", "\x08\x00\x00\x00\x00\x00\x00\x00{\"a\": 1}"),
		"compressed already":                     put("x.ellm", "\x89ELLM\r\n\x1a"),
		"PyTorch checkpoint":                     put("x.bin", "PK\x03\x04...."),
		"name the model's directory":             put("index.json", "{}"),
		"the version needs":                      put("x.gguf", "GGUF"),
		"config.json: no such file":              put("x.safetensors", "12345678"),
		"no such file or directory":              filepath.Join(dir, "absent"),
		"is a device or pipe, expected":          os.DevNull,
	} {
		_, err := Open(path)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path[:4])
	}
	_, err := Open(dir)
	require.ErrorContains(t, err, "name one of its GGUF files") // now that there is one

	put("config.json", string(tinyConfig(nil)))
	_, err = Open(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "model.safetensors")
	require.ErrorContains(t, err, "save the model as safetensors")
	_, err = Open(filepath.Join(dir, "x.safetensors"))
	require.ErrorContains(t, err, "not a safetensors file")
}

func TestDirectoriesAreDescribed(t *testing.T) {
	for want, files := range map[string][]string{
		"is an empty directory": {},
		"is a LoRA adapter, not a model (name its base model, and this directory with --lora)": {adapterConfig, adapterWeights},
		"is a model of the diffusers library":                                                  {"model_index.json", "vae/config.json"},
		"in its author's own layout":                                                           {"params.json", "consolidated.00.pth"},
		"is a directory of .ellm files":                                                        {"x.ellm"},
		"has an ONNX model":                                                                    {"model.onnx"},
		"has safetensors files, but no config.json beside them":                                {"model.safetensors"},
		"has PyTorch checkpoints":                                                              {"pytorch_model.bin"},
		"did you mean ":                                                                        {"README.md", "model/config.json"},
		`(it has "1", "2", "3", "4", "5", …)`:                                                  {"1", "2", "3", "4", "5", "6"},
	} {
		dir := t.TempDir()
		for _, name := range files {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		}
		_, err := Open(dir)
		require.ErrorContains(t, err, dir+": ")
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "expected a .gguf file, or a directory with config.json")
	}
}

// A GGUF file that shrinks while it is read is an error with its name.
func TestShrinkingGGUFIsAnError(t *testing.T) {
	path := writeGGUF(t, tinyMetadata(nil), tinyTensors())
	s, err := Open(path)
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, os.Truncate(path, 0))
	for i, x := range s.Tensors() {
		require.ErrorContains(t, s.ReadRows(i, 0, x.Rows, make([]float32, x.Rows*x.Cols)), path)
	}
}
