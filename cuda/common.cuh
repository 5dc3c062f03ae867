// What every kernel file includes: integer types, half precision, shared memory, reductions.
#pragma once
#include <stdint.h>
#include "ptx.cuh"

static const int32_t WARP = 32;
static const uint32_t ALL_LANES = 0xffffffffu;

// SHARED_DYNAMIC(T, p): T* p = the launch's dynamic shared memory. SHARED_ARRAY(T, p, n): T p[n] in shared memory.
#ifdef __CUDACC__
extern __shared__ uint4 shared_dynamic_memory[];
#define SHARED_DYNAMIC(T, p) T* p = (T*)shared_dynamic_memory
#define SHARED_ARRAY(T, p, n) __shared__ T p[n]
#else
#define SHARED_DYNAMIC(T, p) T* p = (T*)emu::shared_dynamic()
#define SHARED_ARRAY(T, p, n)   \
    static const char p##_site = 0; \
    T* p = (T*)emu::shared_static(&p##_site, sizeof(T) * (n))
#endif

__device__ __forceinline__ uint2 uint2_of(uint32_t x, uint32_t y) {
    uint2 u = {x, y};
    return u;
}
__device__ __forceinline__ uint4 uint4_of(const uint32_t* v) {
    uint4 u = {v[0], v[1], v[2], v[3]};
    return u;
}

// Sum of v over the warp, in every lane; always added in the same order.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int bit = 16; bit; bit >>= 1) v += __shfl_xor_sync(ALL_LANES, v, bit);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int bit = 16; bit; bit >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, bit));
    return v;
}

// Sum (or maximum) over a block of 256 threads, in every thread. scratch: 8 floats of shared memory, free again after the next barrier.
template <bool MAX> __device__ __forceinline__ float block_reduce_256(float v, float* scratch) {
    v = MAX ? warp_max(v) : warp_sum(v);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = v;
    __syncthreads();
    v = scratch[0];
#pragma unroll
    for (int i = 1; i < 8; i++) v = MAX ? fmaxf(v, scratch[i]) : v + scratch[i];
    return v;
}

// Bits of a bfloat16 number as float32.
__device__ __forceinline__ float bf16_to_float(uint16_t b) { return __uint_as_float((uint32_t)b << 16); }

// Sine and cosine of 0 ≤ a < 2^20 to about 1e-6: reduced to ±π in three steps (Cody, Waite 1980), without the
// local memory that sinf's reduction of huge arguments takes.
__device__ __forceinline__ void sin_cos(float a, float* sin_a, float* cos_a) {
    float turns = rintf(a * 0.159154943f);
    a = fmaf(turns, -6.28125f, a);
    a = fmaf(turns, -0.0019350051879882812f, a);
    a = fmaf(turns, -3.0199159e-7f, a);
    *sin_a = __sinf(a);
    *cos_a = __cosf(a);
}
