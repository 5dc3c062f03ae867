package source

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// vocabulary returns the metadata of a small vocabulary with changes; nil removes a key.
func vocabularyWith(model string, changes map[string]any) *gguf.Metadata {
	v := tokenizer.GGUFVocab{Model: model, Pre: "gpt-2", Tokens: []string{"a", "b", "ab", "<end>"}, Scores: []float32{0, -1, -2, 0},
		Types: []int32{1, 1, 1, 3}, Merges: []string{"a b"}, BOS: 3, EOS: 3, UNK: -1, PAD: -1, EOT: -1}
	m := &gguf.Metadata{}
	SetVocabulary(m, v)
	return m.Filter(func(key string) bool { v, ok := changes[key]; return !ok || v != nil }).With(changes)
}

// Numbers mean the same whatever their type is.
func TestGGUFNumbersOfAnyType(t *testing.T) {
	for _, scores := range []any{[]int32{0, -1, -2, 0}, []int64{0, -1, -2, 0}, []float64{0, -1, -2, 0}, []int8{0, -1, -2, 0}} {
		v, err := readVocab(vocabularyWith("llama", map[string]any{keyScores: scores, keyTypes: []uint8{1, 1, 1, 3},
			keyAddBOS: uint8(1)}), nil)
		require.NoError(t, err)
		require.Equal(t, []float32{0, -1, -2, 0}, v.Scores)
		require.Equal(t, []int32{1, 1, 1, 3}, v.Types)
		require.True(t, v.AddBOS)
	}
	m := &gguf.Metadata{}
	m.Set("same", []uint32{7, 7, 7})
	m.Set("mixed", []uint32{7, 8})
	m.Set("whole", float32(12))
	m.Set("broken", float32(12.5))
	m.Set("integer", int16(3))
	m.Set("two", uint8(2))
	for key, want := range map[string]int{"same": 7, "whole": 12, "integer": 3} {
		n, err := m.Int(key)
		require.NoError(t, err)
		require.Equal(t, want, n)
		x, err := m.Float(key)
		require.NoError(t, err)
		require.Equal(t, float64(want), x)
	}
	for _, key := range []string{"mixed", "broken"} {
		_, err := m.Int(key)
		require.ErrorContains(t, err, key)
	}
	_, err := m.Bool("two")
	require.Error(t, err)
}

// An id that no token has is an error where it is needed, and else a warning.
func TestUnusableSpecialTokens(t *testing.T) {
	for _, x := range []struct {
		key      string
		id       any
		bos      bool
		fails    bool
		warnings int
	}{
		{"tokenizer.ggml.padding_token_id", uint32(1<<32 - 1), false, false, 0},
		{"tokenizer.ggml.padding_token_id", uint32(4), false, false, 1},
		{"tokenizer.ggml.eot_token_id", int32(-7), false, false, 1},
		{"tokenizer.ggml.bos_token_id", uint32(4), false, false, 1},
		{"tokenizer.ggml.bos_token_id", uint32(4), true, true, 0},
		{"tokenizer.ggml.eos_token_id", uint32(4), false, true, 0},
		{"tokenizer.ggml.eos_token_id", uint32(1<<32 - 1), false, false, 0},
	} {
		var warnings []string
		v, err := readVocab(vocabularyWith("gpt2", map[string]any{x.key: x.id, keyAddBOS: x.bos}),
			func(w string) { warnings = append(warnings, w) })
		require.Equal(t, x.fails, err != nil, "%s %v: %v", x.key, x.id, err)
		require.Len(t, warnings, x.warnings, "%s %v", x.key, x.id)
		if err == nil {
			require.EqualValues(t, -1, *specialKeys(&v)[x.key])
		}
	}
}

func TestEndsOfGGUF(t *testing.T) {
	m := vocabularyWith("gpt2", map[string]any{"tokenizer.ggml.eom_token_id": uint32(1), keyEnds: []int32{3, 2},
		"tokenizer.ggml.fim_pad_token_id": uint32(9)})
	require.ElementsMatch(t, []int32{3, 2, 3, 1, 9}, ggufEnds(m))
	v, err := readVocab(m, nil)
	require.NoError(t, err)
	tok, err := tokenizer.FromGGUF(v)
	require.NoError(t, err)
	require.ElementsMatch(t, []int32{2, 1}, furtherEnds(tok, ggufEnds(m)), "3 is known, 9 is not a token")
}

// writeJSON stores a value in a directory.
func writeJSON(t *testing.T, dir, name string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
}

// Ids of ends stand in generation_config.json or else in config.json, as a number or a list.
func TestEndsOfHuggingFace(t *testing.T) {
	for _, x := range []struct {
		config, generation any
		want               []int32
		warnings           int
	}{
		{nil, nil, nil, 0},
		{1, nil, []int32{1}, 0},
		{[]int{1, 2}, nil, []int32{1, 2}, 0},
		{1, 2, []int32{2}, 0},
		{1, []int{2, 1, 2, 999}, []int32{2, 1}, 1},
	} {
		changes := map[string]any{}
		if x.config != nil {
			changes["eos_token_id"] = x.config
		}
		dir := hfDir(t, changes, tiny(false))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(tokenizerJSON), 0o600))
		if x.generation != nil {
			writeJSON(t, dir, "generation_config.json", map[string]any{"eos_token_id": x.generation})
		}
		s := open(t, dir)
		ends, err := s.Ends()
		require.NoError(t, err)
		require.Equal(t, x.want, ends)
		require.Len(t, s.Warnings(), x.warnings)
	}
}

func TestSpecialTokensMapFillsGaps(t *testing.T) {
	dir := t.TempDir()
	s := &hfSource{dir: dir}
	config := []byte(`{"eos_token":"</s>","pad_token":null,"x":1}`)
	same, err := s.withSpecials(config)
	require.NoError(t, err)
	require.Equal(t, config, same)
	writeJSON(t, dir, "special_tokens_map.json",
		map[string]any{"eos_token": "<other>", "bos_token": map[string]any{"content": "<s>"}, "pad_token": "<pad>"})
	merged, err := s.withSpecials(config)
	require.NoError(t, err)
	require.JSONEq(t, `{"eos_token":"</s>","bos_token":{"content":"<s>"},"pad_token":"<pad>","x":1}`, string(merged))
}

func TestDefaultsOfAbsentNumbers(t *testing.T) {
	for _, eps := range []any{nil, 1e-6} {
		dir := hfDir(t, map[string]any{"rms_norm_eps": eps}, tiny(false))
		c, err := open(t, dir).Config()
		require.NoError(t, err)
		require.Equal(t, float32(1e-6), c.NormEps)
	}
}
