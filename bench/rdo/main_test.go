package main

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// Rounded normal numbers have the entropy and the noise that theory gives, and moving them towards zero wins next to nothing.
func TestCompareNormal(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float64, 200_000)
	for i := range x {
		x[i] = rng.NormFloat64()
	}
	for _, step := range []float64{0.5, 0.25} {
		h, noise := quantize(x, step, 0)
		assert.InDelta(t, math.Log2(math.Sqrt(2*math.Pi*math.E)/step), h, 0.02)
		assert.InEpsilon(t, step*step/12, noise, 0.03)
		_, gain := compare(x, step)
		assert.InDelta(t, 0.005, gain, 0.0051)
	}
}

// Sharply peaked weights on a coarse grid are where optimized rounding is known to win.
func TestCompareFindsGain(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	x := make([]float64, 200_000)
	for i := range x {
		x[i] = rng.ExpFloat64() * float64(1-2*rng.IntN(2))
	}
	_, gain := compare(x, 1.5)
	assert.Greater(t, gain, 0.01)
}

func TestRun(t *testing.T) {
	require.NoError(t, run(testmodel.Path(t), 4))
	require.Error(t, run("missing.gguf", 4))
}
