package linalg

import (
	"errors"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
)

// ErrNotPositive is returned for a matrix that is not positive definite within float32's precision.
var ErrNotPositive = errors.New("matrix is not positive definite")

// block is the number of columns that Cholesky factors at a time.
const block = 128

// Cholesky replaces the lower triangle of the symmetric n × n matrix s (row-major) by its factor L with S = L·Lᵀ. The upper
// triangle is neither read nor defined afterwards. It uses all cores.
func (i Kernels) Cholesky(s []float32, n int) error {
	m := RowMajor(s, n)
	panel := make([]float32, block*n) // −L21ᵀ
	scratch := NewScratch()
	for j0 := 0; j0 < n; j0 += block {
		nb := min(block, n-j0)
		diag := m.From(j0, j0)
		if err := factor(diag, nb); err != nil {
			return err
		}
		rest := n - j0 - nb
		if rest == 0 {
			break
		}
		inv := invert(diag, nb) // L11⁻ᵀ: L21 = A21·L11⁻ᵀ
		below := m.From(j0+nb, j0)
		p := RowMajor(panel, rest)
		parallel.With(scratch, (rest+block-1)/block, func(k int, s *Scratch) {
			r0 := k * block
			rows := min(block, rest-r0)
			out := make([]float32, rows*nb)
			i.MulAdd(RowMajor(out, nb), below.From(r0, 0), RowMajor(inv, nb), rows, nb, nb, s)
			for r := range rows {
				copy(below.Data[(r0+r)*n:(r0+r)*n+nb], out[r*nb:(r+1)*nb])
				for c := range nb {
					panel[c*rest+r0+r] = -out[r*nb+c]
				}
			}
		})
		// The last strips are the longest: they come first, so that no core waits for them.
		strips := (rest + block - 1) / block
		parallel.With(scratch, strips, func(k int, s *Scratch) {
			r0 := (strips - 1 - k) * block
			rows := min(block, rest-r0)
			i.MulAdd(m.From(j0+nb+r0, j0+nb), below.From(r0, 0), p, rows, r0+rows, nb, s)
		})
	}
	return nil
}

// factor is Cholesky for one block.
func factor(m Matrix, n int) error {
	for j := range n {
		row := m.Data[j*m.Row : j*m.Row+j+1]
		d := float64(row[j])
		for _, x := range row[:j] {
			d -= float64(x) * float64(x)
		}
		if !(d > 0) {
			return ErrNotPositive
		}
		d = math.Sqrt(d)
		row[j] = float32(d)
		for i := j + 1; i < n; i++ {
			other := m.Data[i*m.Row : i*m.Row+j+1]
			x := float64(other[j])
			for k, y := range row[:j] {
				x -= float64(y) * float64(other[k])
			}
			other[j] = float32(x / d)
		}
	}
	return nil
}

// invert returns the transposed inverse of a lower triangular matrix, row-major.
func invert(m Matrix, n int) []float32 {
	out := make([]float32, n*n)
	x := make([]float64, n)
	for c := range n { // column c of the inverse
		for r := c; r < n; r++ {
			sum := 0.0
			if r == c {
				sum = 1
			}
			for k := c; k < r; k++ {
				sum -= float64(m.Data[r*m.Row+k]) * x[k]
			}
			x[r] = sum / float64(m.Data[r*m.Row+r])
			out[c*n+r] = float32(x[r])
		}
	}
	return out
}
