// Layout of a vector prepared by x_prepare, S = steps:
//   byte 0         float unit, a power of two: x ≈ unit · half
//   byte 4         float unit · Σ halves
//   byte 64        half [64·S] in column order, zero beyond cols, |half| < 4
//   byte 64+128·S  float [4·S] sums of 16 halves each
//   byte 64+144·S  half2 [tile][⌈steps_per_tile/4⌉][lane][4]: a lane's pairs of four steps in a row, zero beyond the tile's last step
#pragma once
#include "common.cuh"

enum { PREPARED_HEADER = 64 };

__device__ __forceinline__ float prepared_unit(const uint8_t* xp) { return ((const float*)xp)[0]; }
__device__ __forceinline__ float prepared_sum(const uint8_t* xp) { return ((const float*)xp)[1]; }
__device__ __forceinline__ const uint4* prepared_natural(const uint8_t* xp) { return (const uint4*)(xp + PREPARED_HEADER); }
__device__ __forceinline__ const float* prepared_sums(const uint8_t* xp, int32_t steps) { return (const float*)(xp + PREPARED_HEADER + 128 * (int64_t)steps); }
__device__ __forceinline__ const uint4* prepared_stepped(const uint8_t* xp, int32_t steps) { return (const uint4*)(xp + PREPARED_HEADER + 144 * (int64_t)steps); }
