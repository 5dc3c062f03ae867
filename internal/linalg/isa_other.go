//go:build !amd64

package linalg

// Best returns the fastest instruction set of this processor.
func Best() ISA { return Generic }

func (i ISA) kernel(c, a, b Matrix, k int) { kernelGeneric(c, a, b, k) }
