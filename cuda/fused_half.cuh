// The fast chunk multiplier of the fused products: a table entry is a pair of small integers as half2, with the code's length in
// the mantissa bits below them, so that a look-up yields the factor of a half2 product.
#pragma once
#include "fused.cuh"
#include "pair_stream.cuh"
#include "prepared.cuh"

// Kinds of scales: one per row, or per block of 16, 32, or 64 and more columns.
enum { PER_ROW = 0, BLOCK_16 = 16, BLOCK_32 = 32, BLOCK_64 = 64 };

// A lane's pairs of the next steps, of T vectors side by side. Those of one vector are loaded for many steps at once, which hides
// their latency; of more, for AHEAD = 4 or 2 steps at a time, since registers hold no more.
template <int T, int AHEAD> struct step_inputs {
    const uint4* x;
    uint32_t v[T][AHEAD < 4 ? 4 : AHEAD];

    __device__ __forceinline__ void load_four(int t, int i, const uint4* from) {
        uint4 q = __ldg(from);
        v[t][i] = q.x;
        v[t][i + 1] = q.y;
        v[t][i + 2] = q.z;
        v[t][i + 3] = q.w;
    }
    __device__ __forceinline__ void load_two(int t, const uint2* from) {
        uint2 q = __ldg(from);
        v[t][0] = q.x;
        v[t][1] = q.y;
    }
    // n ≤ 16 steps follow.
    template <int N> __device__ __forceinline__ void begin() {
#pragma unroll
        for (int i = 0; i < (AHEAD == 16 ? N : 0); i += 4) load_four(0, i, x + i / 4 * STEPPED_PITCH);
        x += N / 4 * STEPPED_PITCH;
    }
    // Step k of n is next.
    __device__ __forceinline__ void reach(int k, int n) {
#pragma unroll
        for (int t = 0; t < (AHEAD > 4 || k % AHEAD ? 0 : T); t++) {
            const uint4* from = x + ((k / 4 - n / 4) * STEPPED_PITCH + t * WARP);
            if (AHEAD == 4)
                load_four(t, 0, from);
            else
                load_two(t, (const uint2*)from + k % 4 / 2);
        }
    }
    __device__ __forceinline__ uint32_t at(int t, int k) const { return v[t][k % AHEAD]; }
};

// Adds up a row's products with T vectors. With low bits, factors are (level + lo/2^S) / 256: lo is subnormal in place; scaling
// by 1/256 keeps the factor in range.
template <int T, int S, int BLOCK> struct pair_multiplier {
    // Bytes of a block's scales of four rows; blocks per step.
    enum { SCALE_BYTES = 8, STEP_BLOCKS = BLOCK == PER_ROW ? 0 : 64 / (BLOCK < 64 ? BLOCK : 64) };
    enum { MOST_STEPS = T == 8 ? 8 : 16 };
    step_inputs<T, T == 1 ? 16 : T == 8 && S ? 2 : 4> x;
    const char* scales;   // of the row, of the block of the lane's next step
    uint32_t acc[T][2];   // running sums of alternating pairs
    int32_t step, shift;  // BLOCK_64: step within the tile, log2(steps per block)
    int32_t steps;        // N of begin

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int t = 0; t < T; t++) acc[t][0] = acc[t][1] = 0;
    }

    template <int N> __device__ __forceinline__ void begin() {
        x.template begin<N>();
        if (BLOCK == BLOCK_64) step += N;
        if (BLOCK == BLOCK_16 || BLOCK == BLOCK_32) scales += N * STEP_BLOCKS * SCALE_BYTES;
        steps = N;
    }

    __device__ __forceinline__ void pair(int k, uint32_t entry, uint32_t low, int at_even, int at_odd) {
        x.reach(k, steps);
        uint32_t levels = entry & ~ENTRY_LENGTH,
            to_level = (uint32_t)(31 - at_even - S) << 10 | (uint32_t)(31 - at_odd - S) << 26;
        if (S) levels = half2_fma(low, to_level, levels);
        if (BLOCK == PER_ROW) {
#pragma unroll
            for (int t = 0; t < T; t++) acc[t][k & 1] = half2_fma(levels, x.at(t, k), acc[t][k & 1]);
            return;
        }
        const char* at = BLOCK == BLOCK_64 ? scales + ((step - steps + k) >> shift) * SCALE_BYTES
                                           : scales + (k - steps) * (STEP_BLOCKS * SCALE_BYTES);
        uint32_t scale = half2_same(__ldg((const uint16_t*)at));
#pragma unroll
        for (int t = 0; t < T; t++) acc[t][k & 1] = half2_fma(half2_mul(levels, x.at(t, k)), scale, acc[t][k & 1]);
    }
};

