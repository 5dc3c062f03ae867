// Causal attention with grouped queries over a cache, online softmax (Milakov, Gimelshein 2018), split over positions where few
// queries meet a long context (flash-decoding: Dao et al. 2023).
#include "kv_cache.cuh"
#include "prepare.cuh"
#include "rope.cuh"

// A block works on a query group: queries that share keys: heads of one token, or tokens of one head. Eight neighbouring lanes (a
// team) share a position: lane i holds dimensions 64v + 8i … 64v + 8i + 7 for v < NV. The block's 32 teams take positions in
// turn, each with a running maximum, sum and output per query, which are joined at the end. Queries × NV·64 dimensions are 256,
// so each thread finishes one value.
enum { TEAM = 8, TEAMS = 32, DIMS = 8, GROUP_VALUES = 256 };

// A running softmax of one query.
template <int NV> struct softmax {
    float m, sum, acc[NV * DIMS];

    __device__ __forceinline__ void rescale(float to) {
        float f = m == to ? 1.0f : __expf(m - to); // both may be −infinity
        m = to;
        sum *= f;
#pragma unroll
        for (int i = 0; i < NV * DIMS; i++) acc[i] *= f;
    }
    // Joins that of the same lane of another team of the warp.
    __device__ __forceinline__ void join_lane(int bit) {
        rescale(fmaxf(m, __shfl_xor_sync(ALL_LANES, m, bit)));
        sum += __shfl_xor_sync(ALL_LANES, sum, bit);
#pragma unroll
        for (int i = 0; i < NV * DIMS; i++) acc[i] += __shfl_xor_sync(ALL_LANES, acc[i], bit);
    }
};

// What a block attends to. NV: see above; Cache: format of the cache.
template <int NV, class Cache> struct query_group {
    enum { QUERIES = 4 / NV, SPAN = NV * TEAM * DIMS }; // queries of a block; dimensions rounded up
    const attention_task* a;
    int32_t n;                        // queries
    int32_t kv;                       // head of keys and values
    int32_t first_head, first_token;  // of the first query; token counts from the launch's first
    int32_t head_step, token_step;    // to the next query
    int32_t last_0;                   // last position that the first query sees
    const int32_t* pages;             // page table of the tokens' sequence
    float *query_sh, *key_sh, *value_sh; // [GROUP_VALUES]

    __device__ __forceinline__ int32_t last(int32_t j) const { return last_0 + j * token_step; }
    __device__ __forceinline__ int32_t first_seen(int32_t j) const { return max(last(j) - a->window + 1, 0); }
    __device__ __forceinline__ int64_t query(int32_t j) const { // which of [tokens][n_heads]
        return (int64_t)(first_token + j * token_step) * a->n_heads + first_head + j * head_step;
    }

    __device__ __forceinline__ query_group(const attention_task* a_, int32_t first, int32_t tokens, bool by_token) : a(a_) {
        int32_t group = a->n_heads / a->n_kv_heads, per_kv = (group + QUERIES - 1) / QUERIES;
        if (by_token) {
            first_head = blockIdx.x;
            kv = first_head / group;
            first_token = blockIdx.z * QUERIES;
            n = min((int32_t)QUERIES, tokens - first_token);
        } else {
            kv = blockIdx.x / per_kv;
            first_head = kv * group + blockIdx.x % per_kv * QUERIES;
            first_token = blockIdx.z;
            n = min((int32_t)QUERIES, (kv + 1) * group - first_head);
        }
        head_step = !by_token;
        token_step = by_token;
        last_0 = __ldg(a->pos + first + first_token);
        pages = a->pages + __ldg(a->table + first + first_token);
    }

    // Brings the queries, scaled, to shared memory.
    __device__ __forceinline__ void load_queries(const float* q, bool rotate) const {
        int32_t j = threadIdx.x / SPAN, d = threadIdx.x % SPAN, dim = a->head_dim;
        float v = 0;
        if (j < n && d < dim) {
            const float* x = q + query(j) * dim;
            v = (rotate ? rotated(a, x, d, last(j)) : x[d]) * a->scale;
            if (a->temperature) v *= fmaf(a->temperature, logf(1.0f + (float)(last(j) / a->temperature_ctx)), 1.0f);
        }
        query_sh[threadIdx.x] = v;
    }

    // Brings the newest key and value, as the cache rounds them, to shared memory and, if `write`, to the cache.
    __device__ __forceinline__ void load_newest(const Cache& keys, const Cache& values, bool write) const {
        int32_t d = threadIdx.x, dim = a->head_dim, at = last_0;
        bool inside = d < dim;
        int64_t from = (int64_t)kv * dim, row = cache_row(pages, at), e = (row * a->n_kv_heads + kv) * dim + d;
        write = write && row < a->rows;
        float k = keys.keep(e, inside ? rotated(a, a->k + from, d, at) : 0, inside, write);
        float v = values.keep(e, inside ? a->v[from + d] : 0, inside, write);
        key_sh[d] = inside ? k : 0;
        value_sh[d] = inside ? v : 0;
    }
};

