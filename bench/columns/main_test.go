package main

import (
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/imatrix"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// Normal weights whose columns' inputs differ: the best steps go with E[x²]^(−1/2) if columns have tables of their own, and save
// half of log2 of the ratio of the arithmetic to the geometric mean of E[x²]. With one table smaller exponents are better.
func TestCost(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	const cols = 1024
	m, seen, am, gm := &matrix{cols: cols}, make([]float32, cols), 0.0, 0.0
	for c := range seen {
		seen[c] = float32(math.Exp(1.2 * rng.NormFloat64()))
		am += float64(seen[c]) / cols
		gm += math.Log2(float64(seen[c])) / cols
	}
	for range 64 * cols {
		m.weights = append(m.weights, float32(rng.NormFloat64()))
	}
	by := func(exponent float64) result { return cost(m, seen, convert.ColumnFactors(seen, exponent), 16) }
	equal := by(0)
	require.InDelta(t, equal.single, equal.classes, 0.02) // what sorting by chance gives
	half, third := by(0.5), by(0.3)
	assert.InDelta(t, (math.Log2(am)-gm)/2, equal.single-half.classes, 0.05)
	assert.Greater(t, half.single, third.single)
	assert.Less(t, half.classes, third.classes)
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	model := testmodel.Path(t)
	require.Error(t, run(io.Discard, model, filepath.Join(dir, "missing"), 4, 2))
	none := filepath.Join(dir, "none.gguf")
	require.NoError(t, imatrix.Write(none, &imatrix.File{Matrices: map[string]*imatrix.Matrix{"x": {MeanSq: []float32{1},
		Count: 1}}, ChunkSize: 512, Chunks: 1}))
	require.ErrorContains(t, run(io.Discard, model, none, 4, 2), "knows none")
	seen := filepath.Join(dir, "seen.gguf")
	square := &imatrix.Matrix{MeanSq: make([]float32, 128), Count: 1}
	for i := range square.MeanSq {
		square.MeanSq[i] = float32(1 + i%7)
	}
	require.NoError(t, imatrix.Write(seen, &imatrix.File{Matrices: map[string]*imatrix.Matrix{"blk.0.attn_q.weight": square},
		ChunkSize: 512, Chunks: 1}))
	var out strings.Builder
	require.NoError(t, run(&out, model, seen, 4, 2))
	require.Contains(t, out.String(), "attn_q")
}
