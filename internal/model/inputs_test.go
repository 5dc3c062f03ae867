package model

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func inputsOf(t *testing.T, arch string, tied bool) []Input {
	t.Helper()
	cfg := &Config{Architecture: arch, NVocab: 100, NEmbd: 24, NLayers: 2, NHeads: 6, NKVHeads: 2, HeadDim: 4, NFF: 40,
		NCtx: 64, NormEps: 1e-5, RopeBase: 1e4, RopeDim: 4}
	p, err := Build(cfg, func(name string) bool {
		return name != RopeFreqs && (arch == "qwen2" || !strings.HasSuffix(name, ".bias")) && (name != Output || !tied)
	})
	require.NoError(t, err)
	return p.Inputs()
}

func TestInputs(t *testing.T) {
	in := inputsOf(t, "qwen2", false)
	require.Len(t, in, 2*4+1)
	require.Equal(t, []string{"blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight"}, in[4].Weights)
	require.Equal(t, []string{"blk.1.attn_norm.weight"}, in[4].Scaled)
	require.Equal(t, []string{"blk.1.attn_output.weight"}, in[5].Weights)
	require.Equal(t, []string{"blk.1.attn_v.weight", "blk.1.attn_v.bias"}, in[5].Scaled)
	require.Equal(t, []string{"blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"}, in[6].Weights)
	require.Equal(t, []string{"blk.1.ffn_norm.weight"}, in[6].Scaled)
	require.Equal(t, []string{"blk.1.ffn_down.weight"}, in[7].Weights)
	require.Equal(t, []string{"blk.1.ffn_up.weight"}, in[7].Scaled)
	require.Equal(t, []string{"blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"}, in[7].Ordered)
	require.Empty(t, in[6].Ordered)
	require.Equal(t, 40, in[7].Width)
	require.Equal(t, []string{"output.weight"}, in[8].Weights)
	require.Equal(t, []string{"output_norm.weight"}, in[8].Scaled)

	// Heads 0–2 read the values of key/value head 0, heads 3–5 those of head 1.
	rows := make([]int, 24)
	for i := range rows {
		rows[i] = in[5].Row(i)
	}
	require.Equal(t, []int{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7}, rows)
	require.Equal(t, 17, in[4].Row(17))
}

func TestInputsTied(t *testing.T) {
	in := inputsOf(t, "llama", true)
	require.Equal(t, []string{"token_embd.weight"}, in[8].Weights)
	require.Empty(t, in[8].Scaled, "the embedding's rows must stay as they are")
	require.Equal(t, []string{"blk.0.attn_v.weight"}, in[1].Scaled)
}

// A vector that something else than a product reads cannot be rescaled.
func TestInputsOtherReaders(t *testing.T) {
	p := &Program{Config: Config{NEmbd: 8}, Nodes: []Node{
		{Op: OpEmbed, Dst: BufX, Weight: "e"},
		{Op: OpRMSNorm, Dst: BufNorm, A: BufX, Weight: "n"},
		{Op: OpMatMul, Dst: BufProj, A: BufNorm, Weight: "m"},
		{Op: OpAdd, Dst: BufX, A: BufNorm},
	}}
	in := p.Inputs()
	require.Len(t, in, 1)
	require.Empty(t, in[0].Scaled)
}
