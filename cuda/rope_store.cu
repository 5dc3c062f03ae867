// Rotates queries and keys by their positions and appends keys and values to a layer's cache.
#include "kv_cache.cuh"

// A block per head: queries in place, then keys, then values into the cache.
template <class Cache> __device__ __forceinline__ void rope_store(const attention_task* a, const int32_t* pos) {
    int32_t dim = a->head_dim, d = threadIdx.x, head = blockIdx.x, n_kv = a->n_kv_heads, at = *pos + (int32_t)blockIdx.y;
    int64_t token = blockIdx.y, elements = (int64_t)a->n_ctx * n_kv * dim;
    bool inside = d < dim;
    if (head < a->n_heads) {
        float* q = a->q + (token * a->n_heads + head) * dim;
        float r = inside ? rotated(a, q, d, at) : 0;
        __syncthreads();
        if (inside) q[d] = r;
        return;
    }
    head -= a->n_heads;
    bool key = head < n_kv, write = at >= 0 && at < a->n_ctx;
    if (!key) head -= n_kv;
    const float* x = (key ? a->k : a->v) + (token * n_kv + head) * dim;
    Cache cache(key ? a->k_cache : a->v_cache, elements);
    cache.keep(((int64_t)at * n_kv + head) * dim + d, !inside ? 0 : key ? rotated(a, x, d, at) : x[d], inside, write);
}

// grid (n_heads + 2·n_kv_heads, tokens), block 256
// a     q is rotated in place; k and v go to the caches, those at positions ≥ n_ctx nowhere
// pos   [1] position of the first token, in device memory
extern "C" __global__ void __launch_bounds__(256) rope_store_f16(const attention_task* a, const int32_t* pos) { rope_store<cache_f16>(a, pos); }
// The same for caches of 8 bits.
extern "C" __global__ void __launch_bounds__(256) rope_store_q8(const attention_task* a, const int32_t* pos) { rope_store<cache_q8>(a, pos); }
