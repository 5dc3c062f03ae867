package model

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func valid(arch string) Config {
	return Config{Architecture: arch, NVocab: 100, NEmbd: 64, NLayers: 3, NHeads: 4, NKVHeads: 2, HeadDim: 16, NFF: 96,
		NCtx: 128, NormEps: 1e-5, RopeBase: 1e4, RopeDim: 16}
}

// all says that a model has every optional tensor but biases.
func all(name string) bool { return !strings.HasSuffix(name, ".bias") }

func everything(string) bool { return true }

func weights(p *Program) map[string]bool {
	names := map[string]bool{}
	for _, n := range p.Nodes {
		names[n.Weight] = true
		names[n.Bias] = true
	}
	delete(names, "")
	return names
}

func TestLlama(t *testing.T) {
	cfg := valid("llama")
	p, err := Build(&cfg, all)
	require.NoError(t, err)
	require.False(t, p.Ropes[0].Neox)
	require.Equal(t, "rope_freqs.weight", p.Ropes[0].Divisors)
	names := weights(p)
	require.Len(t, names, 3+3*9)
	for _, n := range []string{"token_embd.weight", "output.weight", "output_norm.weight", "blk.2.attn_norm.weight",
		"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight",
		"blk.1.attn_output.weight", "blk.1.ffn_norm.weight", "blk.1.ffn_gate.weight", "blk.1.ffn_up.weight", "blk.1.ffn_down.weight"} {
		require.True(t, names[n], n)
	}
	require.Equal(t, OpEmbed, p.Nodes[0].Op)
	require.Equal(t, BufLogits, p.Nodes[len(p.Nodes)-1].Dst)

	p, err = Build(&cfg, func(n string) bool { return n != "output.weight" && n != "rope_freqs.weight" })
	require.NoError(t, err)
	require.Empty(t, p.Ropes[0].Divisors)
	require.Equal(t, "token_embd.weight", p.Nodes[len(p.Nodes)-1].Weight)
}

func TestQwen2(t *testing.T) {
	cfg := valid("qwen2")
	p, err := Build(&cfg, everything)
	require.NoError(t, err)
	require.True(t, p.Ropes[0].Neox)
	names := weights(p)
	require.Len(t, names, 3+3*12)
	require.True(t, names["blk.2.attn_k.bias"])
	_, err = Build(&cfg, func(n string) bool { return n != "blk.1.attn_v.bias" })
	require.ErrorContains(t, err, "blk.1.attn_v.bias")
}

// TestLastNodesFollowTheCache: only what comes after the last layer's keys and values may be left out for tokens without logits.
func TestLastNodesFollowTheCache(t *testing.T) {
	cfg := valid("llama")
	p, err := Build(&cfg, all)
	require.NoError(t, err)
	last := map[Buffer]bool{} // buffers that hold only the last tokens
	for _, n := range p.Nodes {
		if n.Last {
			last[n.Dst] = true
			continue
		}
		require.False(t, last[n.Dst], "%+v writes for all tokens what was left out for some", n)
		for _, b := range []Buffer{n.A, n.B, n.C} {
			if n.Op != OpEmbed && n.Op != OpRoPE && b != BufX {
				require.False(t, last[b], "%+v reads what was left out for some tokens", n)
			}
		}
		if n.Op == OpAttention {
			require.Less(t, n.Layer, cfg.NLayers-1)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	cfg := valid("gpt2")
	_, err := Build(&cfg, all)
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, "llama, qwen2")
	for name, what := range map[string]string{"qwen3next": "DeltaNet", "gemma4": "per-layer", "granitehybrid": "Mamba",
		"lfm2moe": "experts"} {
		cfg := valid(name)
		_, err := Build(&cfg, all)
		require.ErrorIs(t, err, ErrUnsupported)
		require.ErrorContains(t, err, what)
	}
	for msg, change := range map[string]func(*Config){
		"n_vocab is 0":               func(c *Config) { c.NVocab = 0 },
		"n_layers is -1":             func(c *Config) { c.NLayers = -1 },
		"n_ff is 1000000000":         func(c *Config) { c.NFF = 1e9 },
		"multiple of n_kv_heads (3)": func(c *Config) { c.NKVHeads = 3 },
		"heads of 1000 dimensions":   func(c *Config) { c.NHeads, c.HeadDim = 1000, 1000 },
		"rope_dim is 15":             func(c *Config) { c.RopeDim = 15 },
		"rope_dim is 18":             func(c *Config) { c.RopeDim = 18 },
		"norm_eps is -1":             func(c *Config) { c.NormEps = -1 },
		"rope_base is 0":             func(c *Config) { c.RopeBase = 0 },
		"rope_scale is -2":           func(c *Config) { c.RopeScale = -2 },
		"layers lists 9 layers":      func(c *Config) { c.Layers, c.ConvKernel = "acacacaca", 3 },
		"layer 1 is of kind 'x'":     func(c *Config) { c.Layers, c.ConvKernel = "cx"+strings.Repeat("a", c.NLayers-2), 3 },
		"conv_kernel is 0":           func(c *Config) { c.Layers = strings.Repeat("c", c.NLayers) },
		"delta_value_heads is 0": func(c *Config) {
			c.Layers, c.ConvKernel, c.DeltaKeyHeads = strings.Repeat("d", c.NLayers), 4, 2
		},
		"delta rule with 3 value heads": func(c *Config) {
			c.Layers, c.ConvKernel, c.DeltaKeyHeads = strings.Repeat("d", c.NLayers), 4, 2
			c.DeltaValueHeads, c.DeltaKeyDim, c.DeltaValueDim = 3, 8, 8
		},
		"layer 0 is of kind 'c', which llama": func(c *Config) { c.Layers, c.ConvKernel = strings.Repeat("c", c.NLayers), 3 },
		"does not fit llama":                  func(c *Config) { c.ConvKernel = 3 },
		"conv_kernel is 17":                   func(c *Config) { c.Layers, c.ConvKernel = strings.Repeat("c", c.NLayers), 17 },
	} {
		c := valid("llama")
		change(&c)
		_, err := Build(&c, all)
		require.ErrorContains(t, err, msg)
	}
}
