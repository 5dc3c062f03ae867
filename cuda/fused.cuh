// The frame of all fused products: which warp multiplies which chunk, and how chunks become rows of the result.
#pragma once
#include "gemv_task.cuh"
#include "huffman.cuh"

// Adds a tile's sums to those of the warp's tiles before it. Collective over the warp.
__device__ __forceinline__ void add_tile(float* totals, const float* sums, int32_t rows, bool first) {
    __syncwarp();
    for (int32_t r = threadIdx.x % WARP; r < rows; r += WARP) totals[r] = first ? sums[r] : totals[r] + sums[r];
    __syncwarp();
}

// A block takes a contiguous range of groups. With W warps and T tiles, warps T·i … T·i + T − 1 multiply the tiles of the
// i-th group of a pass; if W < T, a pass is one group and a warp takes every W-th tile. Sums over tiles are formed in a
// fixed order, so results do not depend on the grid.
//
// Front supplies
//   load_table(w, index, table_sh)                        collective over the block
//   product(w, group, tile, sums)                         puts Σ over the tile to sums[row of the group]; collective over the warp
//   finish(w, group, row of the group, sum)               turns a row's sum into the result
template <class Front> __device__ __forceinline__ void fused_product(Front& front, const gemv_part& part, uint32_t* table_sh, float* sums_sh) {
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    int32_t warps = blockDim.x / WARP, warp = threadIdx.x / WARP, tiles = w->tiles, height = w->rows_per_group;
    float* totals_sh = sums_sh + warps * height; // where a warp takes several tiles
    int32_t team = min(tiles, warps), slots = warps / team, slot = warp / team; // a team of warps per group
    int32_t g = (int32_t)((int64_t)w->groups * block / task->blocks), end = (int32_t)((int64_t)w->groups * (block + 1) / task->blocks), loaded = -1;
    while (g < end) {
        int32_t n = same_table(w, g, min(slots, end - g)), index = w->chunk_table[g];
        if (index != loaded) front.load_table(w, index, table_sh);
        loaded = index;
        int32_t group = g + slot, rows = group < w->groups ? group_rows(w, group) : 0;
        if (slot < n) {
            float* sums = sums_sh + warp * height;
            for (int32_t tile = warp % team; tile < tiles; tile += team) {
                front.product(w, group, tile, sums);
                if (team < tiles) add_tile(totals_sh + warp * height, sums, rows, tile < team);
            }
        }
        if (team > 1)
            __syncthreads();
        else
            __syncwarp();
        if (slot < n) {
            for (int32_t r = threadIdx.x - slot * team * WARP; r < rows; r += team * WARP) {
                float sum = 0;
                for (int32_t i = 0; i < team; i++) sum += (team < tiles ? totals_sh : sums_sh)[(slot * team + i) * height + r];
                part.write(w, group * height + r, front.finish(w, group, r, sum));
            }
        }
        if (team > 1)
            __syncthreads();
        else
            __syncwarp();
        g += n;
    }
}

// What a row's outliers add to an integer coding's product.
__device__ __forceinline__ float outlier_product(const matrix* w, int32_t group, int32_t row, const float* x) {
    outlier_range o = row_outliers(w, group, row);
    float sum = 0, unit = (float)(1 << w->low_bits);
    for (uint32_t i = o.begin; i < o.end; i++) {
        int32_t col = outlier_col(w->outliers[i]);
        affine a = matrix_affine(w, group * w->rows_per_group + row, col);
        sum = fmaf(a.s * unit * (float)outlier_delta(w->outliers[i]), x[col], sum);
    }
    return sum;
}
