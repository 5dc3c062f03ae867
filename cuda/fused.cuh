// The loop over chunks of all fused products: which warp multiplies which chunk, and how chunks become rows of the result.
#pragma once
#include "gemv_task.cuh"
#include "huffman.cuh"

// A block takes a contiguous range of groups, as many in a pass as it has warps. The n chunks of a tile go to warps 0 … n − 1,
// those of the next tile, if there are few groups, to warps n … 2n − 1, and so on; then follow the next tiles. Warps whose chunks
// are neighbours in this order work at the same time as far as they share a table. Sums over tiles are formed in the order of the
// tiles, so results do not depend on the grid.
//
// ChunkMultiplier supplies
//   load_table(w, index, table_sh)                        collective over the block
//   product(w, group, tile, sums, add)                    puts Σ over the tile to sums[row of the group][T], or adds it;
//                                                         collective over the warp
//   finish(w, group, row of the group, t, sum)            turns a row's sum with vector t into the result
template <int T, class ChunkMultiplier> __device__ __forceinline__ void fused_product(ChunkMultiplier& chunks,
    const gemv_part<T>& part, uint32_t* table_sh, float* sums_sh) {
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    const int32_t warps = 8;
    int32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // The warp's own; of warps 0 … n − 1 the sums over all tiles so far.
    float* sums = sums_sh + warp * w->rows_per_group * T;
    int32_t g = (int32_t)((int64_t)w->groups * block / task->blocks), end = (int32_t)((int64_t)w->groups *
        (block + 1) / task->blocks), loaded = -1;
    while (g < end) {
        int32_t n = min(warps, end - g);
        for (int32_t chunk = 0; chunk < n * w->tiles;) { // of the pass, tile by tile
            int32_t most = n * (warps / n), first = chunk - chunk % most, stop = min(first + most, n * w->tiles),
                i = chunk + lane;
            table_run run = same_table(i < stop ? w->chunk_table[(g + i % n) * w->tiles + i / n] : -1);
            if (run.table != loaded) chunks.load_table(w, run.table, table_sh);
            loaded = run.table;
            if (w->tiles == 1) n = run.n; // leave the remaining groups to the next pass
            int32_t mine = first + warp, next = chunk + run.n;
            if (mine >= chunk && mine < next) chunks.product(w, g + warp % n, mine / n, sums, first > 0 && warp < n);
            chunk = next;
            if (chunk == stop && stop - first > n) { // sums of several tiles
                __syncthreads();
                for (int32_t i = lane; warp < n && i < group_rows(w, g + warp) * T; i += WARP)
                    for (int32_t other = n; other < stop - first; other += n) sums[i] += sums[other * w->rows_per_group * T + i];
                __syncthreads();
            }
        }
        __syncwarp();
        if (warp < n) {
            int32_t sums_n = group_rows(w, g + warp) * T;
            for (int32_t i = lane; i < sums_n; i += WARP)
                if (part.wanted(i % T))
                    part.write(w, (g + warp) * w->rows_per_group + i / T, i % T, chunks.finish(w, g + warp, i / T, i % T,
                        sums[i]));
        }
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
