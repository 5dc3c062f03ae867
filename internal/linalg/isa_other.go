//go:build !amd64 && !arm64

package linalg

import "github.com/ellm-gpu/ellm-gpu/internal/isa"

// Available returns the functions that this processor can run, the fastest last.
func Available() []Kernels { return []Kernels{{isa.Generic}} }

func (i Kernels) kernel(c, a, b Matrix, k int) { kernelGeneric(c, a, b, k) }
