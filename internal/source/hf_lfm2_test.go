package source

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func lfm2Config(t *testing.T, more string) (*hfConfig, string, int, error) {
	dir := t.TempDir()
	text := `{"model_type": "lfm2", "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
		"num_key_value_heads": 2, "max_position_embeddings": 512, "norm_eps": 1e-05` + more + `}`
	require.NoError(t, os.WriteFile(filepath.Join(dir, configName), []byte(text), 0o644))
	h, c, _, err := readHFConfig(dir)
	if err != nil {
		return nil, "", 0, err
	}
	require.InDelta(t, 1e-5, c.NormEps, 1e-12)
	require.Equal(t, 3, c.ConvKernel)
	return h, c.Layers, c.NFF, nil
}

// LFM2's configuration has had several forms: layers by index or by type, the width of the feed-forward network as it is or
// before an adjustment.
func TestHFConfigurationOfLFM2(t *testing.T) {
	for more, want := range map[string]struct {
		layers string
		ff     int
		tied   bool
	}{
		`, "full_attn_idxs": [2], "block_ff_dim": 12288, "conv_L_cache": 3`:             {"ccac", 8192, true},
		`, "full_attn_idxs": [1, 3], "intermediate_size": 100, "block_multiple_of": 16`: {"caca", 80, true},
		`, "layer_types": ["conv", "full_attention", "conv", "conv"], "intermediate_size": 96, "block_auto_adjust_ff_dim": false`: {
			"cacc", 96, true},
		`, "intermediate_size": 96, "block_auto_adjust_ff_dim": false, "tie_embedding": false`:       {"", 96, false},
		`, "intermediate_size": 96, "block_auto_adjust_ff_dim": false, "tie_word_embeddings": false`: {"", 96, false},
		`, "full_attn_idxs": [0], "intermediate_size": 96, "block_ffn_dim_multiplier": 1.5, "block_multiple_of": 32`: {
			"accc", 96, true},
	} {
		h, layers, ff, err := lfm2Config(t, more)
		require.NoError(t, err, more)
		require.Equal(t, want.layers, layers, more)
		require.Equal(t, want.ff, ff, more)
		require.Equal(t, want.tied, h.Tied, more)
	}
	for more, want := range map[string]string{
		`, "intermediate_size": 96, "conv_bias": true`:                                "conv_bias",
		`, "intermediate_size": 96, "block_multiple_of": 0`:                           "block_multiple_of is 0",
		`, "intermediate_size": 96, "layer_types": ["conv", "mamba", "conv", "conv"]`: "layer 1 is of type \"mamba\"",
		`, "intermediate_size": 96, "layer_types": ["conv", "full_attention"]`:        "layers lists 2 layers",
		`, "intermediate_size": 96, "full_attn_idxs": [1], "conv_L_cache": 40`:        "conv_kernel is 40",
	} {
		_, _, _, err := lfm2Config(t, more)
		require.ErrorContains(t, err, want, more)
	}
}
