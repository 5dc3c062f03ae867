// The fast front of the fused products: a table entry is a pair of small integers as half2, with the code's length in the
// mantissa bits below them, so that a look-up yields the factor of a half2 product and the shift to the next code at once.
#pragma once
#include "fused.cuh"
#include "prepared.cuh"

// Bits 0 … 5 of an entry: code length. Integers up to 32 leave these bits of a half's mantissa zero.
static const uint32_t ENTRY_LENGTH = 0x3f, INDEX_SHIFT = 2;
static const int32_t UNIT_STEPS = 8;

// How a lane's words are fetched ahead.
struct word_stream {
    const uint32_t* next;
    const uint32_t* last_main; // 0: none
    const uint32_t* tail;
    int32_t stride; // 32 among main words, 1 in the tail

    __device__ __forceinline__ void open(const lane_words& words) {
        bool has_main = words.n_main > 0;
        next = has_main ? words.main : words.tail;
        last_main = has_main ? words.main + (int64_t)WARP * (words.n_main - 1) : nullptr;
        tail = words.tail;
        stride = has_main ? WARP : 1;
    }
    // True if the next n words and one more are main words. (The low halves of the addresses tell, distances are short.)
    __device__ __forceinline__ bool has(int32_t n) const {
        return (int32_t)((uint32_t)(uintptr_t)last_main - (uint32_t)(uintptr_t)next) >= 4 * WARP * n && stride == WARP;
    }
    __device__ __forceinline__ uint32_t fetch() {
        uint32_t v = __ldg(next);
        if (next == last_main) {
            next = tail;
            stride = 1;
        } else {
            next += stride;
        }
        return v;
    }
};

