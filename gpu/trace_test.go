package gpu

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// hybridBudget is a budget in which about half of the decoded weights fit.
func hybridBudget(t *testing.T, m *tinyModel, nCtx int) int64 {
	resident, err := PlanMemory(jetsonNano(), m.file, m.prog, engine.LoadOptions{Plan: engine.PlanResident, NCtx: nCtx})
	require.NoError(t, err)
	fused, err := PlanMemory(jetsonNano(), m.file, m.prog, engine.LoadOptions{Plan: engine.PlanFused, NCtx: nCtx})
	require.NoError(t, err)
	return (resident.Total() + fused.Total()) / 2
}

// What is forecast without a device is what then happens on one: the same launches, kernel for kernel.
func TestForecastIsWhatHappens(t *testing.T) {
	const n, nCtx = 11, 40
	m := newTinyModel(t, "llama")
	for _, plan := range []engine.Plan{engine.PlanResident, engine.PlanFused, engine.PlanHybrid} {
		dev := openEmu(t)
		info, err := dev.Info()
		require.NoError(t, err)
		opt := engine.LoadOptions{Plan: plan, NCtx: nCtx}
		if plan == engine.PlanHybrid {
			opt.MemoryBudget = hybridBudget(t, m, nCtx)
		}
		fc, err := ForecastRun(info, m.file, m.prog, opt, n, n)
		require.NoError(t, err)

		b := New(dev)
		require.NoError(t, b.Load(context.Background(), m.file, m.prog, opt))
		assert.Equal(t, fc.Plan.Plan, b.Memory().Plan)
		assert.Equal(t, fc.Plan.Total(), b.Memory().Total())
		loaded := b.l.Launched
		_, err = b.Forward(context.Background(), engine.SingleRun(prompt(n), 0, 1))
		require.NoError(t, err)
		assert.Equal(t, int64(len(fc.Prefill)), b.l.Launched-loaded, "%s: launches of the prompt", plan)
		loaded = b.l.Launched
		_, err = b.Forward(context.Background(), engine.SingleRun(prompt(1), n, 1))
		require.NoError(t, err)
		assert.Equal(t, int64(len(fc.Decode)), b.l.Launched-loaded, "%s: launches of a token", plan)
		require.NoError(t, b.Close())
	}
}

// All weights are accounted for, once per token and in the form they have.
func TestForecastCountsAllWeights(t *testing.T) {
	m := newTinyModel(t, "llama")
	nano, err := predict.Find("nano")
	require.NoError(t, err)
	for _, plan := range bothPlans {
		fc, err := ForecastRun(jetsonNano(), m.file, m.prog, engine.LoadOptions{Plan: plan, NCtx: 40}, 16, 8)
		require.NoError(t, err)
		want, got := 0.0, 0.0
		for _, w := range fc.Tensors {
			if tensor, _ := m.file.Tensor(w.Name); tensor.Coded != nil && w.Name != "token_embd.weight" || w.Name == "output.weight" {
				want += float64(w.Rows * w.Cols)
			}
		}
		for _, l := range fc.Decode {
			if !strings.HasPrefix(l.Kernel, "attention_") {
				got += l.Work.Products()
			}
		}
		assert.InDelta(t, 0, got-want, float64(m.prog.Config.NVocab*m.prog.Config.NEmbd),
			"%s: the embedding is a product only if it is tied", plan)
		p, err := fc.Predict(nano, 16, 8)
		require.NoError(t, err)
		assert.Equal(t, len(fc.Decode), p.Launches)
		for _, table := range [][]KindForecast{p.Kinds, p.Tensors} {
			ms, bytes, count := p.HostMS, int64(0), 0
			for _, k := range table {
				ms += k.TokenMS
				bytes += k.Bytes
				count += k.Count
			}
			assert.InEpsilon(t, 1e3/ms, p.DecodeTS, 1e-9)
			assert.LessOrEqual(t, bytes, fc.Plan.Weights)
			assert.Equal(t, len(fc.Tensors), count)
		}
	}
}

// Plan hybrid computes what the others compute, within its budget.
func TestHybridOnTheEmulator(t *testing.T) {
	const nCtx = 48
	m := newModel(t, "qwen2", 6, tinyKinds()) // whose weights are more than the scratch to decode them
	resident, _ := loadTiny(t, m, engine.PlanResident)
	want := greedy(t, resident, prompt(9), 8)
	b := New(openEmu(t))
	budget := hybridBudget(t, m, nCtx)
	require.NoError(t, b.Load(context.Background(), m.file, m.prog, engine.LoadOptions{NCtx: nCtx, MemoryBudget: budget}))
	assert.Equal(t, engine.PlanHybrid, b.Memory().Plan)
	assert.LessOrEqual(t, b.Memory().Total(), budget)
	forms := map[form]int{}
	for _, w := range b.plan.weights {
		forms[w.form]++
	}
	assert.Positive(t, forms[formPacked])
	assert.Positive(t, forms[formCoded])
	assert.Equal(t, want, greedy(t, b, prompt(9), 8))
	require.NoError(t, b.Close())
}

// Tables are loaded where a block comes to a chunk with another one than before: pass by pass, in it tile by tile, or all chunks
// tile by tile.
func TestTableLoads(t *testing.T) {
	c := &format.Coded{Rows: 10, Cols: 33 * format.StepCols, Coding: format.Coding{RowsPerGroup: 1}}
	require.Equal(t, 2, c.Tiles())
	c.ChunkTable = []uint8{0, 1, 0, 1, 1, 1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2} // eight groups of a pass, two of the next
	for blocks, want := range map[int]int{1: 5, 2: 5, 10: 19} {
		assert.Equal(t, want, fusedLoads(c, blocks), "%d blocks", blocks)
	}
	assert.Equal(t, 3, decodeLoads(c, 0, 10, 1))
	assert.Equal(t, 4, decodeLoads(c, 1, 3, 2))
}
