// Products of many tokens from tiles in half precision: what gemm_half_* and gemm_mma_* share.
// A block of 128 threads computes 128 rows × 64 tokens, 32 columns at a time: while one pair of tiles is multiplied, the next
// one's weights and inputs are on their way to registers, and are then written to the other half of shared memory as halves.
#pragma once
#include "matrix.cuh"
#include "prepared.cuh"

enum { GEMM_ROWS = 128, GEMM_TOKENS = 64, GEMM_DEPTH = 32, GEMM_THREADS = 128, LINE_PIECES = 4,
    TILE_PIECES = (GEMM_ROWS + GEMM_TOKENS) * LINE_PIECES };

// Index of 8 of a tile's columns (piece 0 … 3) of a row or token, in units of 16 bytes. A line takes 64 bytes; its pieces are
// permuted so that the same piece of 8 lines in a row, and all pieces of 2 lines, lie in different banks.
__device__ __forceinline__ int32_t tile_piece(int32_t line, int32_t piece) { return line * LINE_PIECES +
    (piece ^ (line >> 1 & 3)); }

// How sums become results: y = s·gain·unit·sum + m·Σx + bias, with the row's s and m, and the input's unit and Σx.
struct gemm_scales {
    bool by_row; // else s alone, for all rows
    float s, zero; // zero: what is added to the codes of by_row
    float gain;    // by which the sum must be multiplied besides: a power of two
};

struct gemm_row {
    affine a;
    float bias;
    int32_t to; // row of the result; −1 = none
};

// A block's results.
struct gemm_output {
    const matrix* w;
    int32_t first, rows, tokens; // first: stored row of the tile's first; rows, tokens: that there are from there on
    gemm_scales scales;
    const uint8_t* xp; // of the tile's first token
    int64_t xp_stride;
    const float* bias;
    float* y; // of the tile's first token

    __device__ __forceinline__ gemm_row row(int32_t i) const {
        gemm_row r = {{scales.s, 0}, 0, -1};
        if (i >= rows) return r;
        r.to = matrix_row(w, first + i);
        if (bias) r.bias = bias[r.to];
        if (scales.by_row) {
            r.a = matrix_affine(w, first + i, 0);
            r.a.m = fmaf(r.a.s, scales.zero, r.a.m);
        }
        return r;
    }
    __device__ __forceinline__ void write(const gemm_row& r, int32_t token, float sum) const {
        if (r.to < 0 || token >= tokens) return;
        const uint8_t* x = xp + token * xp_stride;
        y[(int64_t)token * w->rows + r.to] = fmaf(r.a.s * scales.gain * prepared_unit(x), sum, fmaf(r.a.m, prepared_sum(x),
            r.bias));
    }
};

// Stored pieces become halves in store(). With a scale per row or tensor: (code − center) / gain. Blocks: scaled and rounded, in
// units of block_unit·gain. A thread brings 32 columns of one row.
struct code_scales : gemm_scales {
    const matrix* w;
    float min_ratio; // block minima in units of block_unit

    __device__ __forceinline__ void open(const matrix* w_, float center_code, float gain_) {
        w = w_;
        zero = center_code;
        gain = gain_;
        by_row = w->scale_kind != SCALE_BLOCK;
        s = w->block_unit;
        min_ratio = !by_row && w->block_min ? w->min_unit / w->block_unit : 0;
    }
    // Scales and minima of the first and of the other 16 columns.
    __device__ __forceinline__ uint2 load(int32_t stored, int32_t col) const {
        uint2 bits = {0, 0};
        if (by_row) return bits;
        bits.x = block_scale_bits(w, stored, col);
        bits.y = w->block_shift > 4 ? bits.x : block_scale_bits(w, stored, min(col + 16, w->cols - 1));
        return bits;
    }
    // h [16]: pairs of (code − center) / gain.
    __device__ __forceinline__ void store(uint32_t* h, uint2 bits, uint4* tile, int32_t line) const {
        if (!by_row) {
            scale<8>(h, bits.x);
            scale<8>(h + 8, bits.y);
        }
#pragma unroll
        for (int i = 0; i < LINE_PIECES; i++) tile[tile_piece(line, i)] = uint4_of(h + 4 * i);
    }
    // Scales N pairs of one block.
    template <int N> __device__ __forceinline__ void scale(uint32_t* h, uint32_t bits) const {
        float factor = half_to_float((uint16_t)bits), min = half_to_float((uint16_t)(bits >> 16));
        uint32_t f = half2_same((uint16_t)bits), offset = half2_same(float_to_half(fmaf(factor, zero, min_ratio * min) / gain));
#pragma unroll
        for (int i = 0; i < N; i++) h[i] = half2_fma(h[i], f, offset);
    }
};

