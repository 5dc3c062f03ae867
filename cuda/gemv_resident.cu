// y = W·x from decoded planes and from raw matrices.
#include "gemv_task.cuh"

enum { PIECE = 16, PIECE_PAIRS = PIECE / 2 }; // codes that a lane loads at once

// Codes are multiplied as (code − center), exact in half precision: a byte becomes the mantissa of 1024 + byte, from which 1024 + center is subtracted.
__device__ __forceinline__ float code_center(const matrix* w) { return 128 + w->data_offset; }
__device__ __forceinline__ uint32_t center_term(float center) { return half2_same(float_to_half(-1024 - center)); }

__device__ __forceinline__ void bytes_to_half2(uint32_t bytes, uint32_t term, uint32_t* h) {
    h[0] = half2_add(__byte_perm(bytes, 0x64646464u, 0x4140), term);
    h[1] = half2_add(__byte_perm(bytes, 0x64646464u, 0x4342), term);
}

// acc += Σ (code − center)·x over 16 columns.
__device__ __forceinline__ uint32_t piece_product(uint4 codes, uint4 x_lo, uint4 x_hi, uint32_t term, uint32_t acc) {
    uint32_t c[4] = {codes.x, codes.y, codes.z, codes.w}, x[8] = {x_lo.x, x_lo.y, x_lo.z, x_lo.w, x_hi.x, x_hi.y, x_hi.z, x_hi.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t h[2];
        bytes_to_half2(c[i], term, h);
        acc = half2_fma(h[0], x[2 * i], acc);
        acc = half2_fma(h[1], x[2 * i + 1], acc);
    }
    return acc;
}

// All kernels of this file, besides what gemv_task.cuh says: ⌈rows / 8⌉ or fewer blocks per task (a warp per row), no dynamic shared memory.
// data must be 16-byte aligned; stride·(element size) a multiple of 16 for u8.

// TYPE_U8, SCALE_TENSOR or SCALE_ROW. stride a multiple of 64, codes beyond cols arbitrary. Reads xp, not x (x may be 0).
extern "C" __global__ void __launch_bounds__(256) gemv_u8(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_part part(tasks, x, xp, xp_stride, first_token);
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    xp = part.xp();
    int32_t lane = threadIdx.x % WARP, steps = w->steps, pieces = steps * (64 / PIECE);
    const uint4* x_gl = prepared_natural(xp);
    float unit = prepared_unit(xp), sum_x = prepared_sum(xp), center = code_center(w);
    uint32_t term = center_term(center);
    for (int32_t row = block * 8 + threadIdx.x / WARP; row < w->rows; row += task->blocks * 8) {
        const uint4* codes = (const uint4*)((const uint8_t*)w->data + (int64_t)row * w->stride);
        float sum = 0;
#pragma unroll 2
        for (int32_t p = lane; p < pieces; p += WARP) sum += half2_sum(piece_product(codes[p], x_gl[2 * p], x_gl[2 * p + 1], term, 0));
        sum = warp_sum(sum);
        affine a = matrix_affine(w, row, 0);
        if (lane == 0) part.write(w, row, a.s * fmaf(center + w->data_zero, sum_x, unit * sum) + a.m * sum_x);
    }
    prepare_after(after, first_token);
}

// TYPE_U8, SCALE_BLOCK with block ≥ 16. Reads xp.
extern "C" __global__ void __launch_bounds__(256) gemv_u8_block(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_part part(tasks, x, xp, xp_stride, first_token);
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    xp = part.xp();
    int32_t lane = threadIdx.x % WARP, pieces = w->cols / PIECE, shift = w->block_shift - 4; // cols is a multiple of the block
    const uint4* x_gl = prepared_natural(xp);
    const float* sums = prepared_sums(xp, w->steps);
    uint32_t term = center_term(code_center(w));
    float zero = code_center(w) + w->data_zero, block_unit = w->block_unit, min_unit = w->min_unit;
    bool has_min = w->has_min;
    for (int32_t row = block * 8 + threadIdx.x / WARP; row < w->rows; row += task->blocks * 8) {
        const uint4* codes = (const uint4*)((const uint8_t*)w->data + (int64_t)row * w->stride);
        const uint16_t* scales = w->block_scale + (int64_t)row * w->blocks * (has_min ? 2 : 1);
        float sum = 0, sum_min = 0;
#pragma unroll 2
        for (int32_t p = lane; p < pieces; p += WARP) {
            float part = half2_sum(piece_product(codes[p], x_gl[2 * p], x_gl[2 * p + 1], term, 0)), sum_x = sums[p];
            int32_t b = p >> shift;
            uint32_t s = has_min ? ((const uint32_t*)scales)[b] : scales[b];
            sum = fmaf(half_to_float((uint16_t)s), fmaf(zero, sum_x, part), sum);
            if (has_min) sum_min = fmaf(half_to_float((uint16_t)(s >> 16)), sum_x, sum_min);
        }
        sum = warp_sum(fmaf(block_unit, sum, min_unit * sum_min));
        if (lane == 0) part.write(w, row, prepared_unit(xp) * sum);
    }
    prepare_after(after, first_token);
}

