// What a launch has to do, in descriptions that lie in device memory: a kernel's arguments stay the same from token to token,
// and one launch can take several matrices. The host fills them once at load; little endian, naturally aligned, without holes.
#pragma once
#include "matrix.cuh"

// A product's share of a launch: `blocks` blocks of the grid. A launch has as many tasks, one after the other, as fill its grid.
struct gemv_task {
    const matrix* w;
    const float* bias;  // [rows], natural row order; 0 = none
    float* y;           // [tokens][rows], natural row order
    int32_t blocks;     // of grid.x
    int32_t accumulate; // 1: the result is added to y
};

// How the input of products comes about (x_prepare), for one or more tokens:
//   v = x, or x / √(mean(x²) + eps) · norm, or act(x)·up; times col_scale
struct prepare_task {
    const float* x;         // [tokens][cols]
    const float* up;        // [tokens][cols]; 0 = no gated linear unit
    const float* norm;      // [cols]; 0 = no RMSNorm
    const float* col_scale; // [cols]; 0 = none
    float* y;               // [tokens][cols] v in float32, may be x. 0 = not wanted, for neither up nor norm nor col_scale
    // Prepared vectors (prepared.cuh), 16-byte aligned; both 0 = not wanted.
    uint8_t* xp;            // [tokens], xp_stride bytes apart
    uint8_t* side;          // of up to SLOTS tokens, side by side
    uint32_t* done;         // blocks that are done with the launch at whose end this runs; 0 between launches
    int64_t xp_stride;      // bytes from one token's prepared vector to the next
    int32_t cols;
    int32_t steps, steps_per_tile, tiles; // of the matrices
    float eps;
    float act_linear, act_cubic; // of the gate's activation (glu.cuh)
    int32_t reserved;
};

// A layer's attention. Positions of a sequence are in pages of the caches: position p of a token's sequence is row
// pages[table[token] + p / PAGE]·PAGE + p % PAGE.
enum { PAGE = 64 };
struct attention_task {
    float* q;             // [tokens][n_heads][head_dim]
    const float* k;       // [tokens][n_kv_heads][head_dim]
    const float* v;       // as k
    uint8_t* k_cache;     // [rows][n_kv_heads][head_dim], 16-byte aligned (layout: kv_cache.cuh)
    uint8_t* v_cache;     // as k_cache
    const int32_t* pos;   // [tokens] positions
    const int32_t* table; // [tokens] where the page tables of the tokens' sequences begin
    const int32_t* pages; // page tables
    // [rope_dim/2] radians per position: base^(−2i/rope_dim), scaling and divisors included; 0 = no rotation
    const float* inv_freq;
    float* partial;       // [tokens][n_heads][splits][head_dim + 2], if there is more than one split
    uint32_t* done;       // [tokens][query groups] splits that are done; 0 between launches
    float* y;             // [tokens][n_heads][head_dim]
    int64_t rows;         // of the caches: a multiple of PAGE
    int32_t n_heads, n_kv_heads;
    int32_t head_dim; // a multiple of 8 (of 32 with an 8-bit cache), ≤ 256
    int32_t rope_dim; // even, ≤ head_dim
    int32_t neox;     // 1: dimension i pairs with i + rope_dim/2; 0: 2i with 2i + 1
    float scale;      // factor on q·k, usually 1/√head_dim
    float rope_gain;  // factor on rotated dimensions
    float soft_cap;   // scores become c·tanh(score/c); 0 = they stay
    int32_t window;   // positions that a token sees, itself included; INT32_MAX = all
    float temperature; // queries at position p are scaled by 1 + temperature·ln(1 + ⌊p/temperature_ctx⌋); 0 = they stay
    int32_t temperature_ctx; // in positions
    int32_t reserved;
};
