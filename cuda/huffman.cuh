// Decoding of pair symbols to levels and weights, any coding (the products with their own faster loops are in fused_half.cuh).
#pragma once
#include "bitstream.cuh"

// Copies table `index` of the file to shared memory and returns the mask of its indices. Collective over the block.
__device__ __forceinline__ uint32_t load_table(const matrix* w, int32_t index, uint32_t* table_sh) {
    const code_table* t = w->tables + index;
    uint32_t mask = (1u << t->max_len) - 1;
    __syncthreads(); // all reads of the previous table are done
    for (uint32_t i = threadIdx.x; i <= mask; i += blockDim.x) table_sh[i] = t->entries[i];
    __syncthreads();
    return mask;
}

// Chunks next to each other in some order that use the same table.
struct table_run {
    int32_t table, n;
};

// The first run of less than 32 chunks, of which lane i names the i-th one's table; after the last one, lanes name −1. Collective
// over the warp.
__device__ __forceinline__ table_run same_table(int32_t table) {
    table_run r;
    r.table = __shfl_sync(ALL_LANES, table, 0);
    r.n = __ffs((int32_t)__ballot_sync(ALL_LANES, table != r.table)) - 1;
    return r;
}

__device__ __forceinline__ int32_t group_rows(const matrix* w, int32_t group) { return min(w->rows_per_group,
    w->rows - group * w->rows_per_group); }
__device__ __forceinline__ int32_t tile_steps(const matrix* w, int32_t tile) { return min(w->steps_per_tile,
    w->steps - tile * w->steps_per_tile); }

// A pair of weights before scaling.
struct level_pair {
    int32_t level[2];
    uint32_t low[2];
};

// Decodes a chunk pair by pair: rows of the group, in each the steps of the tile.
struct pair_decoder {
    lane_words words;
    bit_window window;
    low_window low;
    const uint32_t* table;
    uint32_t mask;
    int32_t low_bits;

    // Collective over the warp.
    __device__ __forceinline__ void open(const matrix* w, int32_t group, int32_t tile, const uint32_t* table_, uint32_t mask_) {
        table = table_;
        mask = mask_;
        low_bits = w->low_bits;
        words.open(w, (int64_t)group * w->tiles + tile);
        window.open(words, 0);
        if (low_bits) low.open(w, group, tile, tile_steps(w, tile), group_rows(w, group));
    }
    __device__ __forceinline__ level_pair next() {
        window.refill(words); // also turns the first position, 32, into 0
        uint32_t e = table[window.peek() & mask];
        window.pos += e >> 16;
        level_pair p = {{(int32_t)(e & 0xff), (int32_t)(e >> 8 & 0xff)}, {0, 0}};
        if (low_bits) {
            uint32_t v = low.take_checked(2 * low_bits), low_mask = (1u << low_bits) - 1;
            p.low[0] = v & low_mask;
            p.low[1] = v >> low_bits & low_mask;
        }
        return p;
    }
};

// The integer code of a level.
__device__ __forceinline__ int32_t level_code(const matrix* w, int32_t level, uint32_t low) {
    return w->values ? w->values[level] : w->zero + (int32_t)(((uint32_t)level << w->low_bits) | low);
}

// The bits of a float coding's number, 16 bits.
__device__ __forceinline__ uint16_t level_float(const matrix* w, int32_t level, uint32_t low) {
    uint32_t exponent = (uint32_t)(w->zero + level);
    if (w->float_kind == FLOAT_BF16) return (uint16_t)((low & 0x80) << 8 | (exponent & 0xff) << 7 | (low & 0x7f));
    return (uint16_t)((low & 0x400) << 5 | (exponent & 0x1f) << 10 | (low & 0x3ff));
}

__device__ __forceinline__ float float_value(int32_t float_kind,
    uint16_t bits) { return float_kind == FLOAT_BF16 ? bf16_to_float(bits) : half_to_float(bits); }

// ---- outliers (docs/format.md, 6.5) ----
struct outlier_range {
    uint32_t begin, end;
};

// The outliers of a row of a group: the entries are sorted by row.
__device__ __forceinline__ outlier_range row_outliers(const matrix* w, int32_t group, uint32_t row) {
    outlier_range r = {0, 0};
    if (!w->outliers) return r;
    uint32_t lo = w->outlier_start[group], end = w->outlier_start[group + 1], hi = end;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (outlier_row(w->outliers[mid]) < row)
            lo = mid + 1;
        else
            hi = mid;
    }
    r.begin = r.end = lo;
    while (r.end < end && outlier_row(w->outliers[r.end]) == row) r.end++;
    return r;
}

// What the range's outliers add to the level in a column.
__device__ __forceinline__ int32_t col_delta(const matrix* w, outlier_range r, int32_t col) {
    int32_t delta = 0;
    for (uint32_t i = r.begin; i < r.end; i++)
        if (outlier_col(w->outliers[i]) == col) delta += outlier_delta(w->outliers[i]);
    return delta;
}

// The weight in a column, scaled, outliers included.
__device__ __forceinline__ float level_weight(const matrix* w, int32_t stored, int32_t col, int32_t level, uint32_t low,
    outlier_range outliers) {
    if (outliers.begin < outliers.end) level += col_delta(w, outliers, col);
    if (w->float_kind) return float_value(w->float_kind, level_float(w, level, low));
    affine a = matrix_affine(w, stored, col);
    return fmaf(a.s, (float)level_code(w, level, low), a.m);
}
