// Y = X·Wᵀ for many tokens (prefill), from decoded planes and prepared inputs.
#include "gemm_tile.cuh"

// All kernels of this file: grid (⌈n_rows / 128⌉, ⌈n_tokens / 64⌉), block 128 threads, no dynamic shared memory.
// w         matrix, stride a multiple of 64. Codes: any scale, blocks of at least 16 columns; floats: with a float_unit. The
//           suffix is the type of data
// data      where stored row first_row begins (0: in w->data), [n_rows][w->stride], 16-byte aligned
// first_row, n_rows   stored rows to multiply
// x         not read
// xp        [n_tokens] inputs through x_prepare, xp_stride bytes apart
// bias      [rows], in natural row order; 0 = none
// y         [n_tokens][rows], columns in natural row order; only the rows multiplied are written

// Packed products in half precision.
extern "C" __global__ void __launch_bounds__(128, 2) gemm_half_u8(const matrix* w, const uint8_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_tiles<half_multiplier, u8_tiles>(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(128, 2) gemm_half_i32(const matrix* w, const int32_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_tiles<half_multiplier, i32_tiles>(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(128, 2) gemm_half_f16(const matrix* w, const uint16_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_tiles<half_multiplier, float_tiles<TYPE_F16> >(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(128, 2) gemm_half_bf16(const matrix* w, const uint16_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_tiles<half_multiplier, float_tiles<TYPE_BF16> >(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}

// On tensor cores (compute capability 7.5 and later; elsewhere the same as gemm_half_*).
extern "C" __global__ void __launch_bounds__(128, 2) gemm_mma_u8(const matrix* w, const uint8_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_tiles<mma_multiplier, u8_tiles>(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(128, 2) gemm_mma_i32(const matrix* w, const int32_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_tiles<mma_multiplier, i32_tiles>(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(128, 2) gemm_mma_f16(const matrix* w, const uint16_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_tiles<mma_multiplier, float_tiles<TYPE_F16> >(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(128, 2) gemm_mma_bf16(const matrix* w, const uint16_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_tiles<mma_multiplier, float_tiles<TYPE_BF16> >(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
