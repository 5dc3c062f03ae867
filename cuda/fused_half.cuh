// The fast front of the fused products: a table entry is a pair of small integers as half2, with the code's length in the
// mantissa bits below them, so that a look-up yields the factor of a half2 product.
#pragma once
#include "fused.cuh"
#include "pair_stream.cuh"
#include "prepared.cuh"

// Kinds of scales: one per row, or per block of 16, 32, or 64 and more columns.
enum { PER_ROW = 0, BLOCK_16 = 16, BLOCK_32 = 32, BLOCK_64 = 64 };

// Adds up a row's products. With low bits, factors are (level + lo/2^S) / 256: lo, which is subnormal where it lies, needs a scale within range.
template <int S, int BLOCK> struct product_sink {
    enum { SCALE_BYTES = 8, STEP_BLOCKS = BLOCK == PER_ROW ? 0 : 64 / (BLOCK < 64 ? BLOCK : 64) }; // a block's scales of four rows; blocks per step
    const uint4* x;       // the next steps' input
    const char* scales;   // of the row, of the block of the lane's next step
    uint32_t xv[16], acc[2]; // running sums of alternating pairs
    int32_t step, shift;  // BLOCK_64: step within the tile, log2(steps per block)

    template <int N> __device__ __forceinline__ void begin() {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            uint4 v = __ldg(x + i / 4 * WARP);
            xv[i] = v.x;
            xv[i + 1] = v.y;
            xv[i + 2] = v.z;
            xv[i + 3] = v.w;
        }
        x += N / 4 * WARP;
        if (BLOCK == BLOCK_64) step += N;
        if (BLOCK == BLOCK_16 || BLOCK == BLOCK_32) scales += N * STEP_BLOCKS * SCALE_BYTES;
        steps = N;
    }
    int32_t steps; // N of begin

    __device__ __forceinline__ void pair(int k, uint32_t entry, uint32_t low, int at_even, int at_odd) {
        uint32_t levels = entry & ~ENTRY_LENGTH, to_level = (uint32_t)(31 - at_even - S) << 10 | (uint32_t)(31 - at_odd - S) << 26;
        if (S) levels = half2_fma(low, to_level, levels);
        if (BLOCK == PER_ROW) {
            acc[k & 1] = half2_fma(levels, xv[k], acc[k & 1]);
            return;
        }
        const char* at = BLOCK == BLOCK_64 ? scales + ((step - steps + k) >> shift) * SCALE_BYTES : scales + (k - steps) * (STEP_BLOCKS * SCALE_BYTES);
        acc[k & 1] = half2_fma(half2_mul(levels, xv[k]), half2_same(__ldg((const uint16_t*)at)), acc[k & 1]);
    }
};

// G pairs are peeled off one peek, S low bits.
template <int G, int S, int BLOCK> struct half_front {
    const gemv_part& part;
    pair_stream<G, S> pairs;

    __device__ __forceinline__ half_front(const gemv_part& part_, uint32_t* table_sh) : part(part_), pairs(table_sh) {}

    __device__ __forceinline__ void load_table(const matrix* w, int32_t index, uint32_t* table_sh) {
        float bias = (float)w->table_bias, unit = S ? 1.0f / 256 : 1;
        pairs.load_table(w, index, table_sh, [=](int32_t a, int32_t b) { return half2_pack(((float)a + bias) * unit, ((float)b + bias) * unit); });
    }

    // Σ minimum·x of a lane's share of the tile.
    __device__ __forceinline__ float minima(const matrix* w, int64_t at, int32_t tile, int32_t n_steps) const {
        const float* sums = prepared_sums(part.xp(), w->steps);
        int32_t first = tile * w->steps_per_tile * 4, end = first + 4 * n_steps, shift = w->block_shift - 4; // in 16 columns
        float sum = 0;
        if (BLOCK == BLOCK_32) {
            for (int32_t i = first / 2 + threadIdx.x % WARP; i < end / 2; i += WARP) {
                float2 s = __ldg((const float2*)sums + i);
                sum = fmaf(half_to_float(__ldg(w->block_min + at + 4 * i)), s.x + s.y, sum);
            }
        } else {
            for (int32_t i = first + threadIdx.x % WARP; i < end; i += WARP) sum = fmaf(half_to_float(__ldg(w->block_min + at + 4 * (i >> shift))), __ldg(sums + i), sum);
        }
        return sum;
    }

    __device__ __forceinline__ void product(const matrix* w, int32_t group, int32_t tile, float* sums, bool add) {
        int32_t rows = group_rows(w, group), n_steps = tile_steps(w, tile), lane = threadIdx.x % WARP, first_step = tile * w->steps_per_tile;
        const uint4* x_tile = prepared_stepped(part.xp(), w->steps) + tile * ((w->steps_per_tile + 3) / 4) * WARP + lane;
        int32_t row_words = n_steps * w->max_len / 32 + 2; // a row takes at most
        float unit = BLOCK ? (float)(1 << S) * (S ? 256 : 1) * w->block_unit : 1.0f, min_unit = w->min_unit;
        bool has_min = BLOCK && w->block_min;
        pairs.open(w, group, tile, n_steps, rows);
        for (int32_t r = 0; r < rows; r++) {
            product_sink<S, BLOCK> sink;
            sink.x = x_tile;
            sink.acc[0] = sink.acc[1] = 0;
            int32_t stored = group * w->rows_per_group + r;
            int64_t at = (int64_t)(stored / 4) * w->block_stride * 4 + stored % 4;
            if (BLOCK) {
                sink.step = first_step;
                sink.shift = w->block_shift - 6;
                sink.scales = (const char*)(w->block_scale + at + (BLOCK == BLOCK_64 ? 0 : 4 * ((first_step * 64 + 2 * lane) >> w->block_shift)));
            }
            pairs.row(sink, n_steps, row_words);
            float sum = half2_sum(sink.acc[0]) + half2_sum(sink.acc[1]);
            if (BLOCK) sum *= unit;
            if (has_min) sum = fmaf(minima(w, at, tile, n_steps), min_unit, sum);
            sum = warp_sum(sum);
            if (lane == 0) sums[r] = add ? sums[r] + sum : sum;
        }
    }

    __device__ __forceinline__ float finish(const matrix* w, int32_t group, int32_t r, float sum) const {
        const uint8_t* xp = part.xp();
        float v = prepared_unit(xp) * sum;
        if (!BLOCK) {
            affine a = matrix_affine(w, group * w->rows_per_group + r, 0);
            float sum_x = prepared_sum(xp);
            v = a.s * fmaf((float)w->code_offset, sum_x, (float)(1 << S) * (S ? 256 : 1) * v) + a.m * sum_x;
        }
        return w->outliers ? v + outlier_product(w, group, r, part.x(w)) : v;
    }
};

template <int G, int S, int BLOCK> __device__ __forceinline__ void fused_half(const gemv_part& part) {
    SHARED_DYNAMIC(uint32_t, table_sh);
    half_front<G, S, BLOCK> front(part, table_sh);
    fused_product(front, part, table_sh, (float*)(table_sh + (1u << part.w()->max_len)));
}
