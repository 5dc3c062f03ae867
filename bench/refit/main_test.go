package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// Times that come from another description lead back to it.
func TestRefitFindsTheDeviceThatWasMeasured(t *testing.T) {
	truth, err := predict.Find("nano")
	require.NoError(t, err)
	truth.IssueEfficiency, truth.MemoryEfficiency, truth.ReadGBps, truth.LaunchUS = 0.34, 0.71, 14, 31
	m, err := predict.NewModel(truth)
	require.NoError(t, err)
	var results []map[string]any
	for _, kernel := range []string{"gemv_packed4", "gemv_fused_g2", "gemv_packed8"} {
		for _, weights := range []float64{1e6, 4e6, 16e6} {
			work := predict.Work{Kernel: kernel, Blocks: 64, Threads: 256, Items: []predict.WorkItem{
				{Products: weights, Bytes: weights, Tables: kernel == "gemv_fused_g2"}}}
			results = append(results, map[string]any{"measured_us": 1e6 * m.Time(work).Seconds, "work": []predict.Work{work}})
		}
	}
	js, err := json.Marshal(map[string]any{
		"rates": map[string]any{"device": "a Nano", "date": "2026-01-01", "rates": []map[string]any{
			{"name": "read_gbps", "value": 14}, {"name": "launch_us", "value": 31}, {"name": "queue_us", "value": 9}}},
		"products": map[string]any{"results": results},
	})
	require.NoError(t, err)
	dir := t.TempDir()
	path, out := filepath.Join(dir, "report.json"), filepath.Join(dir, "nano.json")
	require.NoError(t, os.WriteFile(path, js, 0o644))
	var said bytes.Buffer
	require.NoError(t, run("nano", path, out, &said))

	b, err := os.ReadFile(out)
	require.NoError(t, err)
	var got predict.Device
	require.NoError(t, json.Unmarshal(b, &got))
	assert.Equal(t, 14.0, got.ReadGBps)
	assert.Equal(t, 31.0, got.LaunchUS)
	assert.InDelta(t, 0.34, got.IssueEfficiency, 0.02)
	assert.InDelta(t, 0.71, got.MemoryEfficiency, 0.02)
	assert.Contains(t, got.Sources["read_gbps"], "measured: a Nano, 2026-01-01")
	assert.Contains(t, got.Sources["kernel_us"], "assumed", "what was not measured keeps its source")
	assert.Contains(t, said.String(), "after:  geometric mean 1.00")
	assert.NotContains(t, said.String(), "before: geometric mean 1.00")
}

func TestRefitRefusesOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.json")
	require.NoError(t, os.WriteFile(path, []byte("{}"), 0o644))
	assert.ErrorContains(t, run("nano", path, path, &bytes.Buffer{}), "neither rates nor products")
	assert.ErrorContains(t, run("unknown", path, path, &bytes.Buffer{}), "there is no description")
}