// Adds a position to the team's state. `in`: this team's position counts; all teams of a warp must come here together.
template <int NV, class Cache, class Load> __device__ __forceinline__ void visit(const query_group<NV, Cache>& t,
    softmax<NV>* state, float (*query)[NV * DIMS], int32_t at, bool in,
    const Load& load_key, const Load& load_value) {
    int32_t lane = threadIdx.x % TEAM;
    float dot[query_group<NV, Cache>::QUERIES] = {};
#pragma unroll
    for (int v = 0; v < NV; v++) {
        int32_t d = (v * TEAM + lane) * DIMS;
        if (d >= t.a->head_dim) break;
        float key[DIMS];
        load_key(d, key);
#pragma unroll
        for (int j = 0; j < query_group<NV, Cache>::QUERIES; j++) {
            if (j >= t.n) break;
#pragma unroll
            for (int i = 0; i < DIMS; i++) dot[j] = fmaf(key[i], query[j][v * DIMS + i], dot[j]);
        }
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < query_group<NV, Cache>::QUERIES; j++) {
        if (j >= t.n) break;
#pragma unroll
        for (int bit = TEAM / 2; bit; bit >>= 1) dot[j] += __shfl_xor_sync(ALL_LANES, dot[j], bit);
        if (t.a->soft_cap) dot[j] = soft_capped(dot[j], t.a->soft_cap);
        bool seen = in && (uint32_t)(t.last(j) - at) < (uint32_t)t.a->window; // also false for a later position
        if (seen && dot[j] > state[j].m) state[j].rescale(dot[j]);
        dot[j] = seen ? __expf(dot[j] - state[j].m) : 0;
        state[j].sum += dot[j];
    }
#pragma unroll
    for (int v = 0; v < NV; v++) {
        int32_t d = (v * TEAM + lane) * DIMS;
        if (d >= t.a->head_dim || !in) break;
        float value[DIMS];
        load_value(d, value);
#pragma unroll
        for (int j = 0; j < query_group<NV, Cache>::QUERIES; j++) {
            if (j >= t.n) break;
#pragma unroll
            for (int i = 0; i < DIMS; i++) state[j].acc[v * DIMS + i] = fmaf(dot[j], value[i], state[j].acc[v * DIMS + i]);
        }
    }
    __syncwarp();
}

template <class Cache> struct load_cached {
    const Cache& cache;
    int32_t row, dim; // row: of all heads
    __device__ __forceinline__ void operator()(int32_t d, float* f) const { cache.load8((int64_t)row * dim + d, f); }
};
struct load_shared {
    const float* row;
    __device__ __forceinline__ void operator()(int32_t d, float* f) const {
#pragma unroll
        for (int i = 0; i < DIMS; i++) f[i] = row[d + i];
    }
};

