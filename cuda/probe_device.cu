// What a program runs first on a device, to see that its kernels work there.
#include "prepare.cuh"

// grid 2, block 64, 256 bytes of dynamic shared memory. Uses what the other kernels rest on: shuffles, dynamic shared memory,
// half precision, and the last block that sees what the others wrote.
// x     [128] pairs of half precision numbers
// y     [129] y[i] = (2·hi + 1, lo + 1 of x, as a word) of thread 63 − i of the block, plus i xor 5; y[128] is the sum of the
// others done  0 before and after
extern "C" __global__ void __launch_bounds__(64) probe_device(const uint32_t* x, uint32_t* y, uint32_t* done) {
    SHARED_DYNAMIC(uint32_t, s);
    SHARED_ARRAY(uint32_t, sums, 2);
    uint32_t i = blockIdx.x * 64 + threadIdx.x;
    s[threadIdx.x] = half2_fma(x[i], 0x40003c00u, 0x3c003c00u);
    __syncthreads();
    y[i] = s[63 - threadIdx.x] + __shfl_xor_sync(ALL_LANES, i, 5);
    if (!last_block(done, gridDim.x)) return;
    uint32_t sum = y[threadIdx.x] + y[64 + threadIdx.x];
#pragma unroll
    for (int bit = 16; bit; bit >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, bit);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x == 0) y[128] = sums[0] + sums[1];
}
