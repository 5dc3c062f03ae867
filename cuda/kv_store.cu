// Appends keys and values to a layer's cache.
#include "common.cuh"

// grid (⌈width/256⌉, tokens), block 256
// k, v              [tokens][width], width = n_kv_heads·head_dim
// pos               [1] position of token 0, in device memory
// k_cache, v_cache  float16 [n_ctx][width]; positions ≥ n_ctx are dropped
extern "C" __global__ void __launch_bounds__(256) kv_store(const float* k, const float* v, const int32_t* pos, int32_t width, int32_t n_ctx, uint16_t* k_cache, uint16_t* v_cache) {
    int32_t i = blockIdx.x * 256 + threadIdx.x, at = *pos + (int32_t)blockIdx.y;
    if (i >= width || at < 0 || at >= n_ctx) return;
    int64_t from = (int64_t)blockIdx.y * width + i, to = (int64_t)at * width + i;
    k_cache[to] = float_to_half(k[from]);
    v_cache[to] = float_to_half(v[from]);
}