// Positions begin … end − 1 of the cache and, if `newest`, position `end` from shared memory.
template <int NV, class Cache> __device__ __forceinline__ void attend(const query_group<NV, Cache>& t, const Cache& keys,
    const Cache& values, softmax<NV>* state, int32_t begin, int32_t end, bool newest) {
    const int Q = query_group<NV, Cache>::QUERIES;
    int32_t lane = threadIdx.x % TEAM, team = threadIdx.x % WARP / TEAM, warp = threadIdx.x / WARP, dim = t.a->head_dim;
    float query[Q][NV * DIMS];
#pragma unroll
    for (int j = 0; j < Q; j++) {
        state[j].m = __uint_as_float(0xff800000u); // −infinity
        state[j].sum = 0;
#pragma unroll
        for (int i = 0; i < NV * DIMS; i++) {
            query[j][i] = t.query_sh[j * query_group<NV, Cache>::SPAN + i / DIMS * TEAM * DIMS + lane * DIMS + i % DIMS];
            state[j].acc[i] = 0;
        }
    }
    // All teams of a warp make the same number of turns, since they shuffle together.
    for (int32_t first = begin + warp * (WARP / TEAM); first < end; first += TEAMS) {
        int32_t at = first + team;
        bool in = at < end;
        int32_t row = (int32_t)cache_row(t.pages, in ? at : end - 1) * t.a->n_kv_heads + t.kv; // of all heads: 2³¹ at most
        load_cached<Cache> key = {keys, row, dim}, value = {values, row, dim};
        visit(t, state, query, at, in, key, value);
    }
    if (newest && warp == 0) {
        load_shared key = {t.key_sh}, value = {t.value_sh};
        visit(t, state, query, end, team == 0, key, value);
    }
#pragma unroll
    for (int j = 0; j < Q; j++) {
        state[j].join_lane(8);
        state[j].join_lane(16);
    }
}

// Joins the block's warps. Each thread gets one output value of one query, not yet divided by the sum.
template <int NV, class Cache> __device__ __forceinline__ float join_warps(softmax<NV>* state, float* acc_sh, float* m_sh,
    float* sum_sh, float* m, float* sum) {
    const int Q = query_group<NV, Cache>::QUERIES, SPAN = query_group<NV, Cache>::SPAN;
    int32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, j = threadIdx.x / SPAN;
    if (lane < TEAM) {
#pragma unroll
        for (int k = 0; k < Q; k++) {
#pragma unroll
            for (int i = 0; i < NV * DIMS; i++) acc_sh[warp * GROUP_VALUES + k * SPAN + i / DIMS * TEAM * DIMS + lane * DIMS +
                i % DIMS] = state[k].acc[i];
            if (lane == 0) {
                m_sh[warp * Q + k] = state[k].m;
                sum_sh[warp * Q + k] = state[k].sum;
            }
        }
    }
    __syncthreads();
    float out = 0;
    *m = m_sh[j];
    *sum = 0;
#pragma unroll
    for (int i = 1; i < 8; i++) *m = fmaxf(*m, m_sh[i * Q + j]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float f = m_sh[i * Q + j] == *m ? 1.0f : __expf(m_sh[i * Q + j] - *m);
        *sum = fmaf(f, sum_sh[i * Q + j], *sum);
        out = fmaf(f, acc_sh[i * GROUP_VALUES + threadIdx.x], out);
    }
    return out;
}

// Leaves this split's result with the others'; true in the group's last block, which then has them all joined. `at` is the
// query's place in [tokens][n_heads].
__device__ __forceinline__ bool join_splits(const attention_task* a, int64_t at, int32_t d, bool mine, int32_t active, float* out,
    float m, float* sum) {
    int32_t stride = a->head_dim + 2;
    float* p = a->partial + at * gridDim.y * stride;
    if (mine) {
        float* own = p + (int64_t)blockIdx.y * stride;
        own[d] = *out;
        if (d == 0) {
            own[a->head_dim] = m;
            own[a->head_dim + 1] = *sum;
        }
    }
    if (!last_block(a->done + (int64_t)blockIdx.z * gridDim.x + blockIdx.x, active)) return false;
    if (!mine) return true;
    *out = *sum = 0;
    for (int32_t s = 0; s < active; s++) m = fmaxf(m, p[(int64_t)s * stride + a->head_dim]);
    for (int32_t s = 0; s < active; s++) {
        const float* other = p + (int64_t)s * stride;
        float f = __expf(other[a->head_dim] - m);
        *sum = fmaf(f, other[a->head_dim + 1], *sum);
        *out = fmaf(f, other[d], *out);
    }
    return true;
}

