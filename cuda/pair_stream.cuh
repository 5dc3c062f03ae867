// The fast decoder of a chunk: pairs are peeled off the window a few at a time, steps at a time, and handed to a pairs_to. A
// look-up yields at once what the consumer makes of a pair and the shift to the next code: an entry's bits 0 … 5 are the code's
// length, the rest is the consumer's.
//
// A consumer supplies
//   MOST_STEPS                             16, or 8 if it holds too many registers for a loop of 16 steps
//   begin<N>()                             the next N = 4, 8 or 16 steps follow
//   pair(k, entry, low, at_even, at_odd)   the pair of step k of these. Low bits of the even column are in `low` from bit at_even
//   on, those of the
//                                          odd one from bit 16 + at_odd on, all else is 0
#pragma once
#include "huffman.cuh"

static const uint32_t ENTRY_LENGTH = 0x3f, INDEX_SHIFT = 2;

// How a lane's words are fetched ahead. Among main words only the lower half of the address moves.
struct word_stream {
    uint64_t next;     // address of the next word to fetch
    // low half of the last main word's address; the first word's if the upper halves differ, so that has() says no
    uint32_t main_end;
    const uint32_t* last_main;
    const uint32_t* tail;

    __device__ __forceinline__ void open(const lane_words& words) {
        tail = words.tail;
        last_main = words.n_main > 0 ? words.main + (int64_t)WARP * (words.n_main - 1) : nullptr;
        next = (uintptr_t)(words.n_main > 0 ? words.main : words.tail);
        main_end = (uintptr_t)last_main >> 32 == next >> 32 ? (uint32_t)(uintptr_t)last_main : (uint32_t)next;
    }
    // True if the next n ≥ 1 words and one more are main words. (The tail lies after them.)
    __device__ __forceinline__ bool has(int32_t n) const { return (int32_t)(main_end - (uint32_t)next) >= 4 * WARP * n; }
    __device__ __forceinline__ uint32_t fetch() {
        const uint32_t* p = (const uint32_t*)(uintptr_t)next;
        uint32_t v = __ldg(p);
        next = (uintptr_t)(p == last_main ? tail : p < tail && last_main ? p + WARP : p + 1);
        return v;
    }
};

// The low bits of 32/(2S) or fewer pairs, S bits of the even and S of the odd column each, brought to where consumers want them.
template <int S> struct low_fields {
    // a group is shifted together
    enum { PER_GROUP = S == 0 ? 1 : (10 - S) / (2 * S) + 1, MASK = ((1 << S) - 1) << 16 | ((1 << S) - 1) };

    // Of pair i, whose bits begin at 2·S·i. group: kept from pair to pair.
    static __device__ __forceinline__ uint32_t get(uint32_t bits, int i, uint32_t& group, int& at_even, int& at_odd) {
        at_even = at_odd = 0;
        if (S == 0) return 0;
        if (S == 4) { // a byte, twice
            at_odd = 4;
            return __byte_perm(bits, 0, 0x4040 | i | i << 8) & 0x00f0000fu;
        }
        if (i % PER_GROUP == 0) {
            const int even = 2 * S * i, odd = even + S - 16;
            group = __byte_perm(bits >> even, odd > 0 ? bits >> (odd & 31) : bits << (-odd & 31), 0x7610);
        }
        at_even = at_odd = 2 * S * (i % PER_GROUP);
        return group & ((uint32_t)MASK << at_even);
    }
};

