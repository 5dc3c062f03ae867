//go:build !amd64 && !arm64

package linalg

// available returns the instruction sets of this processor, the fastest last.
func available() []ISA { return []ISA{Generic} }

func (i ISA) kernel(c, a, b Matrix, k int) { kernelGeneric(c, a, b, k) }
