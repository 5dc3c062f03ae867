// Adds the outliers of rows that decode_chunks_* has written.
#include "huffman.cuh"

__device__ __forceinline__ void add_delta(const matrix* w, uint8_t* code, int32_t delta) { *code = (uint8_t)min(max(*code + delta,
    0), 255); }
__device__ __forceinline__ void add_delta(const matrix* w, int32_t* code, int32_t delta) { *code += delta; }
// Floats: a level is a step of the exponent.
__device__ __forceinline__ void add_delta(const matrix* w, uint16_t* code, int32_t delta) {
    int32_t shift = w->low_bits - 1;
    uint32_t exponent_mask = w->float_kind == FLOAT_BF16 ? 0x7f80u : 0x7c00u;
    *code = (uint16_t)((*code & ~exponent_mask) | ((*code + ((uint32_t)delta << shift)) & exponent_mask));
}

// A thread per group, since entries of the same weight add up.
template <class T> __device__ __forceinline__ void decode_outliers(const matrix* w, int32_t first_group, int32_t n_groups,
    T* plane) {
    int32_t i = blockIdx.x * 128 + threadIdx.x;
    if (i >= n_groups) return;
    int32_t group = first_group + i, shift = w->float_kind ? 0 : w->low_bits, stride = w->stride;
    T* rows = plane + (int64_t)i * w->rows_per_group * stride;
    for (uint32_t k = w->outlier_start[group]; k < w->outlier_start[group + 1]; k++) {
        uint32_t o = w->outliers[k];
        add_delta(w, rows + (int64_t)outlier_row(o) * stride + outlier_col(o), (int32_t)((uint32_t)outlier_delta(o) << shift));
    }
}

// All kernels of this file: grid ⌈n_groups / 128⌉, block 128 threads.
// Arguments as for decode_chunks_*. Codes of 8 bits saturate.

extern "C" __global__ void __launch_bounds__(128) decode_outliers_u8(const matrix* w, int32_t first_group, int32_t n_groups,
    uint8_t* plane) { decode_outliers(w, first_group, n_groups, plane); }
extern "C" __global__ void __launch_bounds__(128) decode_outliers_i32(const matrix* w, int32_t first_group, int32_t n_groups,
    int32_t* plane) { decode_outliers(w, first_group, n_groups, plane); }
extern "C" __global__ void __launch_bounds__(128) decode_outliers_float(const matrix* w, int32_t first_group, int32_t n_groups,
    uint16_t* plane) { decode_outliers(w, first_group, n_groups, plane); }