// G pairs are peeled off one peek, S low bits.
template <int T, int G, int S, int BLOCK> struct half_chunk_multiplier {
    const gemv_part<T>& part;
    pair_stream<G, S> pairs;

    __device__ __forceinline__ half_chunk_multiplier(const gemv_part<T>& part_, uint32_t* table_sh) : part(part_),
        pairs(table_sh) {}

    __device__ __forceinline__ void load_table(const matrix* w, int32_t index, uint32_t* table_sh) {
        float bias = (float)w->table_bias, unit = S ? 1.0f / 256 : 1;
        pairs.load_table(w, index, table_sh, [=](int32_t a, int32_t b) {
            return half2_pack(((float)a + bias) * unit, ((float)b + bias) * unit);
        });
    }

    // Σ minimum·x of a lane's share of the tile, for vector t.
    __device__ __forceinline__ float minima(const matrix* w, int64_t at, int32_t tile, int32_t n_steps, int32_t t) const {
        const float* sums = side_sums(part.side, w->steps) + part.slot(t) * 64;
        int32_t first = tile * w->steps_per_tile * 4, end = first + 4 * n_steps, shift = w->block_shift - 4; // in 16 columns
        float sum = 0;
        if (BLOCK == BLOCK_32) {
            for (int32_t i = first / 2 + threadIdx.x % WARP; i < end / 2; i += WARP) {
                float2 s = __ldg((const float2*)(sums + side_sum_at(2 * i)));
                sum = fmaf(half_to_float(__ldg(w->block_min + at + 4 * i)), s.x + s.y, sum);
            }
        } else {
            for (int32_t i = first + threadIdx.x % WARP; i < end; i += WARP)
                sum = fmaf(half_to_float(__ldg(w->block_min + at + 4 * (i >> shift))), __ldg(sums + side_sum_at(i)), sum);
        }
        return sum;
    }

    __device__ __forceinline__ void product(const matrix* w, int32_t group, int32_t tile, float* sums, bool add) {
        int32_t rows = group_rows(w, group), n_steps = tile_steps(w, tile), lane = threadIdx.x % WARP,
            first_step = tile * w->steps_per_tile;
        const uint4* x_tile = side_tile(part.side, w->steps, w->steps_per_tile, tile, part.slot(0));
        int32_t row_words = n_steps * w->max_len / 32 + 2; // a row takes at most
        float unit = BLOCK ? (float)(1 << S) * (S ? 256 : 1) * w->block_unit : 1.0f, min_unit = w->min_unit;
        bool has_min = BLOCK && w->block_min;
        pairs.open(w, group, tile, n_steps, rows);
        for (int32_t r = 0; r < rows; r++) {
            pair_multiplier<T, S, BLOCK> pairs_to;
            pairs_to.x.x = x_tile;
            pairs_to.clear();
            int32_t stored = group * w->rows_per_group + r;
            int64_t at = (int64_t)(stored / 4) * w->block_stride * 4 + stored % 4;
            if (BLOCK) {
                pairs_to.step = first_step;
                pairs_to.shift = w->block_shift - 6;
                int32_t block = BLOCK == BLOCK_64 ? 0 : (first_step * 64 + 2 * lane) >> w->block_shift;
                pairs_to.scales = (const char*)(w->block_scale + at + 4 * block);
            }
            pairs.row(pairs_to, n_steps, row_words);
            float sum[T];
#pragma unroll
            for (int t = 0; t < T; t++) {
                sum[t] = half2_sum(pairs_to.acc[t][0]) + half2_sum(pairs_to.acc[t][1]);
                if (BLOCK) sum[t] *= unit;
                if (has_min) sum[t] = fmaf(minima(w, at, tile, n_steps, t), min_unit, sum[t]);
            }
            float all = warp_sums<T>(sum);
            if (lane % (WARP / T) == 0) {
                float* to = sums + r * T + lane / (WARP / T);
                *to = add ? *to + all : all;
            }
        }
    }

    __device__ __forceinline__ float finish(const matrix* w, int32_t group, int32_t r, int32_t t, float sum) const {
        float v = side_unit(part.side, part.slot(t)) * sum;
        if (!BLOCK) {
            affine a = matrix_affine(w, group * w->rows_per_group + r, 0);
            float sum_x = side_sum(part.side, part.slot(t));
            v = a.s * fmaf((float)w->code_offset, sum_x, (float)(1 << S) * (S ? 256 : 1) * v) + a.m * sum_x;
        }
        return w->outliers ? v + outlier_product(w, group, r, part.x(w, t)) : v;
    }
};

template <int T, int G, int S, int BLOCK> __device__ __forceinline__ void fused_half(const gemv_part<T>& part) {
    SHARED_DYNAMIC(uint32_t, table_sh);
    half_chunk_multiplier<T, G, S, BLOCK> chunks(part, table_sh);
    fused_product<T>(chunks, part, table_sh, (float*)(table_sh + (1u << part.w()->max_len)));
}
