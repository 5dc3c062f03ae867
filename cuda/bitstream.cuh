// Reading of a chunk's bit strings, a lane per thread (docs/format.md, 6.3 and 6.4).
#pragma once
#include "matrix.cuh"

// Sum of v over the lanes below this one.
__device__ __forceinline__ uint32_t warp_exclusive_sum(uint32_t v) {
    uint32_t lane = threadIdx.x % WARP, sum = v;
#pragma unroll
    for (uint32_t d = 1; d < 32; d *= 2) {
        uint32_t below = __shfl_up_sync(ALL_LANES, sum, d);
        if (lane >= d) sum += below;
    }
    return sum - v;
}

// The words of one lane: word i is at main + 32·i for i < n_main, then at tail + (i − n_main).
struct lane_words {
    const uint32_t* main;
    const uint32_t* tail;
    int32_t n_main;

    // Collective over the warp.
    __device__ __forceinline__ void open(const matrix* w, int64_t chunk) {
        uint32_t lane = threadIdx.x % WARP;
        n_main = w->main_words[chunk];
        main = w->stream + w->chunk_offset[chunk] + lane;
        tail = main - lane + WARP * n_main + warp_exclusive_sum(w->lane_tail[chunk * WARP + lane]);
    }
    __device__ __forceinline__ const uint32_t* at(int32_t i) const { return i < n_main ? main + WARP * i : tail + (i - n_main); }
};

// A window of 64 bits over a lane's words, and one word more that is already on its way. The file has no bits ahead of the
// first code: starting with an empty word and pos = 32 − shift makes peek() return codes multiplied by 2^shift (lower bits are
// undefined).
struct bit_window {
    uint32_t lo, hi, next, pos; // only the low 6 bits of pos count
    int32_t i;                  // words read

    __device__ __forceinline__ void open(const lane_words& words, uint32_t shift) {
        lo = 0;
        hi = *words.at(0);
        next = *words.at(1);
        i = 2;
        pos = 32 - shift;
    }
    // At least 32 − (pos mod 32) + 32 bits, of which the caller uses 32.
    __device__ __forceinline__ uint32_t peek() const { return __funnelshift_r(lo, hi, pos); }
    // After at most 32 bits were added to pos.
    __device__ __forceinline__ void refill(const lane_words& words) {
        if (pos & 32) {
            pos ^= 32;
            lo = hi;
            hi = next;
            next = *words.at(i++);
        }
    }
};

// Words of `low` for a chunk of `steps` steps and `rows` rows.
__device__ __forceinline__ int64_t low_chunk_words(int32_t low_bits, int32_t steps, int32_t rows) { return (int64_t)WARP *
    ((2 * low_bits * steps * rows + 31) / 32); }

// First word of `low` of a chunk.
__device__ __forceinline__ const uint32_t* low_chunk(const matrix* w, int32_t group, int32_t tile) {
    int32_t last = w->tiles - 1, rest = w->steps - last * w->steps_per_tile;
    int64_t per_group = last * low_chunk_words(w->low_bits, w->steps_per_tile, w->rows_per_group) + low_chunk_words(w->low_bits,
        rest, w->rows_per_group);
    int32_t rows = min(w->rows_per_group, w->rows - group * w->rows_per_group);
    return w->low + group * per_group + tile * low_chunk_words(w->low_bits, w->steps_per_tile, rows);
}

// The low bits of one lane; all lanes are at the same bit.
struct low_window {
    const uint32_t* word; // this lane's next word
    int32_t left;         // words from there on
    uint32_t lo, hi, pos; // pos 0 … 31

    __device__ __forceinline__ void open(const matrix* w, int32_t group, int32_t tile, int32_t steps, int32_t rows) {
        word = low_chunk(w, group, tile) + threadIdx.x % WARP;
        left = (2 * w->low_bits * steps * rows + 31) / 32;
        pos = 0;
        lo = fetch();
        hi = fetch();
    }
    __device__ __forceinline__ bool has(int32_t n) const { return left >= n; }
    __device__ __forceinline__ uint32_t fetch() {
        uint32_t v = left > 0 ? __ldg(word) : 0;
        word += WARP;
        left--;
        return v;
    }
    // 32 bits, of which n ≤ 32 (known at compile time) are consumed; has(1) must hold.
    __device__ __forceinline__ uint32_t take(int n) {
        uint32_t v = __funnelshift_r(lo, hi, pos);
        if (n < 32) pos += n;
        if (n == 32 || pos >= 32) {
            if (n < 32) pos -= 32;
            lo = hi;
            hi = __ldg(word);
            word += WARP;
            left--;
        }
        return v;
    }
    // The same with n ≤ 32, anywhere.
    __device__ __forceinline__ uint32_t take_checked(uint32_t n) {
        uint32_t v = __funnelshift_r(lo, hi, pos);
        pos += n;
        if (pos >= 32) {
            pos -= 32;
            lo = hi;
            hi = fetch();
        }
        return v;
    }
};
