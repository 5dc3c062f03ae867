// The fast front of the fused products: a table entry is a pair of small integers as half2, with the code's length in the
// mantissa bits below them, so that a look-up yields the factor of a half2 product and the shift to the next code at once.
#pragma once
#include "fused.cuh"
#include "prepared.cuh"

// Bits 0 … 5 of an entry: code length. Integers up to 32 leave these bits of a half's mantissa zero.
static const uint32_t ENTRY_LENGTH = 0x3f, INDEX_SHIFT = 2;
static const int32_t UNIT_STEPS = 8;

// How a lane's words are fetched ahead. Among main words only the lower half of the address moves.
struct word_stream {
    uint64_t next;     // address of the next word to fetch
    uint32_t main_end; // low half of the last main word's address; the first word's if the upper halves differ, so that has() says no
    const uint32_t* last_main;
    const uint32_t* tail;

    __device__ __forceinline__ void open(const lane_words& words) {
        tail = words.tail;
        last_main = words.n_main > 0 ? words.main + (int64_t)WARP * (words.n_main - 1) : nullptr;
        next = (uintptr_t)(words.n_main > 0 ? words.main : words.tail);
        main_end = (uintptr_t)last_main >> 32 == next >> 32 ? (uint32_t)(uintptr_t)last_main : (uint32_t)next;
    }
    // True if the next n ≥ 1 words and one more are main words. (The tail lies behind them.)
    __device__ __forceinline__ bool has(int32_t n) const { return (int32_t)(main_end - (uint32_t)next) >= 4 * WARP * n; }
    __device__ __forceinline__ uint32_t fetch() {
        const uint32_t* p = (const uint32_t*)(uintptr_t)next;
        uint32_t v = __ldg(p);
        next = (uintptr_t)(p == last_main ? tail : p < tail && last_main ? p + WARP : p + 1);
        return v;
    }
};

