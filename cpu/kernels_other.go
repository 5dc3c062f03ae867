//go:build !(amd64 && goexperiment.simd) && !arm64

package cpu

// simdKernels returns the sets of kernels that this CPU can run beside the generic one, the fastest first: none in this build.
func simdKernels() []*kernels { return nil }