// G pairs are peeled off one peek, S low bits, BLOCK: scales (and minima) per block of columns.
template <int G, int S, bool BLOCK> struct half_front {
    // Of the matrix.
    const float* x;
    const uint8_t* xp;
    const char* table;
    uint32_t mask;
    int32_t block_shift, last_block;
    bool has_min;
    // Of the chunk.
    word_stream stream;
    low_window low;
    uint32_t lo, hi, ahead, pos; // the window of bitstream.cuh's bit_window
    // Of the row: two running sums of alternating pairs, and of the minima.
    uint32_t acc[2], acc_min;
    const uint16_t* scales;
    int32_t col; // of the lane's next pair

    __device__ __forceinline__ half_front(const matrix* w, const float* x_, const uint8_t* xp_, uint32_t* table_sh)
        : x(x_), xp(xp_), table((const char*)table_sh), mask(0), block_shift(w->block_shift), last_block(w->blocks - 1), has_min(w->has_min) {}

    __device__ __forceinline__ void load_table(const matrix* w, int32_t index, uint32_t* table_sh) {
        const code_table* t = w->tables + index;
        uint32_t n = 1u << t->max_len;
        int32_t bias = w->table_bias - (S > 0 ? 1 : 0); // low bits are added as 1 + lo/2^S
        mask = (n - 1) << INDEX_SHIFT;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            uint32_t e = t->entries[i];
            table_sh[i] = half2_pack((float)((int32_t)(e & 0xff) + bias), (float)((int32_t)(e >> 8 & 0xff) + bias)) | e >> 16;
        }
        __syncthreads();
    }

    // Low bits of pair k of a group as half2 (1 + lo/2^S) added to the levels: (a + bias) + lo/2^S.
    __device__ __forceinline__ uint32_t with_low(uint32_t levels, uint32_t bits, int k) const {
        const int up = 10 - S - 2 * S * k; // brings the even column's bits to the top of the mantissa
        const int up_odd = up + 16 - S;
        const uint32_t field = ((1u << S) - 1) << (10 - S);
        uint32_t even = up >= 0 ? bits << (up & 31) : bits >> (-up & 31);
        uint32_t odd = up_odd >= 0 ? bits << (up_odd & 31) : bits >> (-up_odd & 31);
        return half2_add(levels, and_or(odd, field << 16, and_or(even, field, 0x3c003c00u)));
    }

    __device__ __forceinline__ void multiply(uint32_t levels, uint32_t xv, int which) {
        if (!BLOCK) {
            acc[which] = half2_fma(levels, xv, acc[which]);
            return;
        }
        int32_t b = min(col >> block_shift, last_block); // padding multiplies 0 by the last block's scale
        col += 64;
        uint32_t product = half2_mul(levels, xv);
        if (has_min) {
            uint32_t s = __ldg((const uint32_t*)scales + b);
            acc[which] = half2_fma(product, half2_same((uint16_t)s), acc[which]);
            acc_min = half2_fma(xv, half2_same((uint16_t)(s >> 16)), acc_min);
        } else {
            acc[which] = half2_fma(product, half2_same(__ldg(scales + b)), acc[which]);
        }
    }

    // One pair out of the window.
    __device__ __forceinline__ void pair(uint32_t& window, uint32_t bits, int k, uint32_t xv, int which) {
        uint32_t e = *(const uint32_t*)(table + (window & mask));
        window = __funnelshift_r(window, 0, e);
        pos += e;
        uint32_t levels = e & ~ENTRY_LENGTH;
        if (S) levels = with_low(levels, bits, k);
        multiply(levels, xv, which);
    }

    // N = 4 or 8 steps whose words are all main words.
    template <int N> __device__ __forceinline__ void fast_steps(const uint32_t* xv) {
#pragma unroll
        for (int first = 0; first < N; first += G) {
            const int n = N - first < G ? N - first : G;
            uint32_t window = __funnelshift_r(lo, hi, pos), bits = 0;
            if (S) bits = low.take(2 * S * n);
#pragma unroll
            for (int k = 0; k < n; k++) pair(window, bits, k, xv[first + k], (first + k) & 1);
            next_word(lo, hi, ahead, pos, stream.next);
        }
    }

    // n steps anywhere.
    __device__ __forceinline__ void slow_steps(const uint4* x_gl, int32_t n) {
#pragma unroll 1
        for (int32_t i = 0; i < n; i++) {
            uint32_t window = __funnelshift_r(lo, hi, pos), bits = 0;
            if (S) bits = low.take(2 * S);
            pair(window, bits, 0, __ldg((const uint32_t*)(x_gl + i / 4 * WARP) + i % 4), 0);
            if (pos & 32) {
                pos ^= 32;
                lo = hi;
                hi = ahead;
                ahead = stream.fetch();
            }
        }
    }

    // N steps, fast if the whole row or at least these steps need main words only; all lanes in the same mode.
    template <int N> __device__ __forceinline__ void steps(const uint4* x_gl, bool fast) {
        if (!fast) fast = all_lanes(stream.has((N + G - 1) / G));
        if (!fast) {
            slow_steps(x_gl, N);
            return;
        }
        uint4 a = __ldg(x_gl), b = N > 4 ? __ldg(x_gl + WARP) : a;
        uint32_t xv[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        fast_steps<N>(xv);
    }

    __device__ __forceinline__ void open_chunk(const matrix* w, int32_t group, int32_t tile, int32_t n_steps, int32_t rows) {
        lane_words words;
        words.open(w, (int64_t)group * w->tiles + tile);
        stream.open(words);
        lo = 0;
        hi = stream.fetch();
        ahead = stream.fetch();
        pos = 32 - INDEX_SHIFT;
        if (S) low.open(w, group, tile, n_steps, rows);
    }

    __device__ __forceinline__ void product(const matrix* w, int32_t group, int32_t tile, float* sums) {
        int32_t rows = group_rows(w, group), n_steps = tile_steps(w, tile), lane = threadIdx.x % WARP, first_col = tile * w->steps_per_tile * 64 + 2 * lane;
        const uint4* x_tile = prepared_stepped(xp, w->steps) + tile * ((w->steps_per_tile + 3) / 4) * WARP + lane;
        int32_t row_words = n_steps * w->max_len / 32 + 2; // a row takes at most
        int32_t row_scales = w->blocks * (has_min ? 2 : 1);
        float unit = BLOCK ? (float)(1 << S) * w->block_unit : 1.0f, min_unit = w->min_unit;
        if (BLOCK) scales = w->block_scale + (int64_t)group * w->rows_per_group * row_scales;
        open_chunk(w, group, tile, n_steps, rows);
        for (int32_t r = 0; r < rows; r++) {
            acc[0] = acc[1] = acc_min = 0;
            col = first_col;
            const uint4* x_gl = x_tile;
            bool fast = all_lanes(stream.has(row_words));
            int32_t j = n_steps;
#pragma unroll 1
            for (; j >= 8; j -= 8, x_gl += 2 * WARP) steps<8>(x_gl, fast);
            if (j >= 4) {
                steps<4>(x_gl, fast);
                x_gl += WARP;
                j -= 4;
            }
            if (j > 0) slow_steps(x_gl, j);
            float sum = half2_sum(acc[0]) + half2_sum(acc[1]);
            if (BLOCK) {
                sum = fmaf(sum, unit, half2_sum(acc_min) * min_unit);
                scales += row_scales;
            }
            sum = warp_sum(sum);
            if (lane == 0) sums[r] += sum;
        }
    }

    __device__ __forceinline__ float finish(const matrix* w, int32_t group, int32_t r, float sum) const {
        float v = prepared_unit(xp) * sum;
        if (!BLOCK) {
            affine a = matrix_affine(w, group * w->rows_per_group + r, 0);
            float sum_x = prepared_sum(xp);
            v = a.s * fmaf((float)w->code_offset, sum_x, (float)(1 << S) * v) + a.m * sum_x;
        }
        return w->outliers ? v + outlier_product(w, group, r, x) : v;
    }
};

template <int G, int S, bool BLOCK> __device__ __forceinline__ void fused_half(const matrix* w, const float* x, const uint8_t* xp, const float* bias, float* y) {
    SHARED_DYNAMIC(uint32_t, table_sh);
    half_front<G, S, BLOCK> front(w, x, xp, table_sh);
    fused_product(front, w, table_sh, (float*)(table_sh + (1u << w->max_len)), bias, y);
}
