package cli

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

func TestProfileTable(t *testing.T) {
	entries := []engine.ProfileEntry{
		{Name: "gemv_fused_g3", Calls: 10, Time: 30 * time.Millisecond, Bytes: 60e6},
		{Name: "attention_f16", Calls: 2, Time: 10 * time.Millisecond},
	}
	s := profileTable(entries)
	assert.Contains(t, s, "75.0%")
	assert.Contains(t, s, "25.0%")
	assert.Contains(t, s, "2.00", "GB/s")
	assert.Contains(t, s, "40ms")
	assert.NotContains(t, s, "predicted")
	entries[0].Predicted = 28 * time.Millisecond
	assert.Regexp(t, `predicted(.|\n)*28ms`, profileTable(entries))
}

func TestMemoryLine(t *testing.T) {
	status := filepath.Join(t.TempDir(), "status")
	plan := engine.MemoryPlan{Weights: 3 << 20, KV: 2 << 20, Scratch: 1 << 20}
	assert.Equal(t, "memory: planned 6.0 MiB (weights 3.0 MiB, cache 2.0 MiB, scratch 1.0 MiB)", memoryLine(plan, status))
	require.NoError(t, os.WriteFile(status, []byte("Name:\tx\nVmHWM:\t  20480 kB\nRssAnon:\t 10240 kB\nRssFile:\t5120 kB\n"), 0o600))
	assert.Contains(t, memoryLine(plan, status), "; resident: 20.0 MiB at most, now 10.0 MiB of the program and 5.0 MiB of files")
}