// G pairs are peeled off one peek, S low bits, BLOCK: scales (and minima) per block of columns.
template <int G, int S, bool BLOCK> struct half_front {
    // Of the matrix.
    const gemv_part& part;
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

    __device__ __forceinline__ half_front(const matrix* w, const gemv_part& part_, uint32_t* table_sh)
        : part(part_), table((const char*)table_sh), mask(0), block_shift(w->block_shift), last_block(w->blocks - 1), has_min(w->has_min) {}

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

    // A pair's low bits, from bit `at` of `bits` on, as half2 (1 + lo/2^S) added to its levels: (a + bias) + lo/2^S.
    __device__ __forceinline__ uint32_t with_low(uint32_t levels, uint32_t bits, int at) const {
        const int up = 10 - S - at; // brings the even column's bits to the top of the mantissa
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
            uint32_t s = __ldg((const uint32_t*)scales + 4 * b);
            acc[which] = half2_fma(product, half2_same((uint16_t)s), acc[which]);
            acc_min = half2_fma(xv, half2_same((uint16_t)(s >> 16)), acc_min);
        } else {
            acc[which] = half2_fma(product, half2_same(__ldg(scales + 4 * b)), acc[which]);
        }
    }

    // One pair out of the window; its low bits begin at bit `at` of `bits`.
    __device__ __forceinline__ void pair(uint32_t& window, uint32_t bits, int at, uint32_t xv, int which) {
        uint32_t e = *(const uint32_t*)(table + (window & mask));
        window = __funnelshift_r(window, 0, e);
        pos += e;
        uint32_t levels = e & ~ENTRY_LENGTH;
        if (S) levels = with_low(levels, bits, at);
        multiply(levels, xv, which);
    }

    // N = 4 or 8 steps whose words are all main words, and whose low bits are followed by at least one word more.
    template <int N> __device__ __forceinline__ void fast_steps(const uint4* x_gl) {
        uint4 a = __ldg(x_gl), b = N > 4 ? __ldg(x_gl + WARP) : a;
        uint32_t xv[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, bits[3] = {0, 0, 0};
        const int n_low = 2 * S * N;
#pragma unroll
        for (int i = 0; i < n_low; i += 32) bits[i / 32] = low.take(n_low - i < 32 ? n_low - i : 32);
#pragma unroll
        for (int first = 0; first < N; first += G) {
            uint32_t window = __funnelshift_r(lo, hi, pos);
#pragma unroll
            for (int k = first; k < (first + G < N ? first + G : N); k++) {
                const int at = 2 * S * k % 32;
                uint32_t v = bits[2 * S * k / 32];
                if (at + 2 * S > 32) // across two words
                    pair(window, __funnelshift_r(v, bits[2 * S * k / 32 + 1], at), 0, xv[k], k & 1);
                else
                    pair(window, v, at, xv[k], k & 1);
            }
            next_word(lo, hi, ahead, pos, stream.next);
        }
    }

    // n steps anywhere, beginning at a multiple of four.
    __device__ __forceinline__ void slow_steps(const uint4* x_gl, int32_t n) {
#pragma unroll 1
        for (; n > 0; n -= 4, x_gl += WARP) {
            uint4 a = __ldg(x_gl);
            uint32_t xv[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (k >= n) break;
                uint32_t window = __funnelshift_r(lo, hi, pos), bits = 0;
                if (S) bits = low.take_checked(2 * S);
                pair(window, bits, 0, xv[k], k & 1);
                if (pos & 32) {
                    pos ^= 32;
                    lo = hi;
                    hi = ahead;
                    ahead = stream.fetch();
                }
            }
        }
    }

    // A row in which every word is a main word.
    __device__ __forceinline__ void fast_row(const uint4* x_gl, int32_t n) {
#pragma unroll 1
        for (; n >= 16; n -= 16, x_gl += 4 * WARP) {
            fast_steps<8>(x_gl);
            fast_steps<8>(x_gl + 2 * WARP);
        }
        if (n >= 8) {
            fast_steps<8>(x_gl);
            n -= 8;
            x_gl += 2 * WARP;
        }
        if (n >= 4) {
            fast_steps<4>(x_gl);
            n -= 4;
            x_gl += WARP;
        }
        if (n > 0) slow_steps(x_gl, n);
    }

    // A row that may reach into the tail.
    __device__ __forceinline__ void slow_row(const uint4* x_gl, int32_t n) {
#pragma unroll 1
        for (; n >= 8; n -= 8, x_gl += 2 * WARP) {
            if (__all_sync(ALL_LANES, stream.has((8 + G - 1) / G)) && low_ahead(8))
                fast_steps<8>(x_gl);
            else
                slow_steps(x_gl, 8);
        }
        if (n > 0) slow_steps(x_gl, n);
    }

    // True if the low bits of n steps and one word more are there.
    __device__ __forceinline__ bool low_ahead(int32_t n) const { return S == 0 || low.has(2 * S * n / 32 + 1); }

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
        const uint4* x_tile = prepared_stepped(part.xp(), w->steps) + tile * ((w->steps_per_tile + 3) / 4) * WARP + lane;
        int32_t row_words = n_steps * w->max_len / 32 + 2; // a row takes at most
        float unit = BLOCK ? (float)(1 << S) * w->block_unit : 1.0f, min_unit = w->min_unit;
        open_chunk(w, group, tile, n_steps, rows);
        for (int32_t r = 0; r < rows; r++) {
            acc[0] = acc[1] = acc_min = 0;
            col = first_col;
            if (BLOCK) {
                int32_t stored = group * w->rows_per_group + r;
                scales = w->block_scale + ((int64_t)(stored / 4) * w->block_stride * 4 + stored % 4) * (has_min ? 2 : 1);
            }
            if (__all_sync(ALL_LANES, stream.has(row_words)) && low_ahead(n_steps))
                fast_row(x_tile, n_steps);
            else
                slow_row(x_tile, n_steps);
            float sum = half2_sum(acc[0]) + half2_sum(acc[1]);
            if (BLOCK) sum = fmaf(sum, unit, half2_sum(acc_min) * min_unit);
            sum = warp_sum(sum);
            if (lane == 0) sums[r] += sum;
        }
    }

    __device__ __forceinline__ float finish(const matrix* w, int32_t group, int32_t r, float sum) const {
        const uint8_t* xp = part.xp();
        float v = prepared_unit(xp) * sum;
        if (!BLOCK) {
            affine a = matrix_affine(w, group * w->rows_per_group + r, 0);
            float sum_x = prepared_sum(xp);
            v = a.s * fmaf((float)w->code_offset, sum_x, (float)(1 << S) * v) + a.m * sum_x;
        }
        return w->outliers ? v + outlier_product(w, group, r, part.x(w)) : v;
    }
};

template <int G, int S, bool BLOCK> __device__ __forceinline__ void fused_half(const gemv_part& part) {
    SHARED_DYNAMIC(uint32_t, table_sh);
    half_front<G, S, BLOCK> front(part.w(), part, table_sh);
    fused_product(front, part, table_sh, (float*)(table_sh + (1u << part.w()->max_len)));
}
