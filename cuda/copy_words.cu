// Copies words: what drivers launch to find out whether a device executes kernels, and measurements of memory.
#include "common.cuh"

// block 256, any grid (grid-stride), n: number of 32-bit words. dst[i] = src[i]
extern "C" __global__ void __launch_bounds__(256) copy_words(uint32_t* dst, const uint32_t* src, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < n; i += (int64_t)gridDim.x * 256) dst[i] = src[i];
}