// G pairs are peeled off one peek, S low bits. PRE + G·(longest code) ≤ 32.
template <int G, int S> struct pair_stream {
    enum { LOW_PAIRS = S ? 16 / S : 1, // whose low bits are looked at together
        STEPS = S % 2 ? 16 : 8 };      // at a time, so that their low bits fill words
    const char* table;
    uint32_t mask;
    word_stream stream;
    low_window low;
    uint32_t lo, hi, ahead, pos; // the window of bitstream.cuh's bit_window, but pos goes on beyond 32

    __device__ __forceinline__ explicit pair_stream(uint32_t* table_sh) : table((const char*)table_sh), mask(0) {}

    // entry(a0, a1): the consumer's part of an entry. Collective over the block.
    template <class F> __device__ __forceinline__ void load_table(const matrix* w, int32_t index, uint32_t* table_sh, F entry) {
        const code_table* t = w->tables + index;
        uint32_t n = 1u << t->max_len;
        mask = (n - 1) << INDEX_SHIFT;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            uint32_t e = t->entries[i];
            table_sh[i] = entry((int32_t)(e & 0xff), (int32_t)(e >> 8 & 0xff)) | e >> 16;
        }
        __syncthreads();
    }

    // Collective over the warp.
    __device__ __forceinline__ void open(const matrix* w, int32_t group, int32_t tile, int32_t n_steps, int32_t rows) {
        lane_words words;
        words.open(w, (int64_t)group * w->tiles + tile);
        stream.open(words);
        lo = 0;
        hi = stream.fetch();
        ahead = stream.fetch();
        pos = 32 - INDEX_SHIFT;
        if (S) low.open(w, group, tile, n_steps, rows);
    }

    __device__ __forceinline__ uint32_t entry(uint32_t& window) {
        uint32_t e = *(const uint32_t*)(table + (window & mask));
        window = __funnelshift_r(window, 0, e);
        pos += e;
        return e;
    }

    // Steps whose words are all main words, and whose low bits are followed by at least one word more.
    template <int N, class Consumer> __device__ __forceinline__ void fast_steps(Consumer& pairs_to) {
        pairs_to.template begin<N>();
        uint32_t bits = 0, group = 0, window = 0, before = 0, words[2 * S * N / 32 + 1];
        const int n_bits = 2 * S * N;
#pragma unroll
        for (int i = 0; i < n_bits; i += 32) words[i / 32] = low.take(n_bits - i < 32 ? n_bits - i : 32);
#pragma unroll
        for (int k = 0; k < N; k++) {
            if (k % G == 0) {
                window = __funnelshift_r(lo, hi, pos);
                before = pos;
            }
            if (S && k % LOW_PAIRS == 0) {
                const int at = 2 * S * k, last = (n_bits - 1) / 32;
                bits = at % 32 == 0 || at / 32 == last ? words[at / 32] >> (at % 32) : __funnelshift_r(words[at / 32],
                    words[at / 32 + 1], at % 32);
            }
            int at_even, at_odd;
            uint32_t fields = low_fields<S>::get(bits, k % LOW_PAIRS, group, at_even, at_odd);
            pairs_to.pair(k, entry(window), fields, at_even, at_odd);
            if (k % G == G - 1 || k == N - 1) next_word(lo, hi, ahead, pos, before, stream.next);
        }
    }

    // n steps anywhere, beginning at a multiple of four.
    template <class Consumer> __device__ __forceinline__ void slow_steps(Consumer& pairs_to, int32_t n) {
#pragma unroll 1
        for (; n > 0; n -= 4) {
            pairs_to.template begin<4>();
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (k >= n) break;
                uint32_t window = __funnelshift_r(lo, hi, pos), before = pos, bits = S ? low.take_checked(2 * S) : 0, group;
                int at_even, at_odd;
                uint32_t fields = low_fields<S>::get(bits, 0, group, at_even, at_odd);
                pairs_to.pair(k, entry(window), fields, at_even, at_odd);
                if ((pos ^ before) & 32) {
                    lo = hi;
                    hi = ahead;
                    ahead = stream.fetch();
                }
            }
        }
    }

    // A row of n steps. row_words: words that it takes at most. Collective over the warp.
    template <class Consumer> __device__ __forceinline__ void row(Consumer& pairs_to, int32_t n, int32_t row_words) {
        if (__all_sync(ALL_LANES, stream.has(row_words)) && low_ahead(n)) { // every word is a main word
            const int most = Consumer::MOST_STEPS, steps = STEPS;
#pragma unroll 1
            for (; n >= most; n -= most) {
                fast_steps<(steps < most ? steps : most)>(pairs_to);
                if (steps < most) fast_steps<8>(pairs_to);
            }
            if (n >= 8) {
                fast_steps<8>(pairs_to);
                n -= 8;
            }
            if (n >= 4) {
                fast_steps<4>(pairs_to);
                n -= 4;
            }
        } else {
#pragma unroll 1
            for (; n >= 8; n -= 8) {
                if (__all_sync(ALL_LANES, stream.has((8 + G - 1) / G)) && low_ahead(8))
                    fast_steps<8>(pairs_to);
                else
                    slow_steps(pairs_to, 8);
            }
        }
        if (n > 0) slow_steps(pairs_to, n);
    }

    // True if the low bits of n steps and one word more are there.
    __device__ __forceinline__ bool low_ahead(int32_t n) const { return S == 0 || low.has(2 * S * n / 32 + 1); }
};
