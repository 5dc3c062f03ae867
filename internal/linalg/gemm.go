// Package linalg has the little dense linear algebra that calibration needs, in float32: products of matrices at the processor's
// speed, and the Cholesky factorization. Sums are formed in an order that depends on the shapes alone, so that results do not
// change with the number of threads.
package linalg

import (
	"runtime"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// Kernels are this package's functions in one instruction set: AVX2 needs FMA too, AVX-512 needs F and VL.
type Kernels struct{ isa.ISA }

// With returns the functions in instruction set i, which must be one of Available.
func With(i isa.ISA) Kernels { return Kernels{i} }

// Best returns the fastest functions of this processor.
func Best() Kernels {
	all := Available()
	return all[len(all)-1]
}

// tileArgs are a kernel's arguments, with the offsets in internal/asm.
type tileArgs struct {
	c     unsafe.Pointer
	cRow  int // strides are in bytes
	a     unsafe.Pointer
	aRow  int
	aK    int
	b     unsafe.Pointer
	bK, k int
}

// args checks a tile's slices and points to them.
func (i Kernels) args(c, a, b Matrix, k int) tileArgs {
	rows, cols := i.tile()
	return tileArgs{
		c: unsafe.Pointer(&c.Data[:(rows-1)*c.Row+cols][0]), cRow: 4 * c.Row,
		a: unsafe.Pointer(&a.Data[:(rows-1)*a.Row+(k-1)*a.Col+1][0]), aRow: 4 * a.Row, aK: 4 * a.Col,
		b: unsafe.Pointer(&b.Data[:(k-1)*b.Row+cols][0]), bK: 4 * b.Row, k: k,
	}
}

// Matrix is a matrix of float32 with any strides: element (i, j) is Data[i·Row + j·Col].
type Matrix struct {
	Data     []float32
	Row, Col int
}

// RowMajor returns a matrix whose rows of the given length follow each other.
func RowMajor(data []float32, cols int) Matrix { return Matrix{data, cols, 1} }

// T returns the transpose, which shares the elements.
func (m Matrix) T() Matrix { return Matrix{m.Data, m.Col, m.Row} }

// From returns the part of m that begins at (i, j).
func (m Matrix) From(i, j int) Matrix { return Matrix{m.Data[i*m.Row+j*m.Col:], m.Row, m.Col} }

// depth is how many products are summed in registers before the sum is added to C: a panel of B of that depth fits the
// first-level cache.
const depth = 256

// Scratch is memory that products use; one per goroutine.
type Scratch struct{ panel, edge []float32 }

// NewScratch returns scratch for a goroutine on every core.
func NewScratch() []Scratch { return make([]Scratch, runtime.GOMAXPROCS(0)) }

func (s *Scratch) grow() {
	if s.panel == nil {
		s.panel = make([]float32, depth*32)
		s.edge = make([]float32, 8*32+8*depth)
	}
}

// tile returns the rows and columns of C that a kernel computes at once.
func (i Kernels) tile() (rows, cols int) {
	if i.ISA == isa.AVX512 {
		return 8, 32
	}
	return 4, 16
}

// MulAdd adds A·B to C: C is m × n with Col = 1, A is m × k, B is k × n. C must not overlap the others.
func (i Kernels) MulAdd(c, a, b Matrix, m, n, k int, s *Scratch) {
	s.grow()
	tm, tn := i.tile()
	for k0 := 0; k0 < k; k0 += depth {
		kk := min(depth, k-k0)
		for n0 := 0; n0 < n; n0 += tn {
			nn := min(tn, n-n0)
			pb := pack(s.panel, b.From(k0, n0), kk, nn, tn)
			for m0 := 0; m0 < m; m0 += tm {
				mm := min(tm, m-m0)
				if mm == tm && nn == tn {
					i.kernel(c.From(m0, n0), a.From(m0, k0), pb, kk)
				} else {
					i.edge(c.From(m0, n0), a.From(m0, k0), pb, mm, nn, kk, s)
				}
			}
		}
	}
}

// pack copies a panel of B, k × n, to rows of tn elements; missing columns are zero.
func pack(dst []float32, b Matrix, k, n, tn int) Matrix {
	switch {
	case b.Col == 1:
		for i := range k {
			row := dst[i*tn : (i+1)*tn]
			clear(row[copy(row, b.Data[i*b.Row:i*b.Row+n]):])
		}
	default:
		if n < tn {
			clear(dst[:k*tn])
		}
		for j := range n {
			for i, at := 0, j*b.Col; i < k; i, at = i+1, at+b.Row {
				dst[i*tn+j] = b.Data[at]
			}
		}
	}
	return RowMajor(dst, tn)
}

// edge is kernel for a tile that is not whole.
func (i Kernels) edge(c, a, b Matrix, m, n, k int, s *Scratch) {
	tm, tn := i.tile()
	ct, at := RowMajor(s.edge[:tm*tn], tn), RowMajor(s.edge[8*32:], k)
	for r := range tm {
		row := ct.Data[r*tn : (r+1)*tn]
		clear(row)
		ar := at.Data[r*k : (r+1)*k]
		if r >= m {
			clear(ar)
			continue
		}
		copy(row, c.Data[r*c.Row:r*c.Row+n])
		for j := range ar {
			ar[j] = a.Data[r*a.Row+j*a.Col]
		}
	}
	i.kernel(ct, at, b, k)
	for r := range m {
		copy(c.Data[r*c.Row:r*c.Row+n], ct.Data[r*tn:])
	}
}

// kernelGeneric adds the product of a 4 × k and a k × 16 matrix to C.
func kernelGeneric(c, a, b Matrix, k int) {
	for r := range 4 {
		var acc [16]float32
		for j := range k {
			x, row := a.Data[r*a.Row+j*a.Col], (*[16]float32)(b.Data[j*b.Row:])
			for i := range acc {
				acc[i] += float32(x * row[i])
			}
		}
		row := (*[16]float32)(c.Data[r*c.Row:])
		for i := range row {
			row[i] += acc[i]
		}
	}
}
