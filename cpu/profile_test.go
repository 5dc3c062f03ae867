package cpu

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu/internal/cputest"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

func TestProfile(t *testing.T) {
	m := newTiny(t, tinyOptions{arch: "llama", recipe: 0})
	mc := cputest.Machines()[0]
	b := load(t, m, mc, engine.LoadOptions{Plan: engine.PlanFused, Threads: 1, Profile: true})
	require.Empty(t, b.Profile())
	forward(t, b, prompt(3, 97), 1)
	calls := map[string]int64{}
	for _, e := range b.Profile() {
		require.Positive(t, e.Time, e.Name)
		calls[e.Name] = e.Calls
		if e.Name == "ffn_down" {
			want := int64(0)
			for _, name := range []string{"blk.0.ffn_down.weight", "blk.1.ffn_down.weight"} {
				w, _ := m.file.Tensor(name)
				want += w.Bytes - w.Parts["outliers"][1] - w.Parts["row_order"][1] - w.Parts["lane_tail"][1] + w.Coded.Expanded()
			}
			require.Equal(t, float64(3*want), e.Bytes)
		}
	}
	require.Equal(t, map[string]int64{"embed": 3, "rmsnorm": 15, "attn_q+attn_k+attn_v": 6, "rope": 12, "attention": 6,
		"attn_output": 6, "add": 12,
		"ffn_gate+ffn_up": 6, "swiglu": 6, "ffn_down": 6, "output": 3}, calls)
	b.ResetProfile()
	require.Empty(t, b.Profile())
	unprofiled := load(t, m, mc, engine.LoadOptions{})
	forward(t, unprofiled, prompt(3, 97), 3)
	require.Nil(t, unprofiled.Profile())
}
