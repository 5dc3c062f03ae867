// Codes of 3, 4, 5, 6 or 8 bits, packed for products of one vector (matrix::data in the packed form).
//
// A piece is 32 columns of a row, in `bits` words; pieces = ⌈cols / 32⌉. Layout: uint32 [row / 4][word][piece][row % 4], so that
// lanes which take neighbouring pieces read 16 bytes each, side by side: one word of four rows.
// Pair i of a piece is columns 2i and 2i + 1. Its codes are in the same bits of the lower and of the upper half of a word: with
// F = ⌊16 / bits⌋ fields per half, pairs i < F·bits are in word i / F from bit (i mod F)·bits on. The others are in the bits that
// this leaves:
//   3 and 5 bits: bit k of pair 15 is bit 15 of word k
//   6 bits: pair 12 + j has its upper four bits in bits 12 … 15 of word j, its lower two in bits 12, 13 (even j) or 14, 15 (odd
//   j) of word 4 + ⌊j / 2⌋
#pragma once
#include "matrix.cuh"

enum { PIECE_COLS = 32, PIECE_PAIRS = 16, QUAD = 4 }; // QUAD: rows that are interleaved

__device__ __forceinline__ int32_t packed_pieces(int32_t cols) { return (cols + PIECE_COLS - 1) / PIECE_COLS; }

// Index into w->data of a word of a piece.
__device__ __forceinline__ int64_t packed_at(const matrix* w, int32_t stored, int32_t piece, int32_t word) {
    int32_t pieces = packed_pieces(w->cols);
    return ((int64_t)(stored / QUAD * w->packed_bits + word) * pieces + piece) * QUAD + stored % QUAD;
}

// Codes of pair i as integers, in the halves of the result. words[k·pitch] is word k of the piece.
__device__ __forceinline__ uint32_t packed_pair(const uint32_t* words, int64_t pitch, int32_t bits, int32_t i) {
    int32_t fields = 16 / bits, j = i - fields * bits;
    uint32_t both = 0x00010001u;
    if (j < 0) return words[i / fields * pitch] >> (i % fields * bits) & both * ((1u << bits) - 1);
    if (bits == 6) return (words[j * pitch] >> 12 & both * 15) << 2 | (words[(4 + j / 2) * pitch] >> (12 + 2 * (j % 2)) & both *
        3);
    uint32_t code = 0;
#pragma unroll
    for (int32_t k = 0; k < bits; k++) code |= (words[k * pitch] >> 15 & both) << k;
    return code;
}

// The code in a column, exceptions included.
__device__ __forceinline__ float packed_code(const matrix* w, int32_t stored, int32_t col) {
    int64_t pitch = (int64_t)packed_pieces(w->cols) * QUAD;
    uint32_t pair = packed_pair((const uint32_t*)w->data + packed_at(w, stored, col / PIECE_COLS, 0), pitch, w->packed_bits,
        col % PIECE_COLS / 2);
    int32_t code = (int32_t)(pair >> (col % 2 ? 16 : 0) & 0xffff), quad = stored / QUAD;
    if (w->exception_start)
        for (uint32_t k = w->exception_start[quad]; k < w->exception_start[quad + 1]; k++) {
            uint32_t o = w->exceptions[k];
            if (outlier_col(o) == col && (int32_t)outlier_row(o) % QUAD == stored % QUAD) code += outlier_delta(o) *
                (1 << w->low_bits);
        }
    return (float)code;
}

// The inverse: word k of a piece whose pairs are given.
__device__ __forceinline__ uint32_t packed_word(const uint32_t* pairs, int32_t bits, int32_t k) {
    int32_t fields = 16 / bits;
    uint32_t word = 0, both = 0x00010001u;
#pragma unroll
    for (int32_t f = 0; f < fields; f++) word |= pairs[k * fields + f] << (f * bits);
    if (bits == 3 || bits == 5) return word | (pairs[15] >> k & both) << 15;
    if (bits != 6) return word;
    if (k < 4) return word | (pairs[12 + k] >> 2 & both * 15) << 12;
    return word | (pairs[4 + 2 * k] & both * 3) << 12 | (pairs[5 + 2 * k] & both * 3) << 14;
}

// A code in the mantissa of a half, p bits up, is the number 1024 + 2^p·code. terms.of[p] takes that to code − center.
struct packed_terms {
    uint32_t of[7];

