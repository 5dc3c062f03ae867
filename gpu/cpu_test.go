package gpu

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// The kernels and the CPU compute the same model: close logits in prefill, the same tokens in greedy decoding.
func TestForwardAgainstCPU(t *testing.T) {
	for _, arch := range []string{"llama", "qwen2"} {
		m := newTinyModel(t, arch)
		for _, plan := range bothPlans {
			host := cpu.New()
			require.NoError(t, host.Load(context.Background(), m.file, m.prog, engine.LoadOptions{Plan: plan, NCtx: 48}))
			device, _ := loadTiny(t, m, plan)
			const n, rows = 9, 3
			want, err := host.Forward(context.Background(), engine.SingleRun(prompt(n), 0, rows))
			require.NoError(t, err)
			got, err := device.Forward(context.Background(), engine.SingleRun(prompt(n), 0, rows))
			require.NoError(t, err)
			requireClose(t, want, got, 2e-5, "%s %s", arch, plan)
			assert.Equal(t, greedy(t, host, prompt(n), 10), greedy(t, device, prompt(n), 10), "%s %s", arch, plan)
			require.NoError(t, host.Close())
		}
	}
}