// One row in float32, all types: Σ (s·q + m)·x.
template <int TYPE> __device__ __forceinline__ float row_product(const matrix* w, int32_t row, const float* x) {
    const bool code = TYPE == TYPE_U8 || TYPE == TYPE_I16;
    int64_t at = (int64_t)row * w->stride;
    affine a = matrix_affine(w, row, 0);
    float zero = w->data_zero, sum = 0;
    bool block = code && w->scale_kind == SCALE_BLOCK;
    int32_t cols = w->cols;
    const void* data = w->data;
#pragma unroll 4
    for (int32_t c = threadIdx.x % WARP; c < cols; c += WARP) {
        float v = load_code<TYPE>(data, at + c);
        if (block) a = matrix_affine(w, row, c);
        sum = fmaf(code ? fmaf(a.s, v + zero, a.m) : v, x[c], sum);
    }
    return warp_sum(sum);
}

// Eight 16-bit floats times eight inputs.
template <int TYPE> __device__ __forceinline__ float eight_products(uint4 v, float4 a, float4 b, float sum) {
    uint32_t h[4] = {v.x, v.y, v.z, v.w};
    float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum = fmaf(TYPE == TYPE_F16 ? half_to_float((uint16_t)h[i]) : __uint_as_float(h[i] << 16), x[2 * i], sum);
        sum = fmaf(TYPE == TYPE_F16 ? half_to_float((uint16_t)(h[i] >> 16)) : __uint_as_float(h[i] & 0xffff0000u), x[2 * i + 1], sum);
    }
    return sum;
}

template <int TYPE> __device__ __forceinline__ void gemv_16(const gemv_part& part) {
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    const float* x = part.x(w);
    int32_t lane = threadIdx.x % WARP, pieces = w->cols / 8;
    for (int32_t row = block * 8 + threadIdx.x / WARP; row < w->rows; row += task->blocks * 8) {
        const uint16_t* codes = (const uint16_t*)w->data + (int64_t)row * w->stride;
        float sum = 0;
#pragma unroll 2
        for (int32_t p = lane; p < pieces; p += WARP) sum = eight_products<TYPE>(((const uint4*)codes)[p], ((const float4*)x)[2 * p], ((const float4*)x)[2 * p + 1], sum);
        int32_t c = 8 * pieces + lane; // the columns that do not fill a piece
        if (c < w->cols) sum = fmaf(load_code<TYPE>(codes, c), x[c], sum);
        sum = warp_sum(sum);
        if (lane == 0) part.write(w, row, sum);
    }
}

// TYPE_F16 and TYPE_BF16, stride a multiple of 8; float32 arithmetic. x must be 16-byte aligned; xp is not read.
extern "C" __global__ void __launch_bounds__(256) gemv_f16(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_16<TYPE_F16>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}
extern "C" __global__ void __launch_bounds__(256) gemv_bf16(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_16<TYPE_BF16>(gemv_part(tasks, x, xp, xp_stride, first_token));
    prepare_after(after, first_token);
}

// Any type and scale, any stride; float32 arithmetic. Reads x, not xp.
extern "C" __global__ void __launch_bounds__(256) gemv_any(const gemv_task* tasks, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token, const prepare_task* after) {
    gemv_part part(tasks, x, xp, xp_stride, first_token);
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    x = part.x(w);
    for (int32_t row = block * 8 + threadIdx.x / WARP; row < w->rows; row += task->blocks * 8) {
        float sum = 0;
        switch (w->type) {
        case TYPE_U8: sum = row_product<TYPE_U8>(w, row, x); break;
        case TYPE_I16: sum = row_product<TYPE_I16>(w, row, x); break;
        case TYPE_F32: sum = row_product<TYPE_F32>(w, row, x); break;
        case TYPE_F16: sum = row_product<TYPE_F16>(w, row, x); break;
        case TYPE_BF16: sum = row_product<TYPE_BF16>(w, row, x); break;
        }
        if (threadIdx.x % WARP == 0) part.write(w, row, sum);
    }
    prepare_after(after, first_token);
}