    __device__ __forceinline__ explicit packed_terms(int32_t center) {
#pragma unroll
        for (int p = 0; p < 7; p++) of[p] = half2_same(float_to_half(-(float)(1024 >> p) - (float)center));
    }
    template <int P> __device__ __forceinline__ uint32_t number(uint32_t word,
        uint32_t mask) const { return centered<P>(and_or(word, mask << P, 0x64006400u)); }
    template <int P> __device__ __forceinline__ uint32_t centered(uint32_t h) const { return half2_fma(h,
        (0x3c00u - 0x400u * P) * 0x10001u, of[P]); }
};

// All pairs of a piece as half2 of code − center; v: its words.
template <int BITS> struct packed_numbers;

template <> struct packed_numbers<3> {
    template <int J> static __device__ __forceinline__ void word(const uint32_t* v, const packed_terms& t, uint32_t* h,
        uint32_t* last) {
        const uint32_t mask = 0x00070007u;
        uint32_t s = v[J] >> (9 - J);
        h[5 * J] = t.number<0>(v[J], mask);
        h[5 * J + 1] = t.number<3>(v[J], mask);
        h[5 * J + 2] = t.number<6>(v[J], mask);
        h[5 * J + 3] = t.number<J>(s, mask);
        h[5 * J + 4] = t.number<3 + J>(s, mask);
        *last = and_or(s, 0x00400040u << J, *last);
    }
    static __device__ __forceinline__ void get(const uint32_t* v, const packed_terms& t, uint32_t* h) {
        uint32_t last = 0x64006400u;
        word<0>(v, t, h, &last);
        word<1>(v, t, h, &last);
        word<2>(v, t, h, &last);
        h[15] = t.centered<6>(last);
    }
};

template <> struct packed_numbers<4> {
    static __device__ __forceinline__ void get(const uint32_t* v, const packed_terms& t, uint32_t* h) {
        const uint32_t mask = 0x000f000fu;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t s = v[j] >> 8;
            h[4 * j] = t.number<0>(v[j], mask);
            h[4 * j + 1] = t.number<4>(v[j], mask);
            h[4 * j + 2] = t.number<0>(s, mask);
            h[4 * j + 3] = t.number<4>(s, mask);
        }
    }
};

template <> struct packed_numbers<5> {
    template <int J> static __device__ __forceinline__ void word(const uint32_t* v, const packed_terms& t, uint32_t* h,
        uint32_t* last) {
        const uint32_t mask = 0x001f001fu;
        uint32_t s = v[J] >> (10 - J);
        h[3 * J] = t.number<0>(v[J], mask);
        h[3 * J + 1] = t.number<5>(v[J], mask);
        h[3 * J + 2] = t.number<J>(s, mask);
        *last = and_or(s, 0x00200020u << J, *last);
    }
    static __device__ __forceinline__ void get(const uint32_t* v, const packed_terms& t, uint32_t* h) {
        uint32_t last = 0x64006400u;
        word<0>(v, t, h, &last);
        word<1>(v, t, h, &last);
        word<2>(v, t, h, &last);
        word<3>(v, t, h, &last);
        word<4>(v, t, h, &last);
        h[15] = t.centered<5>(last);
    }
};

template <> struct packed_numbers<6> {
    static __device__ __forceinline__ void get(const uint32_t* v, const packed_terms& t, uint32_t* h) {
        const uint32_t mask = 0x003f003fu;
#pragma unroll
        for (int j = 0; j < 6; j++) {
            uint32_t s = v[j] >> 6;
            h[2 * j] = t.number<0>(v[j], mask);
            h[2 * j + 1] = t.number<0>(s, mask);
            if (j < 4) h[12 + j] = t.centered<4>(and_or(v[4 + j / 2] >> (8 + 2 * (j % 2)), 0x00300030u,
                and_or(s, 0x03c003c0u, 0x64006400u)));
        }
    }
};

template <> struct packed_numbers<8> {
    static __device__ __forceinline__ void get(const uint32_t* v, const packed_terms& t, uint32_t* h) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            h[2 * j] = t.number<0>(v[j], 0x00ff00ffu);
            h[2 * j + 1] = t.centered<0>(__byte_perm(v[j], 0x64646464u, 0x4341));
        }
    }
};
