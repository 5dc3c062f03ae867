// Causal attention with grouped queries over a float16 cache, online softmax (Milakov, Gimelshein 2018).
#include "common.cuh"

// Eight neighbouring lanes (a team) share a position: lane i of the team holds dimensions 64v + 8i … 64v + 8i + 7 for v < NV.
// The block's 32 teams take positions in turn, each with a running maximum, sum and output, which are joined at the end.
enum { TEAM = 8, TEAMS = 32, DIMS = 8 };

__device__ __forceinline__ void unpack_halves(uint4 v, float* f) {
    uint32_t h[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = half_to_float((uint16_t)h[i]);
        f[2 * i + 1] = half_to_float((uint16_t)(h[i] >> 16));
    }
}

// Joins another running softmax (m, sum, acc) into this one.
template <int NV> struct softmax {
    float m, sum, acc[NV * DIMS];

    __device__ __forceinline__ void rescale(float to) {
        float f = m == to ? 1.0f : __expf(m - to); // both may be −infinity
        m = to;
        sum *= f;
#pragma unroll
        for (int i = 0; i < NV * DIMS; i++) acc[i] *= f;
    }
    // The same lane of other teams of the warp.
    __device__ __forceinline__ void join_lane(int bit) {
        rescale(fmaxf(m, __shfl_xor_sync(ALL_LANES, m, bit)));
        sum += __shfl_xor_sync(ALL_LANES, sum, bit);
#pragma unroll
        for (int i = 0; i < NV * DIMS; i++) acc[i] += __shfl_xor_sync(ALL_LANES, acc[i], bit);
    }
};

template <int NV> __device__ __forceinline__ void attend(const float* q, const uint16_t* k, const uint16_t* v, int32_t stride, int32_t last,
    int32_t head_dim, float scale, float* y, float* shared_acc, float* shared_m, float* shared_sum) {
    int32_t lane = threadIdx.x % TEAM, team = threadIdx.x / TEAM, warp = threadIdx.x / WARP;
    float query[NV * DIMS];
    softmax<NV> state;
    state.m = __uint_as_float(0xff800000u);
    state.sum = 0;
#pragma unroll
    for (int i = 0; i < NV * DIMS; i++) {
        int32_t d = i / DIMS * TEAM * DIMS + lane * DIMS + i % DIMS;
        query[i] = d < head_dim ? q[d] * scale : 0;
        state.acc[i] = 0;
    }
    // All teams of a warp make the same number of turns, since they shuffle together.
    for (int32_t first = warp * (WARP / TEAM); first <= last; first += TEAMS) {
        int32_t at = first + team % (WARP / TEAM);
        bool valid = at <= last;
        int64_t row = (int64_t)(valid ? at : last) * stride;
        float dot = 0;
#pragma unroll
        for (int n = 0; n < NV; n++) {
            int32_t d = (n * TEAM + lane) * DIMS;
            if (d >= head_dim) break;
            float key[DIMS];
            unpack_halves(*(const uint4*)(k + row + d), key);
#pragma unroll
            for (int i = 0; i < DIMS; i++) dot = fmaf(key[i], query[n * DIMS + i], dot);
        }
#pragma unroll
        for (int bit = TEAM / 2; bit; bit >>= 1) dot += __shfl_xor_sync(ALL_LANES, dot, bit);
        if (!valid) continue;
        if (dot > state.m) state.rescale(dot);
        float p = __expf(dot - state.m);
        state.sum += p;
#pragma unroll
        for (int n = 0; n < NV; n++) {
            int32_t d = (n * TEAM + lane) * DIMS;
            if (d >= head_dim) break;
            float value[DIMS];
            unpack_halves(*(const uint4*)(v + row + d), value);
#pragma unroll
            for (int i = 0; i < DIMS; i++) state.acc[n * DIMS + i] = fmaf(p, value[i], state.acc[n * DIMS + i]);
        }
    }
    __syncwarp();
    state.join_lane(8);
    state.join_lane(16);
    if (threadIdx.x % WARP < TEAM) {
#pragma unroll
        for (int i = 0; i < NV * DIMS; i++) {
            int32_t d = i / DIMS * TEAM * DIMS + lane * DIMS + i % DIMS;
            if (d < head_dim) shared_acc[warp * head_dim + d] = state.acc[i];
        }
        if (lane == 0) {
            shared_m[warp] = state.m;
            shared_sum[warp] = state.sum;
        }
    }
    __syncthreads();
    if ((int32_t)threadIdx.x >= head_dim) return;
    float m = shared_m[0], sum = 0, out = 0;
#pragma unroll
    for (int i = 1; i < 8; i++) m = fmaxf(m, shared_m[i]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float f = __expf(shared_m[i] - m);
        sum = fmaf(f, shared_sum[i], sum);
        out = fmaf(f, shared_acc[i * head_dim + threadIdx.x], out);
    }
    y[threadIdx.x] = out / sum;
}

// grid (n_heads, tokens), block 256
// q                 [tokens][n_heads][head_dim]
// k_cache, v_cache  float16 [n_ctx][n_kv_heads][head_dim], 16-byte aligned
// pos               [1] position of token 0; token t sees positions 0 … pos + t (which kv_store has already stored)
// head_dim          a multiple of 8, ≤ 256
// scale             factor on q·k, usually 1/√head_dim
// y                 [tokens][n_heads][head_dim]
extern "C" __global__ void __launch_bounds__(256) attention(const float* q, const uint16_t* k_cache, const uint16_t* v_cache, const int32_t* pos,
    int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, float scale, float* y) {
    SHARED_ARRAY(float, acc, 8 * 256);
    SHARED_ARRAY(float, m, 8);
    SHARED_ARRAY(float, sum, 8);
    int64_t row = ((int64_t)blockIdx.y * n_heads + blockIdx.x) * head_dim;
    int32_t kv = blockIdx.x / (n_heads / n_kv_heads) * head_dim, stride = n_kv_heads * head_dim, last = *pos + (int32_t)blockIdx.y;
    if (head_dim <= 64)
        attend<1>(q + row, k_cache + kv, v_cache + kv, stride, last, head_dim, scale, y + row, acc, m, sum);
    else if (head_dim <= 128)
        attend<2>(q + row, k_cache + kv, v_cache + kv, stride, last, head_dim, scale, y + row, acc, m, sum);
    else
        attend<4>(q + row, k_cache + kv, v_cache + kv, stride, last, head_dim, scale, y + row, acc, m, sum);
}