// Codes are multiplied as (code − center), exact in half precision: a byte becomes the mantissa of 1024 + byte, from which 1024 +
// center is subtracted.
__device__ __forceinline__ float code_center(const matrix* w) { return 128 + w->data_offset; }
__device__ __forceinline__ uint32_t center_term(float center) { return half2_same(float_to_half(-1024 - center)); }

__device__ __forceinline__ void bytes_to_half2(uint32_t bytes, uint32_t term, uint32_t* h) {
    h[0] = half2_add(__byte_perm(bytes, 0x64646464u, 0x4140), term);
    h[1] = half2_add(__byte_perm(bytes, 0x64646464u, 0x4342), term);
}

// Planes of TYPE_U8; stride a multiple of 64.
struct u8_tiles {
    code_scales scales;
    uint32_t term;
    const uint8_t* data;
    struct piece {
        uint4 lo, hi;
        uint2 scale;
    };

    __device__ __forceinline__ void open(const matrix* w, const void* data_, int32_t first_row) {
        float center = code_center(w);
        term = center_term(center);
        scales.open(w, center + w->data_zero, 1);
        data = data_ ? (const uint8_t*)data_ : (const uint8_t*)w->data + (int64_t)first_row * w->stride;
    }
    // row: counted from first_row; stored: from the matrix's first.
    __device__ __forceinline__ piece load(int32_t row, int32_t stored, int32_t col) const {
        const uint4* at = (const uint4*)(data + (int64_t)row * scales.w->stride + col);
        piece p = {__ldg(at), __ldg(at + 1), scales.load(stored, col)};
        return p;
    }
    __device__ __forceinline__ void store(const piece& p, uint4* tile, int32_t line) const {
        uint32_t h[16], codes[8] = {p.lo.x, p.lo.y, p.lo.z, p.lo.w, p.hi.x, p.hi.y, p.hi.z, p.hi.w};
#pragma unroll
        for (int i = 0; i < 8; i++) bytes_to_half2(codes[i], term, h + 2 * i);
        scales.store(h, p.scale, tile, line);
    }
};

// What becomes halves as it is loaded: 32 columns.
struct wide_piece {
    uint32_t h[16];
    uint2 scale;
};

// Planes of TYPE_I32. Halves are exact up to 2048 codes from the center, as accurate as any half beyond, and stay below 2^16 up
// to 2^24 codes.
struct i32_tiles {
    code_scales scales;
    float center;
    const int32_t* data;
    typedef wide_piece piece;

    __device__ __forceinline__ void open(const matrix* w, const void* data_, int32_t first_row) {
        center = code_center(w);
        scales.open(w, center + w->data_zero, 256);
        data = data_ ? (const int32_t*)data_ : (const int32_t*)w->data + (int64_t)first_row * w->stride;
    }
    __device__ __forceinline__ float half(uint32_t code) const { return ((float)(int32_t)code - center) * (1.0f / 256); }
    __device__ __forceinline__ piece load(int32_t row, int32_t stored, int32_t col) const {
        const uint4* at = (const uint4*)(data + (int64_t)row * scales.w->stride + col);
        piece p;
        p.scale = scales.load(stored, col);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint4 v = __ldg(at + i);
            p.h[2 * i] = half2_pack(half(v.x), half(v.y));
            p.h[2 * i + 1] = half2_pack(half(v.z), half(v.w));
        }
        return p;
    }
    __device__ __forceinline__ void store(piece& p, uint4* tile, int32_t line) const { scales.store(p.h, p.scale, tile, line); }
};

