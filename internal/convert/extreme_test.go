package convert

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// extremes are matrices as real files have them where something went wrong in training, pruning or conversion.
func extremes() map[string]func(r, c int, rng *rand.Rand) float64 {
	return map[string]func(r, c int, rng *rand.Rand) float64{
		"zeros":             func(int, int, *rand.Rand) float64 { return 0 },
		"constant":          func(int, int, *rand.Rand) float64 { return -0.25 },
		"equal subnormal":   func(int, int, *rand.Rand) float64 { return 1e-40 },
		"random subnormal":  func(_, _ int, rng *rand.Rand) float64 { return 1e-40 * rng.NormFloat64() },
		"least":             func(int, int, *rand.Rand) float64 { return math.SmallestNonzeroFloat32 },
		"near zero":         func(_, _ int, rng *rand.Rand) float64 { return 1e-30 * rng.NormFloat64() },
		"large":             func(_, _ int, rng *rand.Rand) float64 { return 1e29 * math.Tanh(rng.NormFloat64()) },
		"one outlier":       func(r, c int, _ *rand.Rand) float64 { return map[bool]float64{true: 1e20}[r == 7 && c == 9] },
		"one row":           func(r, _ int, rng *rand.Rand) float64 { return map[bool]float64{true: rng.NormFloat64()}[r == 7] },
		"rows of all sizes": func(r, _ int, rng *rand.Rand) float64 { return math.Pow(10, float64(r%60-35)) * rng.NormFloat64() },
		"zero rows":         func(r, _ int, rng *rand.Rand) float64 { return float64(r%2) * rng.NormFloat64() },
	}
}

// extremeModel has an ordinary matrix and an extreme one.
func extremeModel(value func(r, c int, rng *rand.Rand) float64) *memSource {
	rng, s := rand.New(rand.NewPCG(4, 5)), &memSource{}
	s.add(rng, "blk.0.attn_q.weight", "F32", 192, 192)
	const rows, cols = 128, 256
	w := make([]float32, rows*cols)
	for i := range w {
		w[i] = float32(value(i/cols, i%cols, rng))
	}
	s.tensors = append(s.tensors, source.TensorInfo{Name: "blk.0.ffn_up.weight", Rows: rows, Cols: cols, Type: "F32"})
	s.data, s.bits, s.blocks = append(s.data, w), append(s.bits, nil), append(s.blocks, nil)
	return s
}

// Every scheme takes extreme weights, and what it makes of them is whole and finite.
func TestExtremeWeights(t *testing.T) {
	options := map[string]Options{
		"lossless": {Scheme: SchemeLossless}, "bf16": {Scheme: SchemeBF16}, "u8": {Scheme: SchemePaperU8},
		"u4":     {Scheme: SchemePaperU4},
		"4 bits": {BPW: 4}, "8 bits": {BPW: 8}, "fixed step": {Tuning: Tuning{Kappa: 0.5}},
		"no centroid": {BPW: 5, Tuning: Tuning{NoCentroid: true}},
	}
	for name, value := range extremes() {
		src := extremeModel(value)
		for scheme, opt := range options {
			opt.Tuning.NoColumns = true
			path := filepath.Join(t.TempDir(), "m.ellm")
			_, err := Compress(context.Background(), src, path, opt, nil)
			require.NoError(t, err, "%s, %s", name, scheme)
			r, err := format.Open(path)
			require.NoError(t, err)
			require.NoError(t, Verify(context.Background(), r, nil), "%s, %s", name, scheme)
			got := weights(t, r, "blk.0.ffn_up.weight")
			largest := 0.0
			for _, x := range src.data[1] {
				largest = max(largest, math.Abs(float64(x)))
			}
			for i, x := range got {
				require.LessOrEqual(t, math.Abs(float64(x)), 1.5*largest+1e-37, "%s, %s: weight %d", name, scheme, i)
			}
			require.NoError(t, r.Close())
		}
	}
}

// What cannot be quantized is refused with the tensor's name; a model of nothing but zeros is not.
func TestWeightsThatAreTooLarge(t *testing.T) {
	for _, opt := range []Options{{BPW: 4}, {Scheme: SchemePaperU8}, {Scheme: SchemePaperU4}} {
		for _, big := range []float64{3e38, 1.1e30, math.Inf(1), math.NaN()} {
			opt.Tuning.NoColumns = true
			src := extremeModel(func(r, c int, _ *rand.Rand) float64 { return map[bool]float64{true: big}[r == 3 && c == 3] })
			_, err := Compress(context.Background(), src, filepath.Join(t.TempDir(), "m.ellm"), opt, nil)
			require.ErrorContains(t, err, "blk.0.ffn_up.weight", fmt.Sprint(big))
			require.ErrorContains(t, err, "row 3")
		}
	}
	zeros := &memSource{}
	zeros.tensors = []source.TensorInfo{{Name: "blk.0.ffn_up.weight", Rows: 256, Cols: 256, Type: "F32"}}
	zeros.data, zeros.bits, zeros.blocks = [][]float32{make([]float32, 1<<16)}, [][]uint16{nil}, []*source.Blocks{nil}
	_, err := Compress(context.Background(), zeros, filepath.Join(t.TempDir(), "z.ellm"),
		Options{BPW: 8, Tuning: Tuning{NoColumns: true}}, nil)
	require.NoError(t, err)
}
