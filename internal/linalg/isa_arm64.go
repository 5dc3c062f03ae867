package linalg

import (
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// Available returns the functions that this processor can run, the fastest last.
func Available() []Kernels { return []Kernels{{isa.Generic}, {isa.NEON}} }

func (i Kernels) kernel(c, a, b Matrix, k int) {
	if i.ISA == isa.Generic {
		kernelGeneric(c, a, b, k)
		return
	}
	args := i.args(c, a, b, k)
	gemmNEON((*byte)(unsafe.Pointer(&args)))
}
