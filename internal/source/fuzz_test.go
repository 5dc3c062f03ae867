package source

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// headerOf returns the header of a safetensors file of tensors, and how many bytes of data it describes.
func headerOf(f *testing.F, tensors map[string]tensorValues) (string, int) {
	f.Helper()
	sizes := map[string]int{"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "F8_E4M3": 1, "I8": 1}
	header, end := map[string]any{}, 0
	for name, v := range tensors {
		start := end
		end += sizes[v.dtype] * v.len()
		header[name] = map[string]any{"dtype": v.dtype, "shape": v.shape, "data_offsets": []int{start, end}}
	}
	b, err := json.Marshal(header)
	require.NoError(f, err)
	return string(b), end
}

// FuzzDirectory opens Hugging Face directories of arbitrary files, and reads everything of what is accepted.
func FuzzDirectory(f *testing.F) {
	dir, err := os.MkdirTemp("/dev/shm", "ellm-fuzz-") // in memory, where the system has such a place
	if err != nil {
		dir = f.TempDir()
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	header, size := headerOf(f, tiny(false))
	data := make([]byte, 2*size)
	tokens := `{"eos_token":"a","chat_template":"{{ messages[0].content }}"}`
	index := `{"weight_map":{"model.norm.weight":"1.safetensors"}}`
	f.Add(string(tinyConfig(nil)), header, tokenizerJSON, tokens, index, uint16(size), false)
	f.Add(string(tinyConfig(map[string]any{"model_type": "qwen2", "eos_token_id": []int{1, 2}, "rope_scaling": map[string]any{
		"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}})), header, tokenizerJSON, tokens, index,
		uint16(size), true)
	f.Add(string(tinyConfig(map[string]any{"model_type": "gemma3_text", "tie_word_embeddings": true, "sliding_window": 8,
		"layer_types": []string{"sliding_attention", "full_attention"}, "query_pre_attn_scalar": 4})), header, tokenizerJSON, tokens,
		index, uint16(size), false)
	f.Add(string(tinyConfig(map[string]any{"quantization_config": map[string]any{"quant_method": "gptq", "bits": 4,
		"group_size": 2}})), header, tokenizerJSON, tokens, index, uint16(size), false)
	small := tiny(false)
	for name, v := range small {
		if base, weight := strings.CutSuffix(name, "_proj.weight"); weight {
			v.dtype = "F8_E4M3"
			small[name] = v
			small[base+"_proj.weight_scale_inv"] = tensorValues{"F32", []int{(v.shape[0] + 3) / 4, (v.shape[1] + 3) / 4}, 1}
		}
	}
	header, size = headerOf(f, small)
	f.Add(string(tinyConfig(map[string]any{"quantization_config": map[string]any{"quant_method": "fp8",
		"weight_block_size": []int{4, 4}}})), header, tokenizerJSON, tokens, index, uint16(size), false)
	f.Fuzz(func(t *testing.T, config, header, tokenizer, tokens, index string, n uint16, sharded bool) {
		weights := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
		weights = append(weights, data[:min(int(n), len(data))]...)
		name := "model.safetensors"
		if sharded {
			name = "1.safetensors"
		}
		for file, b := range map[string][]byte{configName: []byte(config), "tokenizer.json": []byte(tokenizer),
			"tokenizer_config.json": []byte(tokens), "model.safetensors.index.json": []byte(index), name: weights} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, file), b, 0o600))
		}
		defer os.Remove(filepath.Join(dir, name))
		m, err := Open(dir)
		if err != nil {
			return
		}
		defer m.Close()
		readModel(m)
	})
}

// FuzzGGUF opens GGUF files of arbitrary headers before 64 KiB of data, and reads everything of what is accepted.
func FuzzGGUF(f *testing.F) {
	dir, err := os.MkdirTemp("/dev/shm", "ellm-fuzz-") // in memory, where the system has such a place
	if err != nil {
		dir = f.TempDir()
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	for _, changes := range []map[string]any{nil, {"llama.attention.head_count_kv": []int32{2}, "llama.rope.freq_base": float32(5e5),
		keyScores: []float32{0, -1, -2}}} {
		path := filepath.Join(dir, "seed.gguf")
		writeGGUFAt(f, path, tinyMetadata(changes), tinyTensors())
		b, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(b[:bytes.Index(b, []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})])
	}
	data := make([]byte, 64<<10)
	path := filepath.Join(dir, "fuzzed.gguf")
	f.Fuzz(func(t *testing.T, header []byte) {
		require.NoError(t, os.WriteFile(path, append(bytes.Clone(header), data...), 0o600))
		m, err := Open(path)
		if err != nil {
			return
		}
		defer m.Close()
		readModel(m)
	})
}

// readModel reads everything that m has, as far as it can be read.
func readModel(m Model) {
	_, _ = m.Config()
	_, _ = m.Tokenizer()
	_, _ = m.Ends()
	_, _ = m.GGUFMetadata()
	m.ChatTemplate()
	m.Warnings()
	var blocks Blocks
	for i, x := range m.Tensors() {
		_ = m.ReadRows(i, 0, x.Rows, make([]float32, x.Rows*x.Cols))
		if x.Layout != nil {
			_ = m.ReadBlocks(i, 0, x.Rows, &blocks)
		} else {
			_ = m.ReadBits16(i, 0, x.Rows, make([]uint16, x.Rows*x.Cols))
		}
	}
}
