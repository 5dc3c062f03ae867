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
    static __device__ __forceinline__ float of_row(uint2 v, int r) { return half_to_float((uint16_t)((r < 2 ? v.x : v.y) >> (r % 2 ? 16 : 0))); }
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

// Four rows times some pieces of the input: Σ (code − center)·x for BLOCK = 0; with scales per block of ≥ 32 or of 16 columns (BLOCK = 32, 16)
// Σ s·q·x + m·x in units of w->block_unit. Half-precision sums run over 16 pairs, over
// 8 if codes have 8 bits.
template <int BITS, int BLOCK, bool MIN> struct quad_product {
    typedef typename pitch_of<BLOCK>::type pitch_t;
    packed_terms terms;
    const uint8_t* xp;
    uint32_t sums; // where the sums of 16 columns are, from xp on
    float zero, min_ratio;
    int32_t shift;
    float sum[QUAD];

    __device__ __forceinline__ quad_product(const matrix* w, const uint8_t* xp_)
        : terms(w->packed_center), xp(xp_), sums((uint32_t)((const uint8_t*)prepared_sums(xp_, w->steps) - xp_)), zero((float)(w->packed_center + w->packed_zero)),
          min_ratio(w->min_unit / w->block_unit), shift(w->block_shift - 5) {}

    // Wide codes leave no room for another rounding.
    static __device__ __forceinline__ float run_total(uint32_t acc) { return BITS == 8 ? half2_sum(acc) : half2_total(acc); }

    __device__ __forceinline__ void add_block(const quad_scales<MIN>& scales, int r, float part, float sum_x) {
        sum[r] = fmaf(scales.scale(r), fmaf(zero, sum_x, part), sum[r]);
        if (MIN) sum[r] = fmaf(scales.min(r), sum_x * min_ratio, sum[r]);
    }

    // words: of piece p of the four rows, `pitch` bytes apart. scales: of the four rows, to_minima bytes before their minima.
    __device__ __forceinline__ void piece(const char* words, pitch_t pitch, const char* scales, int64_t to_minima, uint32_t p) {
        uint4 v[BITS], xq[4];
#pragma unroll
        for (int k = 0; k < BITS; k++) v[k] = __ldg((const uint4*)(words + k * pitch));
        const uint4* x_gl = prepared_piece(xp, p);
#pragma unroll
        for (int k = 0; k < 4; k++) xq[k] = __ldg(x_gl + 32 * k);
        uint32_t x[PIECE_PAIRS] = {xq[0].x, xq[0].y, xq[0].z, xq[0].w, xq[1].x, xq[1].y, xq[1].z, xq[1].w, xq[2].x, xq[2].y, xq[2].z, xq[2].w, xq[3].x, xq[3].y, xq[3].z, xq[3].w};
        quad_scales<MIN> first, second;
        float2 sum_x;
        if (BLOCK) {
            sum_x = __ldg((const float2*)(xp + (sums + (uint32_t)sizeof(float2) * p)));
            first.load(scales, to_minima, BLOCK == 16 ? 2 * p : p >> shift);
            if (BLOCK == 16) second.load(scales, to_minima, 2 * p + 1);
        }
#pragma unroll
        for (int r = 0; r < QUAD; r++) {
            uint32_t mine[BITS], h[PIECE_PAIRS], acc = 0;
            float lower = 0; // of the first 16 columns
#pragma unroll
            for (int k = 0; k < BITS; k++) mine[k] = word_of_row(v[k], r);
            packed_numbers<BITS>::get(mine, terms, h);
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
                add_block(first, r, lower, sum_x.x);
                add_block(second, r, part, sum_x.y);
                continue;
            }
            if (BITS == 8) part += lower;
            if (BLOCK == 32)
                add_block(first, r, part, sum_x.x + sum_x.y);
            else
                sum[r] += part;
        }
    }

    // Every lanes-th piece from `slice` on.
    __device__ __forceinline__ void run(const matrix* w, int32_t quad, uint32_t slice, uint32_t lanes) {
        uint32_t pieces = packed_pieces(w->cols);
        pitch_t pitch = (pitch_t)sizeof(uint4) * pieces;
        const char* words = (const char*)w->data + (int64_t)(quad * BITS) * pitch + (int64_t)sizeof(uint4) * slice;
        const char* scales = (const char*)w->block_scale + (int64_t)quad * w->block_stride * 8;
        int64_t to_minima = MIN ? (const char*)w->block_min - (const char*)w->block_scale : 0;
#pragma unroll
        for (int r = 0; r < QUAD; r++) sum[r] = 0;
#pragma unroll 1
        for (uint32_t p = slice; p < pieces; p += lanes, words += sizeof(uint4) * lanes) piece(words, pitch, scales, to_minima, p);
    }
};