// Planes of TYPE_F16 or TYPE_BF16 with a float_unit: w / float_unit, exact unless below 2^−14.
template <int TYPE> struct float_tiles {
    gemm_scales scales;
    float factor;
    int32_t stride;
    const uint16_t* data;
    typedef wide_piece piece;

    __device__ __forceinline__ void open(const matrix* w, const void* data_, int32_t first_row) {
        gemm_scales unscaled = {false, w->float_unit, 0, 1};
        scales = unscaled;
        factor = 1 / w->float_unit;
        stride = w->stride;
        data = data_ ? (const uint16_t*)data_ : (const uint16_t*)w->data + (int64_t)first_row * stride;
    }
    __device__ __forceinline__ uint32_t halves(uint32_t pair) const {
        if (TYPE == TYPE_F16) return half2_pack(half_to_float((uint16_t)pair) * factor, half_to_float((uint16_t)(pair >> 16)) *
            factor);
        return half2_pack(__uint_as_float(pair << 16) * factor, __uint_as_float(pair & 0xffff0000u) * factor);
    }
    __device__ __forceinline__ piece load(int32_t row, int32_t stored, int32_t col) const {
        const uint4* at = (const uint4*)(data + (int64_t)row * stride + col);
        piece p;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint4 v = __ldg(at + i);
            p.h[4 * i] = halves(v.x);
            p.h[4 * i + 1] = halves(v.y);
            p.h[4 * i + 2] = halves(v.z);
            p.h[4 * i + 3] = halves(v.w);
        }
        return p;
    }
    __device__ __forceinline__ void store(const piece& p, uint4* tile, int32_t line) const {
#pragma unroll
        for (int i = 0; i < LINE_PIECES; i++) tile[tile_piece(line, i)] = uint4_of(p.h + 4 * i);
    }
};

// Sums of 16 products in half precision, then in float32. A thread: rows my_row + 16·i, tokens my_token + j.
struct half_multiplier {
    enum { ROWS = 8, TOKENS = 8 };
    float sum[ROWS][TOKENS];
    int32_t my_row, my_token;

    __device__ __forceinline__ void open() {
        my_row = threadIdx.x % 16;
        my_token = threadIdx.x / 16 * TOKENS;
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < TOKENS; j++) sum[i][j] = 0;
    }
    // n_tokens of the tile are wanted.
    __device__ __forceinline__ void multiply(const uint4* w_sh, const uint4* x_sh, int32_t n_tokens) {
        if (my_token >= n_tokens) return;
        uint32_t acc[ROWS][TOKENS] = {};
        int32_t turn = my_row >> 3; // rows 8 apart share banks: their threads read the halves of a piece in opposite order
#pragma unroll
        for (int piece = 0; piece < LINE_PIECES; piece++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int32_t at = half ^ turn;
                uint2 wv[ROWS];
#pragma unroll
                for (int i = 0; i < ROWS; i++) wv[i] = ((const uint2*)(w_sh + tile_piece(my_row + 16 * i, piece)))[at];
#pragma unroll
                for (int j = 0; j < TOKENS; j++) {
                    uint2 xv = ((const uint2*)(x_sh + tile_piece(my_token + j, piece)))[at];
#pragma unroll
                    for (int i = 0; i < ROWS; i++) acc[i][j] = half2_fma(wv[i].y, xv.y, half2_fma(wv[i].x, xv.x, acc[i][j]));
                }
            }
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < TOKENS; j++) sum[i][j] += half2_sum(acc[i][j]);
    }
    __device__ __forceinline__ void write(const gemm_output& out) const {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            gemm_row r = out.row(my_row + 16 * i);
#pragma unroll
            for (int j = 0; j < TOKENS; j++) out.write(r, my_token + j, sum[i][j]);
        }
    }
};

#ifdef HAS_MMA
// Tensor cores, sums in float32. A warp: 32 rows, all tokens, in tiles of 16 × 8.
struct mma_multiplier {
    enum { ROW_TILES = 2, TOKEN_TILES = GEMM_TOKENS / 8 };
    float sum[ROW_TILES][TOKEN_TILES][4];
    int32_t first_row, group, quad;

