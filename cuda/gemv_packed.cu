// y = W·x from packed codes (packed.cuh).
#include "gemv_task.cuh"
#include "packed.cuh"

__device__ __forceinline__ uint32_t word_of_row(uint4 v, int r) { return r == 0 ? v.x : r == 1 ? v.y : r == 2 ? v.z : v.w; }

// Scales, and minima where MIN, of a block of four rows.
template <bool MIN> struct quad_scales {
    uint2 scales, minima;

    __device__ __forceinline__ void load(const char* scales_gl, int64_t to_minima, uint32_t block) {
        scales = __ldg((const uint2*)scales_gl + block);
        if (MIN) minima = __ldg((const uint2*)(scales_gl + to_minima) + block);
    }
    static __device__ __forceinline__ float of_row(uint2 v,
        int r) { return half_to_float((uint16_t)((r < 2 ? v.x : v.y) >> (r % 2 ? 16 : 0))); }
    __device__ __forceinline__ float scale(int r) const { return of_row(scales, r); }
    __device__ __forceinline__ float min(int r) const { return of_row(minima, r); }
};

// Bytes from one word of a piece to the next. 32 bits save registers, which block scales need; 64 save instructions.
template <int BLOCK> struct pitch_of {
    typedef uint32_t type;
};
template <> struct pitch_of<0> {
    typedef int64_t type;
};

// Four rows times some pieces of T inputs: Σ (code − center)·x for BLOCK = 0; with scales per block of ≥ 32 or of 16 columns
// (BLOCK = 32, 16) Σ s·q·x + m·x in units of w->block_unit. Half-precision sums run over 16 pairs, over 8 if codes have 8 bits.
template <int T, int BITS, int BLOCK, bool MIN> struct quad_product {
    // Rows whose codes are taken apart at a time. Of up to two vectors all inputs of a piece are in registers meanwhile, of more
    // vectors one after the other.
    enum { ROWS = T > 2 ? 2 : 1, INPUTS = T > 2 ? 1 : T };
    typedef typename pitch_of<BLOCK>::type pitch_t;
    packed_terms terms;
    const uint8_t* side; // from the slot of the first vector on
    uint32_t sums;       // where the sums of 16 columns are, from side on
    float zero, min_ratio;
    int32_t shift;
    float sum[T][QUAD];

    __device__ __forceinline__ quad_product(const matrix* w, const gemv_part<T>& part)
        : terms(w->packed_center), side(part.side + part.slot(0) * (BLOCK_UINT4 * 16)),
          sums((uint32_t)((const uint8_t*)(side_sums(part.side, w->steps) + part.slot(0) * 64) - side)),
          zero((float)(w->packed_center + w->packed_zero)), min_ratio(w->min_unit / w->block_unit), shift(w->block_shift - 5) {}

    // Wide codes leave no room for another rounding.
    static __device__ __forceinline__ float run_total(uint32_t acc) { return BITS == 8 ? half2_sum(acc) : half2_total(acc); }

    __device__ __forceinline__ void add_block(const quad_scales<MIN>& scales, int t, int r, float part, float sum_x) {
        sum[t][r] = fmaf(scales.scale(r), fmaf(zero, sum_x, part), sum[t][r]);
        if (MIN) sum[t][r] = fmaf(scales.min(r), sum_x * min_ratio, sum[t][r]);
    }

    __device__ __forceinline__ void load_input(uint32_t* x, uint32_t p, int t) const {
        const uint4* from = side_piece(side, p) + t * BLOCK_UINT4;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint4 q = __ldg(from + BLOCK_PIECES * k);
            x[4 * k] = q.x;
            x[4 * k + 1] = q.y;
            x[4 * k + 2] = q.z;
            x[4 * k + 3] = q.w;
        }
    }

    // Adds the products of a row's codes h with the inputs x of vector t, of which sum_x are the sums of 16 columns.
    __device__ __forceinline__ void add_row(const uint32_t* h, const uint32_t* x, int t, int r, const quad_scales<MIN>& first,
        const quad_scales<MIN>& second, float2 sum_x) {
        uint32_t acc = 0;
        float lower = 0; // of the first 16 columns
#pragma unroll
        for (int i = 0; i < PIECE_PAIRS; i++) {
            if ((BLOCK == 16 || BITS == 8) && i == PIECE_PAIRS / 2) {
                lower = run_total(acc);
                acc = 0;
            }
            acc = half2_fma(h[i], x[i], acc);
        }
        float part = run_total(acc);
        if (BLOCK == 16) {
            add_block(first, t, r, lower, sum_x.x);
            add_block(second, t, r, part, sum_x.y);
            return;
        }
        if (BITS == 8) part += lower;
        if (BLOCK == 32)
            add_block(first, t, r, part, sum_x.x + sum_x.y);
        else
            sum[t][r] += part;
    }

    // words: of piece p of the four rows, `pitch` bytes apart. scales: of the four rows, to_minima bytes before their minima.
    __device__ __forceinline__ void piece(const char* words, pitch_t pitch, const char* scales, int64_t to_minima, uint32_t p) {
        uint4 v[BITS];
#pragma unroll
        for (int k = 0; k < BITS; k++) v[k] = __ldg((const uint4*)(words + k * pitch));
        uint32_t x[INPUTS][PIECE_PAIRS];
#pragma unroll
        for (int t = 0; T == INPUTS && t < T; t++) load_input(x[t % INPUTS], p, t);
        quad_scales<MIN> first, second;
        float2 sum_x[INPUTS];
        if (BLOCK) {
#pragma unroll
            for (int t = 0; T == INPUTS && t < T; t++) sum_x[t % INPUTS] = sums_of(p, t);
            first.load(scales, to_minima, BLOCK == 16 ? 2 * p : p >> shift);
            if (BLOCK == 16) second.load(scales, to_minima, 2 * p + 1);
        }
#pragma unroll
        for (int r = 0; r < QUAD; r += ROWS) {
            uint32_t h[ROWS][PIECE_PAIRS];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                uint32_t mine[BITS];
#pragma unroll
                for (int k = 0; k < BITS; k++) mine[k] = word_of_row(v[k], r + i);
                packed_numbers<BITS>::get(mine, terms, h[i]);
            }
#pragma unroll
            for (int t = 0; t < T; t++) {
                if (T != INPUTS) {
                    load_input(x[0], p, t);
                    if (BLOCK) sum_x[0] = sums_of(p, t);
                }
#pragma unroll
                for (int i = 0; i < ROWS; i++) add_row(h[i], x[t % INPUTS], t, r + i, first, second, sum_x[t % INPUTS]);
            }
        }
    }

    __device__ __forceinline__ float2 sums_of(uint32_t p, int t) const {
        return __ldg((const float2*)(side + (sums + (uint32_t)sizeof(float) * side_sum_at(2 * p))) + t * 32);
    }

    // Every lanes-th piece from `slice` on.
    __device__ __forceinline__ void run(const matrix* w, int32_t quad, uint32_t slice, uint32_t lanes) {
        uint32_t pieces = packed_pieces(w->cols);
        pitch_t pitch = (pitch_t)sizeof(uint4) * pieces;
        const char* words = (const char*)w->data + (int64_t)(quad * BITS) * pitch + (int64_t)sizeof(uint4) * slice;
        const char* scales = (const char*)w->block_scale + (int64_t)quad * w->block_stride * 8;
        int64_t to_minima = MIN ? (const char*)w->block_min - (const char*)w->block_scale : 0;
#pragma unroll
        for (int t = 0; t < T; t++)
#pragma unroll
            for (int r = 0; r < QUAD; r++) sum[t][r] = 0;
#pragma unroll 1
        for (uint32_t p = slice; p < pieces; p += lanes, words += sizeof(uint4) * lanes) piece(words, pitch, scales, to_minima,
            p);
    }
};

