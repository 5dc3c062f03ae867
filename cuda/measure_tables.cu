// How fast shared memory is read at random addresses, as code tables are (bench/kernels -rates).
#include "common.cuh"

// grid any, block 256, 4·entries bytes of dynamic shared memory
// y        [threads of the grid] the last entry that each has read
// entries  of the table, a power of two from 64 on
// random   1: at random; 0: every lane stays in a bank of its own
extern "C" __global__ void __launch_bounds__(256) measure_tables(uint32_t* y, int32_t entries, int32_t random, int32_t steps) {
    SHARED_DYNAMIC(uint32_t, table);
    for (uint32_t i = threadIdx.x; i < (uint32_t)entries; i += 256) table[i] = (random ? (i + 1) * 2654435761u >> 8 : i + 32)
        & (entries - 1);
    __syncthreads();
    uint32_t at[4];
#pragma unroll
    for (int k = 0; k < 4; k++) at[k] = (threadIdx.x % WARP + 32 * k) & (entries - 1);
    for (int32_t i = 0; i < steps; i++) {
#pragma unroll
        for (int k = 0; k < 4; k++) at[k] = table[(at[k] + (random ? (uint32_t)i * threadIdx.x : 0)) & (entries - 1)];
    }
    y[blockIdx.x * 256 + threadIdx.x] = at[0] ^ at[1] ^ at[2] ^ at[3];
}