// One query group and split; true in the block that finishes the group.
template <int NV, class Cache> __device__ __forceinline__ bool attend_group(const attention_task* a, int32_t first_token,
    int32_t tokens, int32_t by_token, int32_t fresh, float* shared) {
    query_group<NV, Cache> t(a, first_token, tokens, by_token != 0);
    t.query_sh = shared;
    t.key_sh = shared + GROUP_VALUES;
    t.value_sh = shared + 2 * GROUP_VALUES;
    float *acc_sh = shared + 3 * GROUP_VALUES, *m_sh = acc_sh + 8 * GROUP_VALUES, *sum_sh = m_sh + 32;
    // A split takes a range of the positions in the window, none if they are few.
    int32_t start = t.first_seen(0), stop = t.last(t.n - 1) + 1, count = stop - start, splits = gridDim.y;
    int32_t length = ((count + splits - 1) / splits + TEAMS - 1) / TEAMS * TEAMS, active = (count + length - 1) / length;
    int32_t begin = start + blockIdx.y * length, end = min(begin + length, stop);
    if (begin >= stop) return false;
    Cache keys(a->k_cache, cache_elements(a)), values(a->v_cache, cache_elements(a));
    const float* q = a->q + (int64_t)first_token * a->n_heads * a->head_dim;
    bool newest = fresh && end == stop;
    t.load_queries(q, fresh != 0);
    if (newest) {
        t.load_newest(keys, values, t.first_head == t.kv * (a->n_heads / a->n_kv_heads));
        end--;
    }
    __syncthreads();
    softmax<NV> state[query_group<NV, Cache>::QUERIES];
    attend(t, keys, values, state, begin, end, newest);
    float m, sum, out = join_warps<NV, Cache>(state, acc_sh, m_sh, sum_sh, &m, &sum);
    int32_t j = threadIdx.x / query_group<NV, Cache>::SPAN, d = threadIdx.x % query_group<NV, Cache>::SPAN;
    bool mine = j < t.n && d < a->head_dim;
    int64_t at = t.query(min(j, t.n - 1));
    if (active > 1 && !join_splits(a, at, d, mine, active, &out, m, &sum)) return false;
    if (mine) a->y[((int64_t)first_token * a->n_heads + at) * a->head_dim + d] = out / sum;
    return true;
}

template <class Cache> __device__ __forceinline__ void attention(const attention_task* a, int32_t first_token, int32_t tokens,
    int32_t by_token, int32_t fresh, const prepare_task* after) {
    SHARED_ARRAY(float, shared, 11 * GROUP_VALUES + 64);
    SHARED_ARRAY(float, scratch, 8);
    bool finished;
    if (a->head_dim <= 64)
        finished = attend_group<1, Cache>(a, first_token, tokens, by_token, fresh, shared);
    else if (a->head_dim <= 128)
        finished = attend_group<2, Cache>(a, first_token, tokens, by_token, fresh, shared);
    else
        finished = attend_group<4, Cache>(a, first_token, tokens, by_token, fresh, shared);
    if (!finished || !after || !last_block(after->done, gridDim.x * gridDim.z)) return;
    prepare_vectors(after, first_token, tokens, scratch);
}

// block 256, Q = 4 / ⌈head_dim / 64⌉ (rounded down to a power of two) queries per block
// a            see tasks.cuh. What rope_store_* has stored is in the caches, and q is rotated, unless `fresh`
//              A token at position i sees positions 0 … i of its sequence
// first_token, tokens   rows of q and y
// by_token     0: grid (n_kv_heads·⌈n_heads/n_kv_heads/Q⌉, splits, tokens); the tokens may be of different sequences. If splits >
//              1,
//              partial and done have room for them
//              1: grid (n_heads, 1, ⌈tokens/Q⌉); the tokens follow each other in one sequence
// fresh        1: a single token, whose q, k and v are as the products left them: rotates, stores and attends at once
// after        what the launch's last block prepares for the next product; 0 = nothing
extern "C" __global__ void __launch_bounds__(256, 2) attention_f16(const attention_task* a, int32_t first_token,
    int32_t tokens, int32_t by_token, int32_t fresh, const prepare_task* after) {
    attention<cache_f16>(a, first_token, tokens, by_token, fresh, after);
}
// The same for caches of 8 bits.
extern "C" __global__ void __launch_bounds__(256, 2) attention_q8(const attention_task* a, int32_t first_token,
    int32_t tokens, int32_t by_token, int32_t fresh, const prepare_task* after) {
    attention<cache_q8>(a, first_token, tokens, by_token, fresh, after);
}
