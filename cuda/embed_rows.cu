// Looks up embedding rows by token.
#include "huffman.cuh"
#include "packed.cuh"

__device__ __forceinline__ float col_factor(const matrix* w, int32_t col) { return w->col_scale ? w->col_scale[col] : 1.0f; }

// The stored row of a token, or −1 if there is none.
__device__ __forceinline__ int32_t token_row(const matrix* w, int32_t token) {
    if (token < 0 || token >= w->rows) return -1;
    return w->row_position ? (int32_t)w->row_position[token] : token;
}

// Both kernels: y [tokens][cols] = scale · row token_ids[t] of w, the matrix's own scales applied; a token outside
// 0 … rows−1 yields zeros.
// w          matrix; row_position maps tokens to stored rows
// token_ids  [tokens] in device memory

// From w->data, any type and scale.   grid (⌈cols/256⌉, tokens), block 256
extern "C" __global__ void __launch_bounds__(256) embed_rows(const matrix* w, const int32_t* token_ids, float* y, float scale) {
    int32_t c = blockIdx.x * 256 + threadIdx.x, row = token_row(w, token_ids[blockIdx.y]);
    if (c >= w->cols) return;
    float v = 0;
    if (row >= 0) {
        int64_t at = (int64_t)row * w->stride + c;
        switch (w->type) {
        case TYPE_PACKED: v = packed_code(w, row, c); break;
        case TYPE_U8: v = load_code<TYPE_U8>(w->data, at); break;
        case TYPE_I32: v = load_code<TYPE_I32>(w->data, at); break;
        case TYPE_F32: v = load_code<TYPE_F32>(w->data, at); break;
        case TYPE_F16: v = load_code<TYPE_F16>(w->data, at); break;
        case TYPE_BF16: v = load_code<TYPE_BF16>(w->data, at); break;
        }
        if (w->type == TYPE_U8 || w->type == TYPE_I32 || w->type == TYPE_PACKED) {
            affine a = matrix_affine(w, row, c);
            v = fmaf(a.s, v + (w->type == TYPE_PACKED ? (float)w->packed_zero : w->data_zero), a.m);
        }
        v *= col_factor(w, c) * scale;
    }
    y[(int64_t)blockIdx.y * w->cols + c] = v;
}

// From the coded form, any coding and scale.   grid (tiles, tokens), block 32, no dynamic shared memory
// The chunk is decoded from its beginning down to the row.
extern "C" __global__ void __launch_bounds__(32) embed_rows_coded(const matrix* w, const int32_t* token_ids, float* y,
    float scale) {
    int32_t tile = blockIdx.x, steps = tile_steps(w, tile), cols = w->cols, stored = token_row(w, token_ids[blockIdx.y]);
    int32_t col_0 = tile * w->steps_per_tile * 64 + 2 * threadIdx.x;
    y += (int64_t)blockIdx.y * cols;
    if (stored < 0) {
        for (int32_t c = col_0; c < col_0 + 64 * steps; c += 64) {
            if (c < cols) y[c] = 0;
            if (c + 1 < cols) y[c + 1] = 0;
        }
        return;
    }
    int32_t group = stored / w->rows_per_group, row = stored % w->rows_per_group;
    const code_table* t = w->tables + w->chunk_table[group * w->tiles + tile];
    outlier_range outliers = row_outliers(w, group, row);
    pair_decoder d;
    d.open(w, group, tile, t->entries, (1u << t->max_len) - 1);
    for (int32_t n = row * steps; n > 0; n--) d.next();
    for (int32_t c = col_0; c < col_0 + 64 * steps; c += 64) {
        level_pair p = d.next();
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (c + i < cols)
                y[c + i] = level_weight(w, stored, c + i, p.level[i], p.low[i], outliers) * (col_factor(w, c + i) * scale);
    }
}
