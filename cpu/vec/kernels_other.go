//go:build !(amd64 && goexperiment.simd) && !arm64

package vec

// Available returns the kernels that this processor can run beside the generic ones, the fastest first: none in this build.
func Available() []*Kernels { return nil }
