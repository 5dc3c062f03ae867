// Causal attention of many tokens that follow each other in a sequence, on tensor cores (compute capability 8.0 and later):
// tiles of 64 queries × 64 positions, online softmax (FlashAttention-2: Dao 2023).
#include "kv_cache.cuh"
#include "prepare.cuh"

// A block of 4 warps works on 64 tokens of one head, a warp on 16 of them. It visits the positions page by page: one tile of keys
// and one of values lie in shared memory as halves; while one is multiplied, the next of the other kind is on its way.
enum { TILE_QUERIES = 64, TILE_THREADS = 128 };

// Index of 8 dimensions (piece) of a row of a tile, in units of 16 bytes; pieces are permuted so that neither reading 4 pieces
// of 2 rows (keys, queries), nor the same piece of 8 rows (values), meets the same bank twice.
template <int PIECES> __device__ __forceinline__ int32_t key_piece(int32_t row, int32_t piece) {
    return row * PIECES + (piece ^ (row & 1) << 2);
}
template <int PIECES> __device__ __forceinline__ int32_t value_piece(int32_t row, int32_t piece) {
    return row * PIECES + (piece ^ (row & 7));
}

#ifdef HAS_ASYNC

// How 8 elements of a cache come to shared memory.
__device__ __forceinline__ void bring_eight(const cache_f16& c, int64_t e, uint4* to) { copy_async_16(to, c.data + e); }
__device__ __forceinline__ void bring_eight(const cache_q8& c, int64_t e, uint4* to) {
    float f[8];
    c.load8(e, f);
    uint32_t h[4];
#pragma unroll
    for (int i = 0; i < 4; i++) h[i] = half2_pack(f[2 * i], f[2 * i + 1]);
    *to = uint4_of(h);
}

