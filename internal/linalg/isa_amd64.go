package linalg

import (
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// Available returns the functions that this processor can run, the fastest last.
func Available() []Kernels {
	x := &cpu.X86
	all := []Kernels{{isa.Generic}}
	if x.HasAVX2 && x.HasFMA {
		all = append(all, Kernels{isa.AVX2})
	}
	if x.HasAVX512F && x.HasAVX512VL {
		all = append(all, Kernels{isa.AVX512})
	}
	return all
}

// kernel adds the product of A, rows × k, and B, k × columns, to a tile of C; C and B have Col = 1, k > 0.
func (i Kernels) kernel(c, a, b Matrix, k int) {
	if i.ISA == isa.Generic {
		kernelGeneric(c, a, b, k)
		return
	}
	args := i.args(c, a, b, k)
	if i.ISA == isa.AVX512 {
		gemm512((*byte)(unsafe.Pointer(&args)))
	} else {
		gemm256((*byte)(unsafe.Pointer(&args)))
	}
}
