package cpu

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

func TestProfile(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "llama", recipe: 0})
	mc := machines()[0]
	b := load(t, m, mc, engine.LoadOptions{Plan: engine.PlanFused, Threads: 1, Profile: true})
	require.Empty(t, b.Profile())
	forward(t, b, prompt(3, 97), 1)
	calls := map[string]int64{}
	for _, e := range b.Profile() {
		require.Positive(t, e.Time, e.Name)
		calls[e.Name] = e.Calls
		if e.Name == "ffn_down" {
			w0, _ := m.file.Tensor("blk.0.ffn_down.weight")
			w1, _ := m.file.Tensor("blk.1.ffn_down.weight")
			require.Equal(t, float64(3*(w0.Bytes+w1.Bytes)), e.Bytes)
		}
	}
	require.Equal(t, map[string]int64{"embed": 3, "rmsnorm": 15, "attn_q+attn_k+attn_v": 6, "rope": 12, "attention": 6, "attn_output": 6, "add": 12,
		"ffn_gate+ffn_up": 6, "swiglu": 6, "ffn_down": 6, "output": 3}, calls)
	b.ResetProfile()
	require.Empty(t, b.Profile())
	unprofiled := load(t, m, mc, engine.LoadOptions{})
	forward(t, unprofiled, prompt(3, 97), 3)
	require.Nil(t, unprofiled.Profile())
}
