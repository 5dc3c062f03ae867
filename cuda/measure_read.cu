// How fast device memory is read (bench/kernels -rates).
#include "common.cuh"

// grid any, block 256
// x  [n] read once, 16 bytes at a time
// y  [threads of the grid] something that depends on all of x
extern "C" __global__ void __launch_bounds__(256) measure_read(const uint4* x, uint32_t* y, int64_t n) {
    int64_t thread = (int64_t)blockIdx.x * 256 + threadIdx.x, threads = (int64_t)gridDim.x * 256;
    uint32_t all = 0;
#pragma unroll 8
    for (int64_t i = thread; i < n; i += threads) {
        uint4 v = __ldg(x + i);
        all ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    y[thread] = all;
}
