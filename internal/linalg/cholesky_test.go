package linalg

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// gram returns XᵀX for a random X of t × n, with a little added to the diagonal.
func gram(r *rand.Rand, n, t int) []float32 {
	x := make([]float32, n*t)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	s := RowMajor(make([]float32, n*n), n)
	Best().MulAdd(s, RowMajor(x, n).T(), RowMajor(x, n), n, n, t, &Scratch{})
	for i := range n {
		s.Data[i*n+i] *= 1.01
	}
	return s.Data
}

func TestCholesky(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, kernels := range Available() {
		for _, n := range []int{1, 5, 64, 65, 200, 389} {
			s := gram(r, n, 2*n)
			l := append([]float32{}, s...)
			require.NoError(t, kernels.Cholesky(l, n))
			worst := 0.0
			for i := range n {
				for j := range i + 1 {
					x := 0.0
					for k := range j + 1 {
						x += float64(l[i*n+k]) * float64(l[j*n+k])
					}
					worst = max(worst, math.Abs(x-float64(s[i*n+j]))/math.Sqrt(float64(s[i*n+i])*float64(s[j*n+j])))
				}
			}
			require.Less(t, worst, 1e-5, "%s n = %d", kernels, n)
		}
	}
}

func TestCholeskyNotPositive(t *testing.T) {
	s := []float32{1, 0, 2, 1}
	require.ErrorIs(t, With(isa.Generic).Cholesky(s, 2), ErrNotPositive)
	nan := []float32{float32(math.NaN())}
	require.ErrorIs(t, With(isa.Generic).Cholesky(nan, 1), ErrNotPositive)
}

func BenchmarkCholesky(b *testing.B) {
	for _, n := range []int{1536, 3072} {
		s := gram(rand.New(rand.NewPCG(1, 2)), n, 2*n)
		l := make([]float32, n*n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				copy(l, s)
				require.NoError(b, Best().Cholesky(l, n))
			}
			b.ReportMetric(float64(n)*float64(n)*float64(n)/6*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}
