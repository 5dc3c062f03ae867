//go:build goexperiment.simd

package vec

import (
	"simd/archsimd"
	"unsafe"
)

// Available returns the kernels that this processor can run beside the generic ones, the fastest first.
func Available() []*Kernels {
	var k []*Kernels
	if archsimd.X86.AVX512() {
		k = append(k, &Kernels{
			Name: "AVX-512", Dot4: dot4x512, Half: half512, Scaled: scaled512, Factors: factors256,
			Weighted: weighted512, Mix: mix512, Exp: exp512, SwiGLU: swiglu512,
		})
	}
	if archsimd.X86.AVX2() && archsimd.X86.FMA() {
		k = append(k, &Kernels{
			Name: "AVX2", Dot4: dot4x256, Half: half256, Scaled: scaled256, Factors: factors256,
			Weighted: weighted256, Mix: mix256, Exp: exp256, SwiGLU: swiglu256,
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
