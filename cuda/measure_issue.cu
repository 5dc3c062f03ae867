// How many instructions a multiprocessor starts of the kind that products consist of (bench/kernels -rates).
#include "common.cuh"

// grid any, block 256. A step is 8 half2 multiply-adds and 8 logic operations, in 8 chains.
// y  [threads of the grid] the chains' results
extern "C" __global__ void __launch_bounds__(256) measure_issue(uint32_t* y, int32_t steps) {
    uint32_t v[8];
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = threadIdx.x + k;
    for (int32_t i = 0; i < steps; i++) {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = and_or(half2_fma(v[k], 0x3c003c00u, 0x00010001u), 0x03ff03ffu, 0x3c003c00u);
    }
    uint32_t all = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) all ^= v[k];
    y[blockIdx.x * 256 + threadIdx.x] = all;
}
