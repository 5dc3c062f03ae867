// The description of a weight matrix that product kernels read from device memory.
// The host fills it once at load; every field is little endian and naturally aligned, without holes.
#pragma once
#include "common.cuh"

// Code table of the file (docs/format.md, 4), ready for look-up.
struct code_table {
    const uint32_t* entries; // [1 << max_len], index = next max_len bits: a0 | a1 << 8 | length << 16
    int64_t max_len;         // 1 … 12
};

// Values of matrix::type: how `data` stores a weight.
enum { TYPE_U8 = 0, TYPE_I32 = 1, TYPE_F32 = 2, TYPE_F16 = 3, TYPE_BF16 = 4, TYPE_PACKED = 5 };
// Values of matrix::float_kind.
enum { NOT_FLOAT = 0, FLOAT_BF16 = 1, FLOAT_F16 = 2 };
// Values of matrix::scale_kind.
enum { SCALE_TENSOR = 0, SCALE_ROW = 1, SCALE_BLOCK = 2, SCALE_NONE = 3 };

// w = matrix of rows (output features) × cols (input features). Rows are in stored order; pointers are 0 where absent.
struct matrix {
    // Coded form: as in format.Coded.
    const uint32_t* row_order;    // [rows] stored position → row; 0 = natural order
    const uint32_t* row_position; // [rows] row → stored position (inverse of row_order); 0 = natural order
    const uint8_t* chunk_table;   // [groups·tiles] index into tables; this and what follows: chunk = group·tiles + tile
    const uint32_t* chunk_offset; // [groups·tiles + 1]
    const uint16_t* main_words;   // [groups·tiles]
    const uint8_t* lane_tail;     // [groups·tiles][32]
    const uint32_t* stream;       // with the guard words
    const uint32_t* low;          // [chunk][word][32], if low_bits > 0
    const uint32_t* outlier_start; // [groups + 1]
    const uint32_t* outliers;
    const code_table* tables; // all tables of the file
    const int32_t* values;    // [levels] codes of levels, instead of zero + level
    // Resident or raw form.
    const void* data; // [rows][stride] of `type`, or packed codes (packed.cuh); rows in stored order
    // What packed codes leave out: entries as in `outliers` (row: stored row mod 128; any order), to be added to the levels.
    const uint32_t* exception_start; // [⌈rows/4⌉ + 1], first entry of every four rows; 0 = none
    const uint32_t* exceptions;
    // Scales.
    const uint16_t* row_scale;   // float16 [rows], SCALE_ROW
    const uint16_t* block_scale; // float16 [⌈rows/4⌉][block_stride][4 rows]; zeros beyond rows and cols
    const uint16_t* block_min;   // likewise the blocks' minima; 0 = none
    const float* col_scale;      // [cols]; only embed_rows_* reads it, products take x already multiplied (x_prepare)

    int32_t rows, cols;
    int32_t stride;         // elements per row of data
    int32_t type;           // TYPE_*
    int32_t steps;          // ⌈cols / 64⌉
    int32_t tiles;          // ⌈steps / 32⌉
    int32_t steps_per_tile; // ⌈steps / tiles⌉
    int32_t rows_per_group; // 1 … 128
    int32_t groups;
    int32_t levels;     // A
    int32_t max_len;    // longest code of the tables that this matrix uses
    int32_t low_bits;   // s
    int32_t zero;       // q = zero + (a << s | lo); for floats added to the exponent
    int32_t float_kind; // FLOAT_*
    int32_t scale_kind; // SCALE_*
    int32_t blocks;     // cols / block, SCALE_BLOCK
    int32_t block_stride; // ⌈64·steps / block⌉
    int32_t block_shift; // log2(block), ≥ 1
    // gemv_fused_* (all but _f32): q = ((a + table_bias) << s) + lo + code_offset, with a + table_bias in −31 … 32, best around
    // 0.
    int32_t table_bias;
    int32_t code_offset; // must be 0 for gemv_fused_block_*
    // Packed form.
    int32_t packed_bits;   // 3, 4, 5, 6 or 8
    int32_t packed_zero;   // q = code + packed_zero
    int32_t packed_center; // about the commonest code: products multiply code − center, exact in half precision
    int32_t packed_first;  // level that the code 0 stands for; levels outside the codes' range are clipped, with exceptions
    int32_t row_lanes;     // lanes that share a row: 4, 8, 16 or 32

    float scale;      // SCALE_TENSOR, SCALE_ROW
    float min;        // SCALE_TENSOR
    float data_zero;  // TYPE_U8, TYPE_I32: q = data + data_zero
    float block_unit; // block scale = block_unit · block_scale
    float min_unit;   // block minimum = min_unit · block_min
    // TYPE_U8, TYPE_I32: 128 + data_offset should be about the commonest code, where products are most accurate
    float data_offset;
    float float_unit;  // coded TYPE_F16, TYPE_BF16: a power of two; all weights are below 2·float_unit
    int32_t reserved;
};

__device__ __forceinline__ int32_t matrix_row(const matrix* w,
    int32_t stored) { return w->row_order ? (int32_t)w->row_order[stored] : stored; }

// An entry of `outliers` or `exceptions` (format.PackOutlier).
__device__ __forceinline__ uint32_t outlier_row(uint32_t o) { return o & 0x7f; }
__device__ __forceinline__ int32_t outlier_col(uint32_t o) { return (int32_t)(o >> 7 & 0x1ffff); }
__device__ __forceinline__ int32_t outlier_delta(uint32_t o) { return (int32_t)o >> 24; }

// w = s·q + m for the codes of a block of columns (of a whole row where scales are not per block).
struct affine {
    float s, m;
};
__device__ __forceinline__ affine matrix_affine(const matrix* w, int32_t stored, int32_t col) {
    affine a = {1, 0};
    if (w->scale_kind == SCALE_TENSOR) {
        a.s = w->scale;
        a.m = w->min;
    } else if (w->scale_kind == SCALE_ROW) {
        a.s = w->scale * half_to_float(w->row_scale[stored]);
    } else if (w->scale_kind == SCALE_BLOCK) {
        int64_t b = ((int64_t)(stored / 4) * w->block_stride + (col >> w->block_shift)) * 4 + stored % 4;
        a.s = w->block_unit * half_to_float(w->block_scale[b]);
        if (w->block_min) a.m = w->min_unit * half_to_float(w->block_min[b]);
    }
    return a;
}

// The half of a block's scale, and above it that of its minimum (0 if there are none).
__device__ __forceinline__ uint32_t block_scale_bits(const matrix* w, int32_t stored, int32_t col) {
    int64_t b = ((int64_t)(stored / 4) * w->block_stride + (col >> w->block_shift)) * 4 + stored % 4;
    return w->block_scale[b] | (w->block_min ? (uint32_t)w->block_min[b] << 16 : 0);
}

// Element i of stored data, as a float.
template <int TYPE> __device__ __forceinline__ float load_code(const void* data, int64_t i) {
    if (TYPE == TYPE_U8) return (float)((const uint8_t*)data)[i];
    if (TYPE == TYPE_I32) return (float)((const int32_t*)data)[i];
    if (TYPE == TYPE_F16) return half_to_float(((const uint16_t*)data)[i]);
    if (TYPE == TYPE_BF16) return bf16_to_float(((const uint16_t*)data)[i]);
    return ((const float*)data)[i];
}
