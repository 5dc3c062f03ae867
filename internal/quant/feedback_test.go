package quant

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
)

// correlated returns the moments of n inputs that share a few directions, and their Cholesky factor.
func correlated(t testing.TB, r *rand.Rand, n int) (s, l []float32) {
	const shared = 5
	mix, tokens := make([]float64, shared*n), 4*n
	for i := range mix {
		mix[i] = r.NormFloat64()
	}
	x := make([]float32, tokens*n)
	for k := range tokens {
		var z [shared]float64
		for i := range z {
			z[i] = r.NormFloat64()
		}
		for i := range n {
			v := r.NormFloat64()
			for m, y := range z {
				v += mix[m*n+i] * y
			}
			x[k*n+i] = float32(v * math.Exp(math.Sin(float64(i))))
		}
	}
	s = make([]float32, n*n)
	linalg.Best().MulAdd(linalg.RowMajor(s, n), linalg.RowMajor(x, n).T(), linalg.RowMajor(x, n), n, n, tokens, &linalg.Scratch{})
	l = append([]float32{}, s...)
	require.NoError(t, linalg.Best().Cholesky(l, n))
	return s, l
}

// plainFeedback is Feedback.Rows for one row, as the formula says.
func plainFeedback(l []float32, w []float32, step, scale float64) []int16 {
	n := len(w)
	out, e := make([]int16, n), make([]float64, n)
	for j := n - 1; j >= 0; j-- {
		y := float64(w[j])
		for i := j + 1; i < n; i++ {
			y += e[i] * float64(l[i*n+j]) / float64(l[j*n+j])
		}
		q := math.RoundToEven(y / step)
		out[j], e[j] = int16(q), float64(w[j])-scale*q
	}
	return out
}

func outputError[T int16 | int32](s, w []float32, q []T, scale float64) (sum float64) {
	n := len(w)
	for i := range n {
		for j := range n {
			sum += (float64(w[i]) - scale*float64(q[i])) * float64(s[i*n+j]) * (float64(w[j]) - scale*float64(q[j]))
		}
	}
	return sum
}

func TestFeedback(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 7, 64, 65, 200} {
		s, l := correlated(t, r, n)
		f := &Feedback{Cols: n}
		f.SetFactor(l, nil)
		rows := min(n, FeedbackRows)
		w, step, scale := make([]float32, rows*n), make([]float32, rows), make([]float32, rows)
		for i := range w {
			w[i] = float32(r.NormFloat64())
		}
		for i := range step {
			step[i] = 0.2 + 0.01*float32(i)
			scale[i] = step[i] * 0.98
		}
		got := make([]int16, len(w))
		f.Rows(linalg.Best(), got, w, step, scale, &FeedbackScratch{})
		differ, fed, plain := 0, 0.0, 0.0
		for i := range rows {
			row := w[i*n : (i+1)*n]
			want := plainFeedback(l, row, float64(step[i]), float64(scale[i]))
			for j := range want {
				if got[i*n+j] != want[j] {
					differ++
				}
			}
			fed += outputError(s, row, got[i*n:(i+1)*n], float64(scale[i]))
			q := make([]int32, n)
			Round(q, row, 1/step[i])
			plain += outputError(s, row, q, float64(scale[i]))
		}
		// A sum that falls on the edge of a cell may round the other way in float32, and that changes the columns after it.
		require.LessOrEqual(t, differ, len(w)/50, "n = %d", n)
		if n >= 64 {
			require.Less(t, fed, plain/2, "n = %d", n)
		}
	}
}

func TestFeedbackScaled(t *testing.T) {
	const n = 100
	r := rand.New(rand.NewPCG(5, 6))
	_, l := correlated(t, r, n)
	scale := make([]float32, n)
	for i := range scale {
		scale[i] = float32(math.Exp2(float64(r.IntN(7) - 3)))
	}
	scaled := make([]float32, n*n)
	for i := range n {
		for j := range n {
			scaled[i*n+j] = l[i*n+j] * scale[i]
		}
	}
	a, b := &Feedback{Cols: n}, &Feedback{Cols: n}
	a.SetFactor(l, scale)
	b.SetFactor(scaled, nil)
	require.InDeltaSlice(t, b.Factor, a.Factor, 1e-4)
}

// A row of zeros, and codes that would not fit, stay harmless.
func TestFeedbackExtremes(t *testing.T) {
	const n = 70
	_, l := correlated(t, rand.New(rand.NewPCG(7, 8)), n)
	f := &Feedback{Cols: n}
	f.SetFactor(l, nil)
	w := make([]float32, 2*n)
	for i := range n {
		w[n+i] = 1e30
	}
	got := make([]int16, 2*n)
	f.Rows(linalg.With(isa.Generic), got, w, []float32{0, 1e-30}, []float32{0, 1e-30}, &FeedbackScratch{})
	for i, q := range got {
		if i < n {
			require.Zero(t, q)
		} else {
			require.LessOrEqual(t, max(q, -q), int16(maxRounded))
		}
	}
}

func BenchmarkFeedback(b *testing.B) {
	const n = 1536
	r := rand.New(rand.NewPCG(1, 2))
	l := make([]float32, n*n)
	for i := range l {
		l[i] = float32(r.NormFloat64()) / n
	}
	for i := range n {
		l[i*n+i] = 1
	}
	f := &Feedback{Cols: n}
	f.SetFactor(l, nil)
	w, step := make([]float32, FeedbackRows*n), make([]float32, FeedbackRows)
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	for i := range step {
		step[i] = 0.3
	}
	dst := make([]int16, len(w))
	var s FeedbackScratch
	for b.Loop() {
		f.Rows(linalg.Best(), dst, w, step, step, &s)
	}
	b.ReportMetric(float64(len(w))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
}
