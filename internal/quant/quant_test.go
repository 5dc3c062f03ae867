package quant

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func row(n int) []float32 {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(rng.NormFloat64())
	}
	return w
}

func TestMeasure(t *testing.T) {
	s, ok := Measure([]float32{1, -3, 0.5})
	require.True(t, ok)
	require.Equal(t, RowStats{SumAbs: 4.5, SumSq: 10.25, Min: -3, Max: 1}, s)
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		_, ok = Measure([]float32{1, float32(bad), 2})
		require.False(t, ok)
	}
}

func TestRoundIsToNearestEven(t *testing.T) {
	w := []float32{0, 0.49, 0.5, 0.51, 1.5, 2.5, -0.5, -1.5, -2.49, 32767.5, -32768, 1e6}
	got := make([]int32, len(w))
	Round(got, w, 1)
	for i, x := range w {
		require.Equal(t, int32(math.RoundToEven(float64(x))), got[i], "%g", x)
	}
}

// The reported noise must be that of the reported scale, and no other scale may do better.
func TestRowScaleIsOptimal(t *testing.T) {
	for _, step := range []float32{0.05, 0.7, 2, 100} {
		w := row(500)
		q := make([]int32, len(w))
		scale, noise := Row(q, w, step, true)
		errorOf := func(s float64) (e float64) {
			for i := range w {
				d := float64(w[i]) - s*float64(q[i])
				e += d * d
			}
			return e
		}
		require.InEpsilon(t, errorOf(float64(scale)), noise, 1e-4)
		for _, f := range []float64{0.99, 1.01} {
			require.GreaterOrEqual(t, errorOf(f*float64(scale)), noise*(1-1e-9))
		}
	}
	q := []int32{5}
	scale, noise := Row(q, []float32{0}, 0, true)
	require.Zero(t, scale)
	require.Zero(t, noise)
	require.Equal(t, []int32{0}, q)
}

func TestRowStep(t *testing.T) {
	u := Uniform{Step: 0.1, MeanAbs: 1, Exponent: 0.5}
	require.InEpsilon(t, 0.2, u.RowStep(&RowStats{SumAbs: 40, Min: -5, Max: 5}, 10, 1), 1e-6)
	require.InEpsilon(t, 0.1, u.RowStep(&RowStats{SumAbs: 40, Min: -5, Max: 5}, 10, 0.5), 1e-6)
	require.Zero(t, u.RowStep(&RowStats{}, 10, 1))
	// A single huge weight widens the step so that codes stay within bounds.
	w := make([]float32, 1000)
	w[3] = -1e8
	s, _ := Measure(w)
	q := make([]int32, len(w))
	for _, factor := range []float32{1, 0.25} {
		Round(q, w, 1/u.RowStep(&s, len(w), factor))
		require.EqualValues(t, -MaxCode, q[3], "a row that matters much stays within them, too")
	}
}

func TestMinMax(t *testing.T) {
	for _, c := range []struct {
		lo, hi, min, scale float32
	}{{-1, 2, -1, 0.2}, {0, 3, 0, 0.2}, {0.5, 3, 0, 0.2}, {-3, -1, 0, -0.2}, {-3, 0, 0, -0.2}, {0, 0, 0, 0}} {
		m := NewMinMax(c.lo, c.hi, 4)
		require.Equal(t, c.min, m.Min)
		require.InDelta(t, c.scale, m.Scale, 1e-7)
		w := []float32{c.lo, c.hi, (c.lo + c.hi) / 2}
		q := make([]int32, 3)
		noise := 0.0
		want := m.Row(q, w)
		for i, x := range w {
			require.GreaterOrEqual(t, q[i], int32(0))
			require.LessOrEqual(t, q[i], int32(15))
			e := float64(x) - float64(m.Scale)*float64(q[i]) - float64(m.Min)
			require.LessOrEqual(t, math.Abs(e), 0.1000001)
			noise += e * e
		}
		require.InDelta(t, noise, want, 1e-12)
	}
}

func TestSample(t *testing.T) {
	for _, rows := range []int{1, 2, 7, 64, 1000, 49152} {
		for _, n := range []int{1, 3, 50, 700, 100000} {
			s := Sample(rows, n)
			require.Len(t, s, min(n, rows))
			for i, r := range s {
				require.Less(t, r, rows)
				require.True(t, i == 0 || r > s[i-1], "%d of %d: %v", n, rows, s)
			}
		}
	}
}

func TestOffsets(t *testing.T) {
	o := Offsets{"output": 1, Tied: 0.5, "token_embd": -1, "attn_v": 0.75, First: 0.25, Last: -0.25}
	require.NoError(t, o.Check())
	require.Equal(t, 1.0, o.Of("output.weight", Context{Layers: 4}))
	require.Equal(t, 0.5, o.Of("token_embd.weight", Context{Tied: true}))
	require.Equal(t, -1.0, o.Of("token_embd.weight", Context{}))
	require.Equal(t, 0.75, o.Of("blk.2.attn_v.weight", Context{Layers: 4}))
	require.Equal(t, 1.0, o.Of("blk.0.attn_v.weight", Context{Layers: 4}))
	require.Equal(t, 0.5, o.Of("blk.3.attn_v.weight", Context{Layers: 4}))
	require.Equal(t, 0.25, o.Of("blk.0.something.weight", Context{Layers: 4}))
	require.Zero(t, Offsets{}.Of("blk.2.attn_v.weight", Context{}))
	require.ErrorContains(t, Offsets{"attn_x": 1}.Check(), "attn_x")
	require.Error(t, Offsets{"attn_v": math.NaN()}.Check())
	require.NoError(t, DefaultOffsets(true).Check())
}

func BenchmarkRow(b *testing.B) {
	w, q := row(1536), make([]int32, 1536)
	for name, f := range map[string]func(){
		"measure": func() { Measure(w) },
		"round":   func() { Round(q, w, 4) },
		"row":     func() { Row(q, w, 0.25, true) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(w)), "ns/weight")
		})
	}
}
