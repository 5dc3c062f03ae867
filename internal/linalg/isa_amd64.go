package linalg

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// available returns the instruction sets of this processor, the fastest last.
func available() []ISA {
	x := &cpu.X86
	all := []ISA{Generic}
	if x.HasAVX2 && x.HasFMA {
		all = append(all, AVX2)
	}
	if x.HasAVX512F && x.HasAVX512VL {
		all = append(all, AVX512)
	}
	return all
}

// kernel adds the product of A, rows × k, and B, k × columns, to a tile of C; C and B have Col = 1, k > 0.
func (i ISA) kernel(c, a, b Matrix, k int) {
	if i == Generic {
		kernelGeneric(c, a, b, k)
		return
	}
	args := i.args(c, a, b, k)
	if i == AVX512 {
		gemm512((*byte)(unsafe.Pointer(&args)))
	} else {
		gemm256((*byte)(unsafe.Pointer(&args)))
	}
}
