package linalg

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// Best returns the fastest instruction set of this processor.
func Best() ISA {
	switch x := &cpu.X86; {
	case x.HasAVX512F && x.HasAVX512VL:
		return AVX512
	case x.HasAVX2 && x.HasFMA:
		return AVX2
	}
	return Generic
}

// tileArgs mirrors the offsets in internal/asm.
type tileArgs struct {
	c     unsafe.Pointer
	cRow  int // strides are in bytes
	a     unsafe.Pointer
	aRow  int
	aK    int
	b     unsafe.Pointer
	bK, k int
}

// kernel adds the product of A, rows × k, and B, k × columns, to a tile of C; C and B have Col = 1, k > 0.
func (i ISA) kernel(c, a, b Matrix, k int) {
	if i == Generic {
		kernelGeneric(c, a, b, k)
		return
	}
	rows, cols := i.tile()
	args := tileArgs{
		c: unsafe.Pointer(&c.Data[:(rows-1)*c.Row+cols][0]), cRow: 4 * c.Row,
		a: unsafe.Pointer(&a.Data[:(rows-1)*a.Row+(k-1)*a.Col+1][0]), aRow: 4 * a.Row, aK: 4 * a.Col,
		b: unsafe.Pointer(&b.Data[:(k-1)*b.Row+cols][0]), bK: 4 * b.Row, k: k,
	}
	if i == AVX512 {
		gemm512((*byte)(unsafe.Pointer(&args)))
	} else {
		gemm256((*byte)(unsafe.Pointer(&args)))
	}
}
