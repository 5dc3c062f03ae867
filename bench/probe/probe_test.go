package main

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/quant"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// The offsets of a real, tiny model are what compress --offsets takes, and not all alike.
func TestProbe(t *testing.T) {
	out := filepath.Join(t.TempDir(), "offsets.json")
	text := filepath.Join("..", "..", "internal", "testmodel", "heldout.txt")
	require.NoError(t, run(context.Background(), &probe{chunks: 2, kappa: 0.5}, testmodel.Path(t), text, out))
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	var o quant.Offsets
	require.NoError(t, json.Unmarshal(b, &o))
	require.NoError(t, o.Check())
	for _, k := range []string{"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", quant.First,
		quant.Last} {
		assert.Contains(t, o, k)
	}
	assert.Greater(t, o["attn_v"], o["attn_q"]) // what every model of this kind has

	err = run(context.Background(), &probe{chunks: 2, kappa: 0.5}, testmodel.Path(t), os.DevNull, out)
	assert.ErrorContains(t, err, "at least 1024 are needed")
}

// solve equalizes the divergence per weight when a bit is a quarter of it, and spends no bits on average.
func TestSolve(t *testing.T) {
	sizes := map[string]float64{"attn_q": 100, "ffn_up": 300, quant.Tied: 200, quant.First: 200, quant.Last: 200}
	harm := map[string]float64{"attn_q": 0.8, "ffn_up": 0.3, quant.Tied: 0.1, quant.First: 0.55, quant.Last: 2.2}
	o := solve(sizes, harm)
	mean := 0.0
	var levels []float64
	for _, k := range []string{"attn_q", "ffn_up", quant.Tied} {
		mean += sizes[k] * o[k] / 600
		levels = append(levels, math.Log2(harm[k]/sizes[k])-2*o[k])
	}
	assert.InDelta(t, 0, mean, 0.01)
	assert.InDeltaSlice(t, []float64{levels[0], levels[0], levels[0]}, levels, 0.03)
	assert.InDelta(t, 0, o[quant.First], 0.01) // half of the layers' weights, half of their harm
	assert.InDelta(t, 1, o[quant.Last], 0.01)
}