    __device__ __forceinline__ void open() {
        int32_t lane = threadIdx.x % WARP;
        first_row = threadIdx.x / WARP * 32;
        group = lane / 4;
        quad = lane % 4;
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
            for (int j = 0; j < TOKEN_TILES; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) sum[i][j][k] = 0;
    }
    // In which order columns enter a sum does not matter: a lane takes the 8 columns of its piece where the instruction's
    // definition has columns 2·quad, 2·quad + 1, 2·quad + 8 and 2·quad + 9 of two products.
    __device__ __forceinline__ void multiply(const uint4* w_sh, const uint4* x_sh, int32_t n_tokens) {
        uint4 a[ROW_TILES][2];
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
            for (int k = 0; k < 2; k++) a[i][k] = w_sh[tile_piece(first_row + 16 * i + 8 * k + group, quad)];
#pragma unroll
        for (int j = 0; j < TOKEN_TILES; j++) {
            if (8 * j >= n_tokens) break;
            uint4 b = x_sh[tile_piece(8 * j + group, quad)];
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
                mma_16x8x16(sum[i][j], a[i][0].x, a[i][1].x, a[i][0].y, a[i][1].y, b.x, b.y);
                mma_16x8x16(sum[i][j], a[i][0].z, a[i][1].z, a[i][0].w, a[i][1].w, b.z, b.w);
            }
        }
    }
    __device__ __forceinline__ void write(const gemm_output& out) const {
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                gemm_row r = out.row(first_row + 16 * i + 8 * k + group);
#pragma unroll
                for (int j = 0; j < 2 * TOKEN_TILES; j++) out.write(r, j / 2 * 8 + 2 * quad + j % 2,
                    sum[i][j / 2][2 * k + j % 2]);
            }
    }
};
#else
typedef half_multiplier mma_multiplier;
#endif

template <class MULTIPLIER, class TILES>
__device__ __forceinline__ void gemm_tiles(const matrix* w, const void* data, int32_t first_row, int32_t n_rows,
    const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    SHARED_ARRAY(uint4, tiles_sh, 2 * TILE_PIECES);
    int32_t row_0 = blockIdx.x * GEMM_ROWS, token_0 = blockIdx.y * GEMM_TOKENS, cols = w->cols, tokens = n_tokens - token_0;
    // What this thread brings into the tiles: a row's line and half of a token's.
    int32_t row = min(row_0 + (int32_t)threadIdx.x, n_rows - 1), token = threadIdx.x / 2, x_piece = threadIdx.x % 2 * 2;
    const uint8_t* x = xp + (int64_t)min(token_0 + token, n_tokens - 1) * xp_stride;
    TILES tiles;
    tiles.open(w, data, first_row);
    MULTIPLIER multiplier;
    multiplier.open();
    typename TILES::piece piece;
    uint4 x_lo, x_hi;
    auto load = [&](int32_t col) {
        piece = tiles.load(row, first_row + row, col);
        x_lo = __ldg(prepared_eight(x, col / 8 + x_piece));
        x_hi = __ldg(prepared_eight(x, col / 8 + x_piece + 1));
    };
    auto store = [&](uint4* tile) {
        tiles.store(piece, tile, threadIdx.x);
        tile[tile_piece(GEMM_ROWS + token, x_piece)] = x_lo;
        tile[tile_piece(GEMM_ROWS + token, x_piece + 1)] = x_hi;
    };
    load(0);
    store(tiles_sh);
    uint4 *now = tiles_sh, *next = tiles_sh + TILE_PIECES;
    for (int32_t col = 0; col < cols; col += GEMM_DEPTH) {
        __syncthreads();
        bool more = col + GEMM_DEPTH < cols;
        if (more) load(col + GEMM_DEPTH);
        multiplier.multiply(now, now + GEMM_ROWS * LINE_PIECES, tokens);
        if (more) store(next);
        uint4* t = now;
        now = next;
        next = t;
    }
    gemm_output out = {w, first_row + row_0, n_rows - row_0, tokens, tiles.scales, xp + (int64_t)token_0 * xp_stride, xp_stride,
        bias, y + (int64_t)token_0 * w->rows};
    multiplier.write(out);
}
