// Element-wise operations. All: block 256, any grid (grid-stride), n = number of floats.
#include "common.cuh"

// y[i] += x[i]
extern "C" __global__ void __launch_bounds__(256) add(float* y, const float* x, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < n; i += (int64_t)gridDim.x * 256) y[i] += x[i];
}
// dst[i] = src[i], 32-bit words
extern "C" __global__ void __launch_bounds__(256) copy_words(uint32_t* dst, const uint32_t* src, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < n; i += (int64_t)gridDim.x * 256) dst[i] = src[i];
}