// PIECES: of 8 dimensions, of a head, rounded up.
template <int PIECES, class Cache> struct attention_tile {
    enum { ROWS = TILE_THREADS / PIECES, // that the block brings at a time
        PARTS = PIECES / 4, POSITION_TILES = PAGE / 8 };
    const attention_task* a;
    int32_t head, kv, n;   // n: queries
    int32_t first, last;   // positions of the first and the last query
    const int32_t* pages;
    int32_t dim, stride, offset; // of a head; from a row of the cache to the next; of this thread's piece in a row
    int32_t window;
    float cap;
    uint32_t query[PARTS][8]; // this lane's of 2 rows: pieces quad of every part, in the order of mma_16x8x16
    float factor[2];          // by which a product with a row's query becomes a score
    float out[PIECES][4], m[2], sum[2];

    __device__ __forceinline__ int32_t row() const { return threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4; } // and 8 further

    // Rounds the queries to halves of a power of two, and brings each lane its part. Two threads share a row.
    __device__ __forceinline__ void load_queries(const float* q, uint4* tile, float* factors) {
        int32_t r = threadIdx.x / 2, side = threadIdx.x % 2;
        const float* x = q + ((int64_t)min(r, n - 1) * a->n_heads + head) * dim;
        float largest = 0;
        for (int32_t d = side * 8; d < dim; d += 16)
#pragma unroll
            for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(x[d + i]));
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
        vector_unit u(largest);
#pragma unroll
        for (int k = 0; k < PIECES / 2; k++) {
            int32_t piece = 2 * k + side, d = 8 * piece;
            uint32_t h[4] = {0, 0, 0, 0};
            if (d < dim)
#pragma unroll
                for (int i = 0; i < 4; i++) h[i] = half2_pack(x[d + 2 * i] * u.first * u.second, x[d + 2 * i + 1] * u.first *
                    u.second);
            tile[key_piece<PIECES>(r, piece)] = uint4_of(h);
        }
        float f = u.unit * a->scale;
        if (a->temperature) f *= fmaf(a->temperature, logf(1.0f + (float)((first + r) / a->temperature_ctx)), 1.0f);
        if (side == 0) factors[r] = f;
        __syncthreads();
#pragma unroll
        for (int p = 0; p < PARTS; p++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                uint4 v = tile[key_piece<PIECES>(row() + 8 * k, 4 * p + threadIdx.x % 4)];
                query[p][k] = v.x;
                query[p][2 + k] = v.y;
                query[p][4 + k] = v.z;
                query[p][6 + k] = v.w;
            }
        factor[0] = factors[row()];
        factor[1] = factors[row() + 8];
        __syncthreads();
    }

    // Dimensions beyond the head's are zero in all tiles.
    __device__ __forceinline__ void clear_rest(uint4* keys, uint4* values) const {
        uint4 zero = {0, 0, 0, 0};
        int32_t piece = threadIdx.x % PIECES;
        if (8 * piece < dim) return;
        for (int32_t r = threadIdx.x / PIECES; r < PAGE; r += ROWS) {
            keys[key_piece<PIECES>(r, piece)] = zero;
            values[value_piece<PIECES>(r, piece)] = zero;
        }
    }

    // Brings a page of keys or values. Positions that no query sees stand for the last one, so that all values are numbers that
    // have been stored.
    template <bool VALUES> __device__ __forceinline__ void bring(const Cache& cache, int32_t position, uint4* tile) const {
        int32_t piece = threadIdx.x % PIECES, most = min(last - position, (int32_t)PAGE - 1);
        int64_t page = (int64_t)__ldg(pages + position / PAGE) * PAGE;
        if (8 * piece < dim)
#pragma unroll
            for (int i = 0; i < PAGE / ROWS; i++) {
                int32_t r = i * ROWS + threadIdx.x / PIECES;
                int64_t e = (page + min(r, most)) * stride + offset;
                bring_eight(cache, e, tile + (VALUES ? value_piece<PIECES>(r, piece) : key_piece<PIECES>(r, piece)));
            }
        copy_commit();
    }

    // Products of this warp's queries with all keys of a tile: score[j] has positions 8·j + 2·quad and the next, of two rows.
    __device__ __forceinline__ void multiply_keys(const uint4* keys, float (*score)[4]) const {
        int32_t group = threadIdx.x % WARP / 4, quad = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < POSITION_TILES; j++) {
#pragma unroll
            for (int k = 0; k < 4; k++) score[j][k] = 0;
#pragma unroll
            for (int p = 0; p < PARTS; p++) {
                uint4 b = keys[key_piece<PIECES>(8 * j + group, 4 * p + quad)];
                const uint32_t* q = query[p];
                mma_16x8x16(score[j], q[0], q[1], q[2], q[3], b.x, b.y);
                mma_16x8x16(score[j], q[4], q[5], q[6], q[7], b.z, b.w);
            }
        }
    }

    // Turns products into weights, as halves in the order in which mma_16x8x16 takes them, and brings sums and results to the new
    // maximum.
    __device__ __forceinline__ void weigh(float (*score)[4], int32_t position, uint32_t (*weight)[2]) {
        const float none = __uint_as_float(0xff800000u); // −infinity
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float top = m[k];
            int32_t at = first + row() + 8 * k - position - threadIdx.x % 4 * 2; // how far behind the query the tile's first is
#pragma unroll
            for (int j = 0; j < POSITION_TILES; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float& s = score[j][2 * k + i];
                    s *= factor[k];
                    if (cap) s = soft_capped(s, cap);
                    if ((uint32_t)(at - 8 * j - i) >= (uint32_t)window) s = none; // also a later position
                    top = fmaxf(top, s);
                }
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
            float shrink = top == m[k] ? 1.0f : __expf(m[k] - top), total = 0;
            float base = top == none ? 0 : top; // so that nothing seen weighs nothing
            m[k] = top;
#pragma unroll
            for (int j = 0; j < POSITION_TILES; j++) {
                float lo = __expf(score[j][2 * k] - base), hi = __expf(score[j][2 * k + 1] - base);
                total += lo + hi;
                weight[j][k] = half2_pack(lo, hi);
            }
            sum[k] = fmaf(sum[k], shrink, total);
#pragma unroll
            for (int d = 0; d < PIECES; d++) {
                out[d][2 * k] *= shrink;
                out[d][2 * k + 1] *= shrink;
            }
        }
    }

    // Adds the values of a tile by their weights.
    __device__ __forceinline__ void add_values(const uint4* values, const uint32_t (*weight)[2]) {
        int32_t lane = threadIdx.x % WARP;
#pragma unroll
        for (int j = 0; j < POSITION_TILES; j += 2) {
            const uint32_t *lo = weight[j], *hi = weight[j + 1];
#pragma unroll
            for (int d = 0; d < PIECES; d += 2) {
                uint32_t b[4]; // of 16 positions, of 2 pieces
                load_transposed(values + value_piece<PIECES>(8 * j + lane % 16, d + lane / 16), b);
                mma_16x8x16(out[d], lo[0], lo[1], hi[0], hi[1], b[0], b[1]);
                mma_16x8x16(out[d + 1], lo[0], lo[1], hi[0], hi[1], b[2], b[3]);
            }
        }
    }

    __device__ __forceinline__ void write(float* y) const {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float total = sum[k];
            total += __shfl_xor_sync(ALL_LANES, total, 1);
            total += __shfl_xor_sync(ALL_LANES, total, 2);
            total = 1 / total;
            int32_t r = row() + 8 * k;
            float* to = y + ((int64_t)r * a->n_heads + head) * dim + threadIdx.x % 4 * 2;
#pragma unroll
            for (int d = 0; d < PIECES; d++) {
                if (r >= n || 8 * d >= dim) continue;
                to[8 * d] = out[d][2 * k] * total;
                to[8 * d + 1] = out[d][2 * k + 1] * total;
            }
        }
    }
};

