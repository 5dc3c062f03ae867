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

// Sums of T ≤ 32 (a power of two) values over the warp: that of v[t] in lanes t·32/T to (t + 1)·32/T − 1, with the bits of
// warp_sum. v is overwritten.
template <int T> __device__ __forceinline__ float warp_sums(float* v) {
    int bit = WARP / 2;
#pragma unroll
    for (int n = T / 2; n; n /= 2, bit /= 2) {
        bool upper = threadIdx.x & bit;
#pragma unroll
        for (int t = 0; t < n; t++) {
            float other = __shfl_xor_sync(ALL_LANES, upper ? v[t] : v[t + n], bit);
            v[t] = (upper ? v[t + n] : v[t]) + other;
        }
    }
#pragma unroll
    for (; bit; bit /= 2) v[0] += __shfl_xor_sync(ALL_LANES, v[0], bit);
    return v[0];
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int bit = 16; bit; bit >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, bit));
    return v;
}

// Largest magnitude, NaN if there is one: as integers, the bits of magnitudes are in their order and NaN comes last.
__device__ __forceinline__ float warp_max_magnitude(float v) {
    uint32_t bits = __float_as_uint(v) & 0x7fffffffu;
#pragma unroll
    for (int bit = 16; bit; bit >>= 1) bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, bit));
    return __uint_as_float(bits);
}

// Sum (or maximum) over a block of 256 threads, in every thread. scratch: 8 floats of shared memory, free again after the next
// barrier.
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

// c·tanh(x/c) = c − 2c / (exp(2x/c) + 1)
__device__ __forceinline__ float soft_capped(float x, float c) {
    return c - __fdividef(2 * c, __expf(__fdividef(2 * x, c)) + 1.0f);
}

// Elements 4·i … 4·i + 3 of a vector of n, one load for all where n is a multiple of 4 (vectors lie one after the other, 16-byte
// aligned). Those beyond n are 0, and are not written.
__device__ __forceinline__ void load_four(const float* x, int32_t i, int32_t n, float* v) {
    if (n % 4 == 0) {
        float4 f = {0, 0, 0, 0};
        if (4 * i < n) f = ((const float4*)x)[i];
        v[0] = f.x;
        v[1] = f.y;
        v[2] = f.z;
        v[3] = f.w;
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = 4 * i + k < n ? x[4 * i + k] : 0;
}
__device__ __forceinline__ void store_four(float* x, int32_t i, int32_t n, const float* v) {
    if (n % 4 == 0) {
        float4 f = {v[0], v[1], v[2], v[3]};
        if (4 * i < n) ((float4*)x)[i] = f;
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (4 * i + k < n) x[4 * i + k] = v[k];
}
