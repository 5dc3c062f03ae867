package convert

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// wideModel is a model of one layer whose ffn_down has two tiles, and columns of very different magnitudes.
func wideModel() *memSource {
	r := rand.New(rand.NewPCG(8, 9))
	s := &memSource{config: &model.Config{Architecture: "llama", NVocab: 96, NEmbd: 64, NLayers: 1, NHeads: 4, NKVHeads: 2,
		HeadDim: 16, NFF: 34 * 64, NCtx: 512, NormEps: 1e-5, RopeBase: 1e4, RopeDim: 16}}
	size := make([]float64, s.config.NFF)
	for i := range size {
		size[i] = math.Exp(0.7 * r.NormFloat64())
	}
	add := func(name string, rows, cols int, f func(row, col int) float64) {
		data := make([]float32, rows*cols)
		for i := range data {
			data[i] = float32(f(i/cols, i%cols))
		}
		s.tensors = append(s.tensors, source.TensorInfo{Name: name, Rows: rows, Cols: cols, Vector: rows == 1, Type: "F32"})
		s.data = append(s.data, data)
	}
	normal := func(int, int) float64 { return r.NormFloat64() / 8 }
	one := func(int, int) float64 { return 1 }
	c := s.config
	add("token_embd.weight", c.NVocab, c.NEmbd, normal)
	add("blk.0.attn_norm.weight", 1, c.NEmbd, one)
	add("blk.0.attn_q.weight", 64, c.NEmbd, normal)
	add("blk.0.attn_k.weight", 32, c.NEmbd, normal)
	add("blk.0.attn_v.weight", 32, c.NEmbd, normal)
	add("blk.0.attn_output.weight", c.NEmbd, 64, normal)
	add("blk.0.ffn_norm.weight", 1, c.NEmbd, one)
	add("blk.0.ffn_gate.weight", c.NFF, c.NEmbd, normal)
	add("blk.0.ffn_up.weight", c.NFF, c.NEmbd, normal)
	add("blk.0.ffn_down.weight", c.NEmbd, c.NFF, func(_, col int) float64 { return r.NormFloat64() / 8 * size[col] })
	add("output_norm.weight", 1, c.NEmbd, one)
	return s
}

// The hidden units are sorted, all that belongs to one stays together, and that makes the file's errors smaller.
func TestColumnClasses(t *testing.T) {
	src := wideModel()
	sorted, report := compress(t, src, Options{BPW: 8})
	natural, plain := compress(t, src, Options{BPW: 8, Tuning: Tuning{NoColumnClasses: true}})
	require.Greater(t, report.SQNR, plain.SQNR+0.1)

	// Which unit has become which is seen from the rows of the gate.
	rows, cols := src.config.NFF, src.config.NEmbd
	a, b := weights(t, sorted, "blk.0.ffn_gate.weight"), weights(t, natural, "blk.0.ffn_gate.weight")
	from, seen := make([]int, rows), map[int]bool{}
	for i := range from {
		best := math.Inf(1)
		for k := range rows {
			if d := distance(a[i*cols:(i+1)*cols], b[k*cols:(k+1)*cols], best); d < best {
				best, from[i] = d, k
			}
		}
		seen[from[i]] = true
	}
	require.Len(t, seen, rows)
	a, b = weights(t, sorted, "blk.0.ffn_up.weight"), weights(t, natural, "blk.0.ffn_up.weight")
	energy := meanSquare(b)
	for i, k := range from {
		requireClose(t, a[i*cols:(i+1)*cols], b[k*cols:(k+1)*cols], energy)
	}
	a, b = weights(t, sorted, "blk.0.ffn_down.weight"), weights(t, natural, "blk.0.ffn_down.weight")
	energy = meanSquare(b)
	unit := func(w []float32, i int) (column []float32) {
		for r := range cols {
			column = append(column, w[r*rows+i])
		}
		return column
	}
	for i, k := range from {
		requireClose(t, unit(a, i), unit(b, k), energy)
	}

	_, err := Inspect(context.Background(), sorted, src, nil)
	require.ErrorContains(t, err, "rescaled and sorted")
	x, _ := sorted.Tensor("blk.0.ffn_down.weight")
	require.Equal(t, 2, x.Coded.Tiles())
	for g := range x.Coded.Groups() {
		require.NotEqual(t, x.Coded.ChunkTable[2*g], x.Coded.ChunkTable[2*g+1])
	}
}

// distance returns the squared distance of a and b, or something larger than most.
func distance(a, b []float32, most float64) (d float64) {
	for i := range a {
		e := float64(a[i] - b[i])
		if d += e * e; d > most {
			break
		}
	}
	return d
}

// requireClose compares what was rounded in two ways; energy is the mean square of such weights.
func requireClose(t *testing.T, a, b []float32, energy float64) {
	t.Helper()
	require.Less(t, distance(a, b, math.Inf(1)), 0.01*energy*float64(len(a)))
}

func meanSquare(w []float32) (mean float64) {
	for _, x := range w {
		mean += float64(x) * float64(x) / float64(len(w))
	}
	return mean
}

// The steps of a tied embedding's columns are in the file as column scales, since no norm can carry them.
func TestTiedColumns(t *testing.T) {
	src := wideModel()
	for i, info := range src.tensors {
		if info.Name == "output_norm.weight" {
			for c := range src.data[i] {
				src.data[i][c] = float32(math.Exp2(float64(c%5) - 2))
			}
		}
	}
	r, _ := compress(t, src, Options{BPW: 7})
	x, _ := r.Tensor("token_embd.weight")
	require.Len(t, x.Coded.ColScale, src.config.NEmbd)
	for c, s := range x.Coded.ColScale { // large elements get small steps
		if c%5 == 0 {
			require.Greater(t, s, x.Coded.ColScale[(c+4)%64/5*5+4])
		}
	}
	got := weights(t, r, "token_embd.weight")
	requireClose(t, src.data[0], got, meanSquare(got))
}
