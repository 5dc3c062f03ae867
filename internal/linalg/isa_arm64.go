package linalg

import "unsafe"

// available returns the instruction sets of this processor, the fastest last.
func available() []ISA { return []ISA{Generic, NEON} }

func (i ISA) kernel(c, a, b Matrix, k int) {
	if i == Generic {
		kernelGeneric(c, a, b, k)
		return
	}
	args := i.args(c, a, b, k)
	gemmNEON((*byte)(unsafe.Pointer(&args)))
}