// What a quad's exceptions add.
template <int T, int BLOCK> __device__ __forceinline__ void add_exceptions(const matrix* w, const gemv_part<T>& part,
    int32_t quad,
    int32_t slice, int32_t lanes, float (*sum)[QUAD]) {
    uint32_t end = w->exception_start[quad + 1];
    float unit = (float)(1 << w->low_bits);
    for (uint32_t k = w->exception_start[quad] + slice; k < end; k += lanes) {
        uint32_t o = __ldg(w->exceptions + k);
        int32_t col = outlier_col(o), row = outlier_row(o) % QUAD;
#pragma unroll
        for (int t = 0; t < T; t++) {
            float v = (float)outlier_delta(o) * unit * side_value(part.side, part.slot(t), col);
            if (BLOCK)
                v *= half_to_float(w->block_scale[((int64_t)quad * w->block_stride + (col >> w->block_shift)) * QUAD + row]);
#pragma unroll
            for (int r = 0; r < QUAD; r++)
                if (r == row) sum[t][r] += v;
        }
    }
}

template <int T, int BITS, int BLOCK, bool MIN> __device__ __forceinline__ void gemv_packed(const gemv_part<T>& part) {
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    int32_t lanes = w->row_lanes, slice = threadIdx.x % lanes, quads = (w->rows + QUAD - 1) / QUAD, per_warp = WARP / lanes;
    quad_product<T, BITS, BLOCK, MIN> product(w, part);
    for (int32_t first = (block * 8 + threadIdx.x / WARP) * per_warp; first < quads; first += task->blocks * 8 * per_warp) {
        int32_t quad = min(first + (int32_t)(threadIdx.x % WARP) / lanes, quads - 1); // all lanes stay for the shuffles
        product.run(w, quad, slice, lanes);
        if (w->exception_start) add_exceptions<T, BLOCK>(w, part, quad, slice, lanes, product.sum);
        float sum[T]; // of row `slice` of the four
#pragma unroll
        for (int t = 0; t < T; t++) {
            sum[t] = 0;
#pragma unroll
            for (int r = 0; r < QUAD; r++) {
                float all = product.sum[t][r];
                for (int32_t bit = lanes / 2; bit; bit /= 2) all += __shfl_xor_sync(ALL_LANES, all, bit);
                if (slice == r) sum[t] = all;
            }
        }
        int32_t stored = quad * QUAD + slice;
        if (slice >= QUAD || stored >= w->rows || first + (int32_t)(threadIdx.x % WARP) / lanes >= quads) continue;
#pragma unroll
        for (int t = 0; t < T; t++) {
            if (!part.wanted(t)) break;
            float v = side_unit(part.side, part.slot(t)) * sum[t];
            if (BLOCK) {
                v *= w->block_unit;
            } else {
                affine a = matrix_affine(w, stored, 0);
                float sum_x = side_sum(part.side, part.slot(t));
                v = a.s * fmaf((float)(w->packed_center + w->packed_zero), sum_x, v) + a.m * sum_x;
            }
            part.write(w, stored, t, v);
        }
    }
}

