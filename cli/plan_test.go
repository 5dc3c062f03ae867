package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// Every described device can be planned for, and speeds are marked as predictions.
func TestPlanForDescribedDevices(t *testing.T) {
	model := compressed(t, "--bpw", "4")
	all, err := predict.Devices()
	require.NoError(t, err)
	for _, d := range all {
		rows := decodeJSON[[]planJSON](t, mustRun(t, "plan", model, "--device", d.Name, "--json"))
		chosen := 0
		for _, r := range rows {
			assert.True(t, r.Fits, d.Name)
			require.NotNil(t, r.Predicted, d.Name)
			assert.Equal(t, d.Title, r.Predicted.Described)
			assert.Positive(t, r.Predicted.DecodeTS)
			assert.Greater(t, r.Predicted.PrefillTS, r.Predicted.DecodeTS, "a batch shares the reading of weights")
			assert.Equal(t, r.Budget-r.Total, r.Free)
			if r.Chosen {
				chosen++
			}
		}
		assert.Equal(t, 1, chosen, d.Name)
	}
	out := mustRun(t, "plan", model, "--device", "nano").out
	assert.Contains(t, out, "predicted (not measured)")
	assert.Contains(t, out, "blk.*.ffn_up.weight")
	out = mustRun(t, "plan", model, "--device", "nano", "--tensors").out
	assert.Contains(t, out, "blk.0.ffn_up.weight")
	assert.NotContains(t, out, "blk.*")
}

// What the Nano is predicted to reach with models that are too large to make here, by their shapes.
func TestPlanForShapes(t *testing.T) {
	plan := func(name, bits string, which engine.Plan) planJSON {
		for _, r := range decodeJSON[[]planJSON](t, mustRun(t, "plan", "--shape", name, "--bpw", bits, "--device", "nano", "--ctx",
			"1024", "--json")) {
			if r.Plan == which {
				return r
			}
		}
		t.Fatalf("%s: no plan %s", name, which)
		return planJSON{}
	}
	small := plan("llama-3.2-1b", "4", engine.PlanResident)
	assert.True(t, small.Chosen)
	assert.GreaterOrEqual(t, small.Predicted.DecodeTS, 20.0)
	large := plan("mistral-7b", "3", engine.PlanFused)
	assert.True(t, large.Fits)
	assert.LessOrEqual(t, large.Total, int64(3_200_000_000))
	assert.GreaterOrEqual(t, large.Predicted.DecodeTS, 1.2)
	tensors := 0
	for _, k := range large.Predicted.Tensors {
		tensors += k.Count
	}
	assert.Equal(t, 3+9*32, tensors, "every tensor is in the table")

	assert.Contains(t, ellm("plan", "--shape", "gpt-9", "--device", "nano").err, "mistral-7b")
	assert.Equal(t, exitUsage, ellm("plan", "model.ellm", "--shape", "mistral-7b", "--device", "nano").code)
	assert.Equal(t, exitUsage, ellm("plan", "model.ellm", "--bpw", "4", "--device", "nano").code)
}

// With less memory than the decoded weights need, part of them stays coded; with too little, the message says what would fit.
func TestPlanWithinABudget(t *testing.T) {
	model := compressed(t, "--bpw", "4")
	plan := func(args ...string) map[engine.Plan]planJSON {
		rows := map[engine.Plan]planJSON{}
		for _, r := range decodeJSON[[]planJSON](t,
			mustRun(t, append([]string{"plan", model, "--device", "nano", "--ctx", "64", "--json"}, args...)...)) {
			rows[r.Plan] = r
		}
		return rows
	}
	all := plan()
	budget := (all[engine.PlanResident].Total + all[engine.PlanFused].Total) / 2
	require.Less(t, all[engine.PlanFused].Total, budget)
	part := plan("--memory-budget", strconv.FormatInt(budget, 10))
	assert.False(t, part[engine.PlanResident].Fits)
	assert.Contains(t, part[engine.PlanResident].Error, "--plan fused fits")
	hybrid := part[engine.PlanHybrid]
	assert.True(t, hybrid.Chosen)
	assert.LessOrEqual(t, hybrid.Total, budget)
	assert.GreaterOrEqual(t, hybrid.Predicted.DecodeTS, part[engine.PlanFused].Predicted.DecodeTS)
	none := mustRun(t, "plan", model, "--device", "nano", "--ctx", "64", "--memory-budget", "100K").out
	assert.Contains(t, none, "does not fit")
	assert.Contains(t, none, "lower --bpw")
}

func TestBenchReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	mustRun(t, "bench", compressed(t, "--bpw", "4"), "--device", "cpu", "-p", "0", "-n", "2", "-r", "1", "--report", path)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var r benchReport
	require.NoError(t, json.Unmarshal(b, &r))
	require.Len(t, r.Results, 1)
	assert.Positive(t, r.Results[0].AvgTS)
	assert.Contains(t, r.Computed, "cpu")
	assert.Positive(t, r.Plan.Weights)
	assert.NotEmpty(t, r.Devices)
}
