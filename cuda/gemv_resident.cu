// y = W·x from decoded planes and from raw matrices.
#include "gemv_task.cuh"

// All kernels of this file, besides what gemv_task.cuh says: ⌈rows / 8⌉ or fewer blocks per task (a warp per row), no dynamic
// shared memory. data must be 16-byte aligned.

// One row in float32, all types: Σ (s·q + m)·x.
template <int TYPE> __device__ __forceinline__ float row_product(const matrix* w, int32_t row, const float* x) {
    const bool code = TYPE == TYPE_U8 || TYPE == TYPE_I32;
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
        sum = fmaf(TYPE == TYPE_F16 ? half_to_float((uint16_t)(h[i] >> 16)) : __uint_as_float(h[i] & 0xffff0000u), x[2 * i + 1],
            sum);
    }
    return sum;
}

template <int T, int TYPE> __device__ __forceinline__ void gemv_16(const gemv_part<T>& part) {
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    const float* x = part.x(w, 0);
    int32_t lane = threadIdx.x % WARP, pieces = w->cols / 8;
    for (int32_t row = block * 8 + threadIdx.x / WARP; row < w->rows; row += task->blocks * 8) {
        const uint16_t* codes = (const uint16_t*)w->data + (int64_t)row * w->stride;
        float sum = 0;
#pragma unroll 2
        for (int32_t p = lane; p < pieces; p += WARP) sum = eight_products<TYPE>(((const uint4*)codes)[p],
            ((const float4*)x)[2 * p], ((const float4*)x)[2 * p + 1], sum);
        int32_t c = 8 * pieces + lane; // the columns that do not fill a piece
        if (c < w->cols) sum = fmaf(load_code<TYPE>(codes, c), x[c], sum);
        sum = warp_sum(sum);
        if (lane == 0) part.write(w, row, 0, sum);
    }
}

template <int T> __device__ __forceinline__ void gemv_any_type(const gemv_part<T>& part) {
    int32_t block;
    const gemv_task* task = part.find(&block);
    const matrix* w = task->w;
    const float* x = part.x(w, 0);
    for (int32_t row = block * 8 + threadIdx.x / WARP; row < w->rows; row += task->blocks * 8) {
        float sum = 0;
        switch (w->type) {
        case TYPE_U8: sum = row_product<TYPE_U8>(w, row, x); break;
        case TYPE_I32: sum = row_product<TYPE_I32>(w, row, x); break;
        case TYPE_F32: sum = row_product<TYPE_F32>(w, row, x); break;
        case TYPE_F16: sum = row_product<TYPE_F16>(w, row, x); break;
        case TYPE_BF16: sum = row_product<TYPE_BF16>(w, row, x); break;
        }
        if (threadIdx.x % WARP == 0) part.write(w, row, 0, sum);
    }
}

// TYPE_F16 and TYPE_BF16, stride a multiple of 8; float32 arithmetic. x must be 16-byte aligned; side is not read.
GEMV_KERNEL(1, gemv_f16, 1, gemv_16<T, TYPE_F16>)
GEMV_KERNEL(1, gemv_bf16, 1, gemv_16<T, TYPE_BF16>)

// Any type and scale, any stride; float32 arithmetic. Reads x, not side.
GEMV_KERNEL(1, gemv_any, 1, gemv_any_type<T>)
