// Rotates queries and keys by their positions and appends keys and values to a layer's cache.
#include "kv_cache.cuh"
#include "rope.cuh"

// A block per head: queries in place, then keys, then values into the cache.
template <class Cache> __device__ __forceinline__ void rope_store(const attention_task* a) {
    int32_t dim = a->head_dim, d = threadIdx.x, head = blockIdx.x, n_kv = a->n_kv_heads, at = a->pos[blockIdx.y];
    int64_t token = blockIdx.y;
    bool inside = d < dim;
    if (head < a->n_heads) {
        float* q = a->q + (token * a->n_heads + head) * dim;
        float r = inside ? rotated(a, q, d, at) : 0;
        __syncthreads();
        if (inside) q[d] = r;
        return;
    }
    head -= a->n_heads;
    bool key = head < n_kv;
    if (!key) head -= n_kv;
    const float* x = (key ? a->k : a->v) + (token * n_kv + head) * dim;
    int64_t row = cache_row(a->pages + a->table[token], at);
    Cache cache(key ? a->k_cache : a->v_cache, cache_elements(a));
    cache.keep((row * n_kv + head) * dim + d, !inside ? 0 : key ? rotated(a, x, d, at) : x[d], inside, row < a->rows);
}

// grid (n_heads + 2·n_kv_heads, tokens), block 256
// a     q is rotated in place; k and v go to the caches, those of rows beyond the caches nowhere
extern "C" __global__ void __launch_bounds__(256) rope_store_f16(const attention_task* a) { rope_store<cache_f16>(a); }
// The same for caches of 8 bits.
extern "C" __global__ void __launch_bounds__(256) rope_store_q8(const attention_task* a) { rope_store<cache_q8>(a); }
