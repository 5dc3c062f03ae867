package convert

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func TestSyntheticText(t *testing.T) {
	j := testJob(t, "llama", Options{})
	text, err := j.syntheticText()
	require.NoError(t, err)
	require.Len(t, text, syntheticTokens)
	low := 0
	for _, id := range text {
		require.GreaterOrEqual(t, id, int32(0))
		require.Less(t, int(id), j.config.NVocab)
		if int(id) < j.config.NVocab/2 {
			low++
		}
	}
	require.Greater(t, low, len(text)/2) // frequent tokens come first
	again, err := j.syntheticText()
	require.NoError(t, err)
	require.Equal(t, text, again)
}

// MeanSquares is the diagonal of what Run gathers.
func TestMeanSquares(t *testing.T) {
	j := testJob(t, "qwen2", Options{})
	prog, err := j.program()
	require.NoError(t, err)
	texts := windows(t, j, 32, 2)
	got, err := calibrate.MeanSquares(context.Background(), prog, j.sourceWeights(), texts, nil)
	require.NoError(t, err)
	seen := 0
	err = calibrate.Run(context.Background(), prog, j.sourceWeights(), texts, 0,
		func(in *model.Input, s []float32, tokens int) error {
			for _, w := range in.Weights {
				seen++
				for i, x := range got[w] {
					want := s[i*in.Width+i] / float32(tokens)
					require.InEpsilon(t, want+1e-9, x+1e-9, 1e-4, "%s column %d", w, i)
				}
			}
			return nil
		}, nil)
	require.NoError(t, err)
	require.Len(t, got, seen)
}

// Elements that random tokens make large are large for real text, too.
func TestRandomTokensShowLargeElements(t *testing.T) {
	for _, arch := range []string{"llama", "qwen2"} {
		j := testJob(t, arch, Options{})
		prog, err := j.program()
		require.NoError(t, err)
		text, err := j.syntheticText()
		require.NoError(t, err)
		squares := func(texts [][]int32) map[string][]float32 {
			m, err := calibrate.MeanSquares(context.Background(), prog, j.sourceWeights(), texts, nil)
			require.NoError(t, err)
			return m
		}
		random, real := squares([][]int32{text}), squares(windows(t, j, 32, 8))
		sum, n := 0.0, 0.0
		for w := range real {
			c := correlation(random[w], real[w])
			sum, n = sum+c, n+1
		}
		t.Logf("%s: mean correlation %.3f", arch, sum/n)
		require.Greater(t, sum/n, 0.3)
	}
}

// correlation returns that of the logarithms of a and b.
func correlation(a, b []float32) float64 {
	n := float64(len(a))
	var sa, sb, saa, sbb, sab float64
	for i := range a {
		x, y := math.Log(float64(a[i])), math.Log(float64(b[i]))
		sa, sb, saa, sbb, sab = sa+x/n, sb+y/n, saa+x*x/n, sbb+y*y/n, sab+x*y/n
	}
	return (sab - sa*sb) / math.Sqrt((saa-sa*sa)*(sbb-sb*sb))
}

// The steps of columns are in the file as factors of the norms before them.
func TestColumns(t *testing.T) {
	src := testJob(t, "qwen2", Options{}).src
	norm := func(tuning Tuning) []float32 {
		r, _ := compress(t, src, Options{BPW: 5, Tuning: tuning})
		return weights(t, r, "blk.1.ffn_norm.weight")
	}
	with, without := norm(Tuning{}), norm(Tuning{NoColumns: true})
	product, different := 0.0, 0
	for i := range with {
		f := float64(with[i] / without[i])
		require.GreaterOrEqual(t, f, minFactor)
		require.LessOrEqual(t, f, float64(maxFactor))
		product += math.Log(f)
		if f < 0.95 || f > 1.05 {
			different++
		}
	}
	require.InDelta(t, 0, product/float64(len(with)), 0.05)
	require.Greater(t, different, len(with)/4)
}
