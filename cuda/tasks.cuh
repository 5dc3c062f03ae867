// What a launch has to do, in descriptions that lie in device memory: a kernel's arguments stay the same from token to token,
// and one launch can take several matrices. The host fills them once at load; little endian, naturally aligned, without holes.
#pragma once
#include "matrix.cuh"

// A product's share of a launch: `blocks` blocks of the grid. A launch has as many tasks, one behind the other, as fill its grid.
struct gemv_task {
    const matrix* w;
    const float* bias;  // [rows], natural row order; 0 = none
    float* y;           // [tokens][rows], natural row order
    int32_t blocks;     // of grid.x
    int32_t accumulate; // 1: the result is added to y
};

// How the input of products comes about (x_prepare), for one or more tokens:
//   v = x, or x / √(mean(x²) + eps) · norm, or silu(x)·up; times col_scale
struct prepare_task {
    const float* x;         // [tokens][cols]
    const float* up;        // [tokens][cols]; 0 = no SwiGLU
    const float* norm;      // [cols]; 0 = no RMSNorm
    const float* col_scale; // [cols]; 0 = none
    float* y;               // [tokens][cols] v in float32, may be x. 0 = not wanted, for neither up nor norm nor col_scale
    uint8_t* xp;            // [tokens] prepared vectors, 16-byte aligned; 0 = not wanted
    uint32_t* done;         // blocks that are done with the launch behind which this runs; 0 between launches
    int64_t xp_stride;      // bytes from one token's prepared vector to the next
    int32_t cols;
    int32_t steps, steps_per_tile, tiles; // of the matrices
    float eps;
    int32_t reserved;
};

// A layer's attention.
struct attention_task {
    float* q;              // [tokens][n_heads][head_dim]
    const float* k;        // [tokens][n_kv_heads][head_dim]
    const float* v;        // likewise
    uint8_t* k_cache;      // [n_ctx][n_kv_heads][head_dim], 16-byte aligned (layout: kv_cache.cuh)
    uint8_t* v_cache;      // likewise
    const float* inv_freq; // [rope_dim/2] radians per position: base^(−2i/rope_dim), scaling and divisors included; 0 = no rotation
    float* partial;        // [tokens][n_heads][splits][head_dim + 2], if there is more than one split
    uint32_t* done;        // [tokens][tiles] splits that are done; 0 between launches
    float* y;              // [tokens][n_heads][head_dim]
    int32_t n_heads, n_kv_heads;
    int32_t head_dim; // a multiple of 8 (of 32 with an 8-bit cache), ≤ 256
    int32_t rope_dim; // even, ≤ head_dim
    int32_t neox;     // 1: dimension i pairs with i + rope_dim/2; 0: 2i with 2i + 1
    int32_t n_ctx;
    float scale; // factor on q·k, usually 1/√head_dim
    int32_t reserved;
};
