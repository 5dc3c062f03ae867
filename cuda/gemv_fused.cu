// y = W·x straight from the coded weights: Huffman decoding inside the product.
#include "fused_half.cuh"

// Every coding and scale, in float32.
struct float_chunk_multiplier {
    const float* x; // of the only vector
    const uint32_t* table;
    uint32_t mask;

    __device__ __forceinline__ void load_table(const matrix* w, int32_t index, uint32_t* table_sh) {
        table = table_sh;
        mask = ::load_table(w, index, table_sh);
    }

    __device__ __forceinline__ void product(const matrix* w, int32_t group, int32_t tile, float* sums, bool add) {
        int32_t rows = group_rows(w, group), steps = tile_steps(w, tile), cols = w->cols, lane = threadIdx.x % WARP;
        pair_decoder d;
        d.open(w, group, tile, table, mask);
        for (int32_t r = 0; r < rows; r++) {
            outlier_range outliers = {0, 0};
            // they change exponents; integer codings add theirs at the end
            if (w->float_kind) outliers = row_outliers(w, group, r);
            float sum = 0;
            int32_t c = tile * w->steps_per_tile * 64 + 2 * lane;
            for (int32_t end = c + 64 * steps; c < end; c += 64) {
                level_pair p = d.next();
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (c + i < cols) sum = fmaf(level_weight(w, group * w->rows_per_group + r, c + i, p.level[i], p.low[i],
                        outliers), x[c + i], sum);
            }
            sum = warp_sum(sum);
            if (lane == 0) sums[r] = add ? sums[r] + sum : sum;
        }
    }

    __device__ __forceinline__ float finish(const matrix* w, int32_t group, int32_t r, int32_t, float sum) const {
        return w->outliers && !w->float_kind ? sum + outlier_product(w, group, r, x) : sum;
    }
};

template <int T> __device__ __forceinline__ void fused_float(const gemv_part<T>& part) {
    SHARED_DYNAMIC(uint32_t, table_sh);
    float_chunk_multiplier chunks;
    chunks.x = part.x(part.w(), 0);
    fused_product<T>(chunks, part, table_sh, (float*)(table_sh + (1u << part.w()->max_len)));
}

// All kernels of this file, besides what gemv_task.cuh says:
//   tasks   coded matrices; each block takes a contiguous range of groups. ⌈groups / 8⌉ blocks give every warp a group,
//           ⌈groups·min(tiles, 8) / 8⌉ a chunk; a few per multiprocessor are best
//   side    not read by _f32, may be 0 there
//   dynamic shared memory  (4 << max_len) + 32·T·rows_per_group bytes, the most of all tasks

// Any coding and scale; accumulates in float32.
GEMV_KERNEL(2, gemv_fused_f32, 1, fused_float<T>)

// Integer codings without `values`, low_bits = 0, SCALE_TENSOR or SCALE_ROW; −31 ≤ table_bias + a ≤ 32 for all levels a.
// _gN: N pairs per peek: g3 for max_len ≤ 10, g2 (as all kernels below) for every table.
GEMV_KERNELS_8(4, gemv_fused_g2, fused_half<T, 2, 0, PER_ROW>)
GEMV_KERNELS_8(4, gemv_fused_g3, fused_half<T, 3, 0, PER_ROW>)
// The same with low_bits = 1 … 4.
GEMV_KERNELS_8(3, gemv_fused_low1, fused_half<T, 2, 1, PER_ROW>)
GEMV_KERNELS_8(3, gemv_fused_low2, fused_half<T, 2, 2, PER_ROW>)
GEMV_KERNELS_8(3, gemv_fused_low3, fused_half<T, 2, 3, PER_ROW>)
GEMV_KERNELS_8(3, gemv_fused_low4, fused_half<T, 2, 4, PER_ROW>)
// SCALE_BLOCK with or without minimum, low_bits = 0 … 4, code_offset 0, |block_scale| ≤ 1. Blocks of 32 columns:
GEMV_KERNELS_4(3, gemv_fused_block32_0, fused_half<T, 2, 0, BLOCK_32>)
GEMV_KERNELS_4(2, gemv_fused_block32_1, fused_half<T, 2, 1, BLOCK_32>)
GEMV_KERNEL(2, gemv_fused_block32_2, 1, fused_half<T, 2, 2, BLOCK_32>)
GEMV_KERNEL(2, gemv_fused_block32_3, 1, fused_half<T, 2, 3, BLOCK_32>)
GEMV_KERNELS_4(2, gemv_fused_block32_4, fused_half<T, 2, 4, BLOCK_32>)
// Of 16:
GEMV_KERNELS_4(3, gemv_fused_block16_0, fused_half<T, 2, 0, BLOCK_16>)
GEMV_KERNEL(2, gemv_fused_block16_1, 1, fused_half<T, 2, 1, BLOCK_16>)
GEMV_KERNELS_4(2, gemv_fused_block16_2, fused_half<T, 2, 2, BLOCK_16>)
// Of 64 or more:
GEMV_KERNELS_4(2, gemv_fused_block64_0, fused_half<T, 2, 0, BLOCK_64>)
GEMV_KERNEL(2, gemv_fused_block64_1, 1, fused_half<T, 2, 1, BLOCK_64>)
