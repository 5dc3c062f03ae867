package convert

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/testmodel"
)

// All the way to what sensitivities ask for, every row and every matrix adds the same error for each of its weights.
func TestStepsOfEqualHarm(t *testing.T) {
	s := &sensitivity{
		Sensitivity: &calibrate.Sensitivity{
			Rows:      map[string][]float64{"a": {1, 2, 4}, "output.weight": {1e-9, 1}},
			Embedding: []float64{3, 5},
		},
		columns: map[string]float64{"a": 7, "output.weight": 2},
	}
	rule := []float64{1, 0.7, 1.4}
	f := s.rowFactors("a", rule, 1)
	steps := make([]float64, 3)
	for r := range steps {
		steps[r] = rule[r] * float64(f[r])
	}
	step := s.step("a", steps)
	for r, h := range s.Rows["a"] {
		require.InEpsilon(t, 1, 7*h*math.Pow(step*steps[r], 2), 1e-6)
	}
	for _, x := range s.rowFactors("a", rule, 0.5) {
		require.Less(t, math.Abs(math.Log(float64(x))), math.Log(2.))
	}
	require.Nil(t, s.rowFactors("a", rule[1:], 1), "of another shape")
	require.Nil(t, s.rowFactors("b", rule, 1), "nothing known")
	require.Zero(t, s.step("b", steps))
	require.Nil(t, s.rowFactors("output.weight", rule[1:], 1), "rare tokens are not worthless")
	require.InEpsilon(t, 1/math.Sqrt(2*(1+1e-9)/2), s.step("output.weight", []float64{1, 1}), 1e-6)
	require.InEpsilon(t, 1/math.Sqrt(4./3), s.step("token_embd.weight", []float64{1, 1, 1}), 1e-6)
}

// A matrix of zeros has no step, and leaves the others theirs.
func TestSensitivityOfZeros(t *testing.T) {
	rows := map[string][]float64{"zeros": {1, 1}, "others": {1, 2}}
	j := &job{findings: findings{sensitivity: &sensitivity{&calibrate.Sensitivity{Rows: rows},
		map[string]float64{"zeros": 1, "others": 1}}}}
	quantizer := func(name string, mean float64) *uniformQuantizer {
		s := quant.RowStats{SumAbs: 4 * mean}
		m := &uniformQuantizer{job: j, t: &tensorJob{info: source.TensorInfo{Name: name, Rows: 2, Cols: 4}},
			stats: []quant.RowStats{s, s}, stepAtKappa1: mean}
		m.q = quant.Uniform{MeanAbs: mean, Exponent: 0.5}
		return m
	}
	zeros, others := quantizer("zeros", 0), quantizer("others", 3)
	j.applySensitivity([]*uniformQuantizer{zeros, others})
	require.Zero(t, zeros.stepAtKappa1)
	require.Zero(t, zeros.rowStep(0))
	require.InEpsilon(t, 3, others.stepAtKappa1, 1e-9)
	require.Greater(t, others.rowFactor[0], others.rowFactor[1])
}

// Derivatives change the file, and not its size.
func TestNoSensitivity(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.txt")
	require.NoError(t, os.WriteFile(text, []byte(testmodel.HeldOut()), 0o600))
	src := testJob(t, "llama", Options{}).src
	sqnr := map[bool]float64{}
	for _, off := range []bool{false, true} {
		report, err := Compress(context.Background(), src, filepath.Join(dir, "m.ellm"),
			Options{BPW: 4.5, Calibration: Calibration{Text: text, Tokens: 1024, NoSensitivity: off}}, nil)
		require.NoError(t, err)
		require.InDelta(t, 4.5, report.BitsPerWeight, 0.08)
		sqnr[off] = report.SQNR
	}
	require.NotEqual(t, sqnr[true], sqnr[false])
}
