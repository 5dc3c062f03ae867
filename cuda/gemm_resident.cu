// Y = X·Wᵀ for many tokens (prefill), from decoded planes and from raw matrices, float32 accumulation.
#include "matrix.cuh"

// A block computes 64 rows × 64 tokens, a thread 4 × 4 of them, from tiles of 32 columns in shared memory.
enum { TILE = 64, DEPTH = 32, PITCH = TILE + 4 };

// Writes 8 columns of one stored row, scaled, to a column-major tile.
template <int TYPE> __device__ __forceinline__ void load_weights(const matrix* w, const void* data, int64_t offset,
    int32_t stored, int32_t col, float* tile) {
    const bool code = TYPE == TYPE_U8 || TYPE == TYPE_I32;
    affine a = {1, 0};
    if (code && w->scale_kind != SCALE_BLOCK) a = matrix_affine(w, stored, col);
    float zero = code ? w->data_zero : 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float v = 0;
        if (col + i < w->cols) {
            if (code && i % 2 == 0 && w->scale_kind == SCALE_BLOCK) a = matrix_affine(w, stored, col + i);
            v = load_code<TYPE>(data, offset + col + i) + zero;
            if (code) v = fmaf(a.s, v, a.m);
        }
        tile[i * PITCH] = v;
    }
}

template <int TYPE> __device__ __forceinline__ void gemm(const matrix* w, const void* data, int32_t first_row, int32_t n_rows,
    const float* x, int32_t n_tokens, const float* bias, float* y) {
    SHARED_ARRAY(float, w_sh, DEPTH * PITCH);
    SHARED_ARRAY(float, x_sh, DEPTH * PITCH);
    int32_t row_0 = blockIdx.x * TILE, token_0 = blockIdx.y * TILE, cols = w->cols;
    int32_t load_line = threadIdx.x / 4, load_col = threadIdx.x % 4 * 8; // what this thread brings into the tiles
    int32_t my_row = threadIdx.x % 16 * 4, my_token = threadIdx.x / 16 * 4;
    if (!data) data = (const uint8_t*)w->data + (int64_t)first_row * w->stride * (TYPE == TYPE_U8 ? 1 : TYPE == TYPE_F32 ||
        TYPE == TYPE_I32 ? 4 : 2);
    int32_t in_row = min(row_0 + load_line, n_rows - 1);
    bool has_token = token_0 + load_line < n_tokens;
    const float* x_row = x + (int64_t)(token_0 + load_line) * cols;
    float acc[4][4] = {};
    for (int32_t col = 0; col < cols; col += DEPTH) {
        load_weights<TYPE>(w, data, (int64_t)in_row * w->stride, first_row + in_row, col + load_col,
            w_sh + load_col * PITCH + load_line);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int32_t c = col + load_col + i;
            x_sh[(load_col + i) * PITCH + load_line] = has_token && c < cols ? x_row[c] : 0;
        }
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < DEPTH; k++) {
            float4 wv = *(const float4*)(w_sh + k * PITCH + my_row), xv = *(const float4*)(x_sh + k * PITCH + my_token);
            float wr[4] = {wv.x, wv.y, wv.z, wv.w}, xr[4] = {xv.x, xv.y, xv.z, xv.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) acc[i][j] = fmaf(wr[i], xr[j], acc[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (row_0 + my_row + i >= n_rows) break;
        int32_t row = matrix_row(w, first_row + row_0 + my_row + i);
        float b = bias ? bias[row] : 0;
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (token_0 + my_token + j < n_tokens) y[(int64_t)(token_0 + my_token + j) * w->rows + row] = acc[i][j] + b;
    }
}

// All kernels of this file: grid (⌈n_rows / 64⌉, ⌈n_tokens / 64⌉), block 256 threads, no dynamic shared memory.
// w         matrix; any scale. The suffix is the type of data (w->type is not read)
// data      where stored row first_row begins (0: in w->data), [n_rows][w->stride]
// first_row, n_rows   stored rows to multiply
// x         [n_tokens][cols] (already multiplied by the column scales, if there are any)
// xp, xp_stride   not read
// bias      [rows], in natural row order; 0 = none
// y         [n_tokens][rows], columns in natural row order; only the rows multiplied are written
extern "C" __global__ void __launch_bounds__(256) gemm_u8(const matrix* w, const uint8_t* data, int32_t first_row, int32_t n_rows,
    const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm<TYPE_U8>(w, data, first_row, n_rows, x, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(256) gemm_i32(const matrix* w, const int32_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm<TYPE_I32>(w, data, first_row, n_rows, x, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(256) gemm_f32(const matrix* w, const float* data, int32_t first_row, int32_t n_rows,
    const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm<TYPE_F32>(w, data, first_row, n_rows, x, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(256) gemm_f16(const matrix* w, const uint16_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm<TYPE_F16>(w, data, first_row, n_rows, x, n_tokens, bias, y);
}
extern "C" __global__ void __launch_bounds__(256) gemm_bf16(const matrix* w, const uint16_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm<TYPE_BF16>(w, data, first_row, n_rows, x, n_tokens, bias, y);
}
