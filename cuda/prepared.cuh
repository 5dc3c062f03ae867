// Layout of a vector prepared by x_prepare, S = steps:
//   byte 0         float unit, a power of two: x ≈ unit · half
//   byte 4         float unit · Σ halves
//   byte 64        half [⌈S/16⌉][4][32 pieces][8], zero beyond cols, |half| < 4: the columns of a piece (32 columns) in four parts
//   then           float [4·S] sums of 16 halves each, in column order
//   then           half2 [tile][⌈steps_per_tile/4⌉][lane][4]: a lane's pairs of four steps in a row, zero beyond the tile's last step
#pragma once
#include "common.cuh"

enum { PREPARED_HEADER = 64 };

__device__ __forceinline__ float prepared_unit(const uint8_t* xp) { return ((const float*)xp)[0]; }
__device__ __forceinline__ float prepared_sum(const uint8_t* xp) { return ((const float*)xp)[1]; }
__device__ __forceinline__ int64_t prepared_pieces_size(int32_t steps) { return 2048 * (int64_t)((steps + 15) / 16); }
// Where the first of a piece's four parts is; the others follow 32 uint4 apart each.
__device__ __forceinline__ const uint4* prepared_piece(const uint8_t* xp, uint32_t piece) { return (const uint4*)(xp + PREPARED_HEADER) + (piece / 32 * 128 + piece % 32); }
// Columns 8·i … 8·i + 7.
__device__ __forceinline__ const uint4* prepared_eight(const uint8_t* xp, int32_t i) { return prepared_piece(xp, i / 4) + i % 4 * 32; }
// Index of columns 2·pair and 2·pair + 1 among all half2 behind the header.
__device__ __forceinline__ int32_t prepared_pair(int32_t pair) { return pair / 512 * 512 + pair / 4 % 4 * 128 + pair / 16 % 32 * 4 + pair % 4; }
__device__ __forceinline__ float prepared_value(const uint8_t* xp, int32_t col) {
    return half_to_float(((const uint16_t*)(xp + PREPARED_HEADER))[2 * prepared_pair(col / 2) + col % 2]);
}
__device__ __forceinline__ const float* prepared_sums(const uint8_t* xp, int32_t steps) { return (const float*)(xp + PREPARED_HEADER + prepared_pieces_size(steps)); }
__device__ __forceinline__ const uint4* prepared_stepped(const uint8_t* xp, int32_t steps) { return (const uint4*)(xp + PREPARED_HEADER + prepared_pieces_size(steps) + 16 * (int64_t)steps); }
