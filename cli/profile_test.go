package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

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
