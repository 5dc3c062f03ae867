package linalg

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// Small integers make all sums exact: the results must be equal.
func integers(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.IntN(17) - 8)
	}
	return x
}

func naive(c, a, b Matrix, m, n, k int) {
	for i := range m {
		for j := range n {
			for l := range k {
				c.Data[i*c.Row+j] += a.Data[i*a.Row+l*a.Col] * b.Data[l*b.Row+j*b.Col]
			}
		}
	}
}

func TestMulAdd(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, kernels := range Available() {
		for _, dim := range [][3]int{{8, 32, 1}, {8, 32, 300}, {1, 1, 1}, {13, 45, 260}, {64, 64, 64}, {9, 96, 513}, {40, 7, 5}} {
			m, n, k := dim[0], dim[1], dim[2]
			for form := range 4 {
				a, b := RowMajor(integers(r, m*k), k), RowMajor(integers(r, k*n), n)
				if form&1 != 0 {
					a = RowMajor(a.Data, m).T()
				}
				if form&2 != 0 {
					b = RowMajor(b.Data, k).T()
				}
				cs := n + 3
				want := RowMajor(integers(r, m*cs), cs)
				got := RowMajor(append([]float32{}, want.Data...), cs)
				naive(want, a, b, m, n, k)
				kernels.MulAdd(got, a, b, m, n, k, &Scratch{})
				require.Equal(t, want.Data, got.Data, "%s %v form %d", kernels, dim, form)
			}
		}
	}
}

func BenchmarkMulAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, kernels := range Available() {
		const m, n, k = 1536, 512, 1536
		x, y, z := RowMajor(integers(r, m*k), k), RowMajor(integers(r, k*n), n), RowMajor(make([]float32, m*n), n)
		for _, form := range []string{"normal", "transposed"} {
			b.Run(fmt.Sprint(kernels, " ", form), func(b *testing.B) {
				a := x
				if form == "transposed" {
					a = RowMajor(x.Data, m).T()
				}
				var s Scratch
				for b.Loop() {
					kernels.MulAdd(z, a, y, m, n, k, &s)
				}
				b.ReportMetric(m*n*k*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
			})
		}
	}
}
