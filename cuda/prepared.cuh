// Layouts of vectors prepared by x_prepare, for matrices of S steps; B = ⌈S/16⌉. A vector x is unit · half, with unit a power of
// two and |half| < 4. Columns come in pieces of 32, each in four parts of 8, zero beyond the matrix's columns.
//
// For products of many vectors, each for itself:
//   byte 0         float unit, then float unit · Σ halves
//   byte 64        half [B·1024] in column order
//
// For products of up to SLOTS vectors, all side by side in slots, so that the vectors of a product are at constant distances:
//   byte 0         float [SLOTS][2]: unit, unit · Σ halves
//   byte 64        half [B][SLOTS][4 parts][32 pieces][8]
//   then           float [B][SLOTS][64]: sums of 16 halves each, in column order
//   then           half2 [tile][⌈steps_per_tile/4⌉][SLOTS][lane][4]: a lane's pairs of four steps in a
//                  row, zero beyond the tile's last
#pragma once
#include "common.cuh"

enum { PREPARED_HEADER = 64, SLOTS = 8, BLOCK_PIECES = 32 };
// uint4 of a block of 16 steps, and from four steps to the next.
enum { BLOCK_UINT4 = 4 * BLOCK_PIECES, STEPPED_PITCH = SLOTS * WARP };

__device__ __forceinline__ int32_t prepared_blocks(int32_t steps) { return (steps + 15) / 16; }

// ---- one vector for itself ----
__device__ __forceinline__ float prepared_unit(const uint8_t* xp) { return ((const float*)xp)[0]; }
__device__ __forceinline__ float prepared_sum(const uint8_t* xp) { return ((const float*)xp)[1]; }
// Columns 8·i … 8·i + 7.
__device__ __forceinline__ const uint4* prepared_eight(const uint8_t* xp, int32_t i) {
    return (const uint4*)(xp + PREPARED_HEADER) + i;
}

// ---- side by side ----
__device__ __forceinline__ float side_unit(const uint8_t* side, int32_t slot) { return ((const float*)side)[2 * slot]; }
__device__ __forceinline__ float side_sum(const uint8_t* side, int32_t slot) { return ((const float*)side)[2 * slot + 1]; }
// Where the first of a piece's four parts is, in slot 0; the others follow BLOCK_PIECES apart each, other slots BLOCK_UINT4
// apart.
__device__ __forceinline__ const uint4* side_piece(const uint8_t* side, uint32_t piece) {
    return (const uint4*)(side + PREPARED_HEADER) + (piece / BLOCK_PIECES * (SLOTS * BLOCK_UINT4) + piece % BLOCK_PIECES);
}
// Sums of 16 columns, in slot 0: that of columns 16·i … is at side_sum_at(i), other slots are 64 apart.
__device__ __forceinline__ const float* side_sums(const uint8_t* side, int32_t steps) {
    return (const float*)(side + PREPARED_HEADER + (int64_t)prepared_blocks(steps) * (SLOTS * BLOCK_UINT4 * 16));
}
__device__ __forceinline__ uint32_t side_sum_at(uint32_t i) { return i / 64 * (SLOTS * 64) + i % 64; }
// Where the steps of a tile begin, of the vector in a slot and of this lane.
__device__ __forceinline__ const uint4* side_tile(const uint8_t* side, int32_t steps, int32_t steps_per_tile, int32_t tile,
    int32_t slot) {
    const uint4* stepped = (const uint4*)(side_sums(side, steps) + prepared_blocks(steps) * (SLOTS * 64));
    return stepped + tile * ((steps_per_tile + 3) / 4) * STEPPED_PITCH + slot * WARP + threadIdx.x % WARP;
}

// Index of columns 2·pair and 2·pair + 1 among all half2 of the pieces of a slot.
__device__ __forceinline__ int32_t side_pair(int32_t pair) {
    return pair / 512 * (512 * SLOTS) + pair / 4 % 4 * 128 + pair / 16 % 32 * 4 + pair % 4;
}
__device__ __forceinline__ float side_value(const uint8_t* side, int32_t slot, int32_t col) {
    const uint16_t* halves = (const uint16_t*)(side + PREPARED_HEADER) + slot * (8 * BLOCK_UINT4);
    return half_to_float(halves[2 * side_pair(col / 2) + col % 2]);
}