template <int T> __device__ __forceinline__ void gemv_packed_widths(const gemv_part<T>& part) {
    switch (part.w()->packed_bits) {
    case 3: gemv_packed<T, 3, 0, false>(part); break;
    case 4: gemv_packed<T, 4, 0, false>(part); break;
    case 5: gemv_packed<T, 5, 0, false>(part); break;
    case 6: gemv_packed<T, 6, 0, false>(part); break;
    default: gemv_packed<T, 8, 0, false>(part); break;
    }
}

// All kernels of this file, besides what gemv_task.cuh says: gemv_packedN for N bits; ⌈rows · row_lanes / 1024⌉ or fewer blocks
// per task. x is not read. More vectors than a kernel has take more
// blocks, which cost little more: taking codes apart is cheap, and registers are few.

// SCALE_TENSOR, SCALE_ROW.
GEMV_KERNELS_2(3, gemv_packed3, gemv_packed<T, 3, 0, false>)
GEMV_KERNELS_2(3, gemv_packed4, gemv_packed<T, 4, 0, false>)
GEMV_KERNELS_2(3, gemv_packed5, gemv_packed<T, 5, 0, false>)
GEMV_KERNELS_2(3, gemv_packed6, gemv_packed<T, 6, 0, false>)
GEMV_KERNELS_2(3, gemv_packed8, gemv_packed<T, 8, 0, false>)
// The same for tasks of different widths.
GEMV_KERNELS_2(3, gemv_packed_mixed, gemv_packed_widths<T>)

// SCALE_BLOCK, block ≥ 32; _min: with minima. With 8 bits for all that has no kernel of its own.
GEMV_KERNELS_2(3, gemv_packed4_block32, gemv_packed<T, 4, 32, false>)
GEMV_KERNELS_2(2, gemv_packed4_block32_min, gemv_packed<T, 4, 32, true>)
GEMV_KERNELS_2(2, gemv_packed5_block32, gemv_packed<T, 5, 32, false>)
GEMV_KERNELS_2(2, gemv_packed5_block32_min, gemv_packed<T, 5, 32, true>)
GEMV_KERNELS_2(2, gemv_packed8_block32, gemv_packed<T, 8, 32, false>)
GEMV_KERNEL(2, gemv_packed8_block32_min, 1, gemv_packed<T, 8, 32, true>)

// The same with block = 16.
GEMV_KERNELS_2(3, gemv_packed3_block16, gemv_packed<T, 3, 16, false>)
GEMV_KERNELS_2(2, gemv_packed3_block16_min, gemv_packed<T, 3, 16, true>)
GEMV_KERNELS_2(3, gemv_packed6_block16, gemv_packed<T, 6, 16, false>)
GEMV_KERNEL(2, gemv_packed8_block16, 1, gemv_packed<T, 8, 16, false>)
GEMV_KERNEL(2, gemv_packed8_block16_min, 1, gemv_packed<T, 8, 16, true>)