template <int PIECES, class Cache> __device__ __forceinline__ void attend_tile(const attention_task* a, int32_t first_token,
    int32_t tokens, uint4* keys_sh, float* factors) {
    attention_tile<PIECES, Cache> t;
    int32_t token = (gridDim.z - 1 - blockIdx.z) * TILE_QUERIES; // of the run: the tiles with the most positions first
    t.a = a;
    t.head = blockIdx.x;
    t.kv = t.head / (a->n_heads / a->n_kv_heads);
    t.n = min((int32_t)TILE_QUERIES, tokens - token);
    t.dim = a->head_dim;
    t.stride = a->n_kv_heads * a->head_dim;
    t.offset = t.kv * a->head_dim + threadIdx.x % PIECES * 8;
    t.window = a->window;
    t.cap = a->soft_cap;
    t.first = __ldg(a->pos + first_token + token);
    t.last = t.first + t.n - 1;
    t.pages = a->pages + __ldg(a->table + first_token + token);
    token += first_token;
    uint4* values_sh = keys_sh + PAGE * PIECES;
    Cache keys(a->k_cache, cache_elements(a)), values(a->v_cache, cache_elements(a));
    t.load_queries(a->q + (int64_t)token * a->n_heads * a->head_dim, keys_sh, factors);
    t.clear_rest(keys_sh, values_sh);
#pragma unroll
    for (int k = 0; k < 2; k++) {
        t.m[k] = __uint_as_float(0xff800000u); // −infinity
        t.sum[k] = 0;
    }
#pragma unroll
    for (int d = 0; d < PIECES; d++)
#pragma unroll
        for (int k = 0; k < 4; k++) t.out[d][k] = 0;
    int32_t position = max(t.first - a->window + 1, 0) / PAGE * PAGE;
    bool wanted = (int32_t)(threadIdx.x / WARP) * 16 < t.n; // by this warp
    t.template bring<false>(keys, position, keys_sh);
    for (; position <= t.last; position += PAGE) {
        float score[PAGE / 8][4];
        uint32_t weight[PAGE / 8][2];
        bool more = position + PAGE <= t.last;
        t.template bring<true>(values, position, values_sh);
        copy_wait<1>();
        __syncthreads(); // the keys are there
        if (wanted) t.multiply_keys(keys_sh, score);
        __syncthreads(); // and all have read them
        if (more)
            t.template bring<false>(keys, position + PAGE, keys_sh);
        else
            copy_commit();
        if (wanted) t.weigh(score, position, weight);
        copy_wait<1>();
        __syncthreads(); // the values are there
        if (wanted) t.add_values(values_sh, weight);
        __syncthreads();
    }
    if (wanted) t.write(a->y + (int64_t)token * a->n_heads * a->head_dim);
}

template <class Cache> __device__ __forceinline__ void attention_tiles(const attention_task* a, int32_t first_token,
    int32_t tokens) {
    SHARED_ARRAY(uint4, tiles, 2 * PAGE * 16);
    SHARED_ARRAY(float, factors, TILE_QUERIES);
    if (a->head_dim <= 64)
        attend_tile<8, Cache>(a, first_token, tokens, tiles, factors);
    else
        attend_tile<16, Cache>(a, first_token, tokens, tiles, factors);
}

#else

// Devices without asynchronous copies have attention_f16 and attention_q8.
template <class Cache> __device__ __forceinline__ void attention_tiles(const attention_task* a, int32_t first_token,
    int32_t tokens) {
    __trap();
}

#endif

// Grid (n_heads, 1, ⌈tokens / 64⌉), block 128 threads, no dynamic shared memory.
// a            see tasks.cuh; heads of at most 128 dimensions. What rope_store_* has stored is in the caches, and q is rotated.
//              A token at position i sees positions 0 … i of its sequence
// first_token, tokens   rows of q and y, which follow each other in one sequence
extern "C" __global__ void __launch_bounds__(128, 2) attention_tiles_f16(const attention_task* a, int32_t first_token,
    int32_t tokens) {
    attention_tiles<cache_f16>(a, first_token, tokens);
}
// The same for caches of 8 bits.
extern "C" __global__ void __launch_bounds__(128, 2) attention_tiles_q8(const attention_task* a, int32_t first_token,
    int32_t tokens) {
    attention_tiles<cache_q8>(a, first_token, tokens);
}