// What a quad's remainders add.
template <int BLOCK> __device__ __forceinline__ void add_remainders(const matrix* w, const uint8_t* xp, int32_t quad, int32_t slice, int32_t lanes, float* sum) {
    uint32_t end = w->remainder_start[quad + 1];
    float unit = (float)(1 << w->low_bits);
    for (uint32_t k = w->remainder_start[quad] + slice; k < end; k += lanes) {
        uint32_t o = __ldg(w->remainders + k);
        int32_t col = outlier_col(o), row = outlier_row(o) % QUAD;
        float v = (float)outlier_delta(o) * unit * prepared_value(xp, col);
        if (BLOCK) v *= half_to_float(w->block_scale[((int64_t)quad * w->block_stride + (col >> w->block_shift)) * QUAD + row]);
#pragma unroll
        for (int r = 0; r < QUAD; r++)
            if (r == row) sum[r] += v;
    }
}

template <int BITS, int BLOCK, bool MIN> __device__ __forceinline__ void gemv_packed(const gemv_part& part) {
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    const uint8_t* xp = part.xp();
    int32_t lanes = w->row_lanes, slice = threadIdx.x % lanes, quads = (w->rows + QUAD - 1) / QUAD, per_warp = WARP / lanes;
    quad_product<BITS, BLOCK, MIN> product(w, xp);
    for (int32_t first = (block * 8 + threadIdx.x / WARP) * per_warp; first < quads; first += task->blocks * 8 * per_warp) {
        int32_t quad = min(first + (int32_t)(threadIdx.x % WARP) / lanes, quads - 1); // all lanes stay for the shuffles
        product.run(w, quad, slice, lanes);
        if (w->remainder_start) add_remainders<BLOCK>(w, xp, quad, slice, lanes, product.sum);
        float sum = 0; // of row `slice` of the four
#pragma unroll
        for (int r = 0; r < QUAD; r++) {
            float all = product.sum[r];
            for (int32_t bit = lanes / 2; bit; bit /= 2) all += __shfl_xor_sync(ALL_LANES, all, bit);
            if (slice == r) sum = all;
        }
        int32_t stored = quad * QUAD + slice;
        if (slice >= QUAD || stored >= w->rows || first + (int32_t)(threadIdx.x % WARP) / lanes >= quads) continue;
        float v = prepared_unit(xp) * sum;
        if (BLOCK) {
            v *= w->block_unit;
        } else {
            affine a = matrix_affine(w, stored, 0);
            float sum_x = prepared_sum(xp);
            v = a.s * fmaf((float)(w->packed_center + w->packed_zero), sum_x, v) + a.m * sum_x;
        }
        part.write(w, stored, v);
    }
}

// All kernels of this file, besides what gemv_task.cuh says: gemv_packedN for N bits; ⌈rows · row_lanes / 1024⌉ or fewer blocks per task. x is not read.

// SCALE_TENSOR, SCALE_ROW.
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed3(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<3, 0, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed4(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<4, 0, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed5(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<5, 0, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed6(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<6, 0, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed8(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<8, 0, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}

// The same for tasks of different widths.
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed_mixed(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_part part(tasks, x, xp, xp_stride, first_token);
    switch (part.w()->packed_bits) {
    case 3: gemv_packed<3, 0, false>(part); break;
    case 4: gemv_packed<4, 0, false>(part); break;
    case 5: gemv_packed<5, 0, false>(part); break;
    case 6: gemv_packed<6, 0, false>(part); break;
    default: gemv_packed<8, 0, false>(part); break;
    }
    prepare_after(after, first_token);
}

// SCALE_BLOCK, block ≥ 32; _min: with minima. With 8 bits for all that has no kernel of its own.
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed4_block32(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<4, 32, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 2) gemv_packed4_block32_min(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<4, 32, true>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 2) gemv_packed5_block32(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<5, 32, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 2) gemv_packed5_block32_min(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<5, 32, true>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 2) gemv_packed8_block32(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<8, 32, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 2) gemv_packed8_block32_min(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<8, 32, true>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}

// The same with block = 16.
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed3_block16(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<3, 16, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 2) gemv_packed3_block16_min(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<3, 16, true>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 3) gemv_packed6_block16(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<6, 16, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 2) gemv_packed8_block16(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<8, 16, false>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256, 2) gemv_packed8_block16_min(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_packed<8, 16, true>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
