//go:build goexperiment.simd

package cpu

import (
	"simd/archsimd"
	"unsafe"
)

// simdKernels returns the sets of kernels that this CPU can run beside the generic one, the fastest first.
func simdKernels() []*kernels {
	var k []*kernels
	if archsimd.X86.AVX512() {
		k = append(k, &kernels{
			name: "AVX-512", dot4: dot4x512, half: half512, scaled: scaled512, factors: factors256,
			weighted: weighted512, exp: exp512, swiglu: swiglu512,
		})
	}
	if archsimd.X86.AVX2() && archsimd.X86.FMA() {
		k = append(k, &kernels{
			name: "AVX2", dot4: dot4x256, half: half256, scaled: scaled256, factors: factors256,
			weighted: weighted256, exp: exp256, swiglu: swiglu256,
		})
	}
	return k
}

// The loads and stores below do no bounds check: callers slice their operands to the full length first.

func f16At(s []float32, i int) *[16]float32 { return (*[16]float32)(elem(unsafe.SliceData(s), i)) }
func f8At(s []float32, i int) *[8]float32   { return (*[8]float32)(elem(unsafe.SliceData(s), i)) }
func f4At(s []float32, i int) *[4]float32   { return (*[4]float32)(elem(unsafe.SliceData(s), i)) }

func elem[T any](p *T, i int) unsafe.Pointer {
	return unsafe.Add(unsafe.Pointer(p), uintptr(i)*unsafe.Sizeof(*p))
}
