// Gated delta rule (Yang et al., Gated Delta Networks, 2024, arXiv 2412.06464): the layers of Qwen 3.5 without attention.
#include "states.cuh"

static const int32_t DELTA_KEYS = 128;   // most key dimensions of a head
static const int32_t DELTA_PARTS = 4;    // neighbouring threads that share a column of the matrix
static const int32_t DELTA_COLUMNS = 32; // of a block
static const int32_t DELTA_OWN = DELTA_KEYS / DELTA_PARTS;
static const float DELTA_NORM_EPS = 1e-6f; // added to squared lengths

// ln(1 + exp(x)); from 20 on it is x in float32.
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

// Sum over the threads that share a column, in each of them.
__device__ __forceinline__ float column_sum(float v) {
#pragma unroll
    for (int bit = 1; bit < DELTA_PARTS; bit *= 2) v += __shfl_xor_sync(ALL_LANES, v, bit);
    return v;
}

// grid (values / 32 rounded up, heads), block 128: four threads per column of a head's matrix S [keys][values], each with every
// fourth row in registers. Columns are independent. A block takes the tokens of the batch one after the other: with keys k and
// queries q of length 1, q divided by √keys, the decay d and β, S becomes d·S + k·(β·(v − (d·S)ᵀ·k))ᵀ and y = Sᵀ·q.
// x        [tokens][queries [key_heads][keys], keys likewise, values [heads][values]]; head h has key head h mod key_heads
// alpha    [tokens][heads]: d = exp(decays · ln(1 + exp(alpha + biases)))
// beta     [tokens][heads], before the sigmoid
// y        [tokens][heads][values]
// decays, biases [heads]
// states   [heads][keys][values] at every place
// from, to where a token's state comes from and goes to (states.cuh); place: floats from one place to the next
extern "C" __global__ void __launch_bounds__(128) delta_rule(const float* x, const float* alpha, const float* beta, float* y,
                                                             const float* decays, const float* biases, float* states,
                                                             const int32_t* from, const int32_t* to, int32_t tokens,
                                                             int32_t key_heads, int32_t keys, int32_t values, int64_t place) {
    SHARED_ARRAY(float, vectors, 2 * 2 * DELTA_KEYS); // [token mod 2][key or query]
    SHARED_ARRAY(float, partial, 2 * 4 * 4);          // [token mod 2][warp][k·k, q·q, k·q]
    int32_t i = threadIdx.x, part = i % DELTA_PARTS, column = blockIdx.x * DELTA_COLUMNS + i / DELTA_PARTS;
    int32_t heads = gridDim.y, head = blockIdx.y, key_head = head % key_heads;
    int64_t width = 2 * (int64_t)key_heads * keys + (int64_t)heads * values;
    bool own = column < values;
    int64_t matrix = (int64_t)head * keys * values + column;
    float decay_factor = decays[head], bias = biases[head], root = 1.0f / sqrtf((float)keys);
    float s[DELTA_OWN];
#pragma unroll
    for (int32_t r = 0; r < DELTA_OWN; r++) s[r] = 0;
    for (int32_t t = 0; t < tokens; t++) {
        int32_t source = from[t], target = to[t];
        const float* in = x + t * width;
        float q = 0, k = 0, v = own ? in[2 * key_heads * keys + (int64_t)head * values + column] : 0;
        if (i < keys) {
            q = in[key_head * keys + i];
            k = in[(key_heads + key_head) * keys + i];
        }
        if (source != SAME_STATE) {
#pragma unroll
            for (int32_t r = 0; r < DELTA_OWN; r++) {
                int32_t row = r * DELTA_PARTS + part;
                bool kept = source != EMPTY_STATE && own && row < keys;
                s[r] = kept ? states[source * place + matrix + (int64_t)row * values] : 0;
            }
        }
        // Of two tokens in turn, so that one barrier is enough: who writes for a token has seen all leave the last but one.
        float *key = vectors + t % 2 * 2 * DELTA_KEYS, *query = key + DELTA_KEYS, *sums = partial + t % 2 * 16;
        key[i] = k;
        query[i] = q;
        float kk = warp_sum(k * k), qq = warp_sum(q * q), kq = warp_sum(k * q);
        if (i % WARP == 0) {
            sums[i / WARP * 4] = kk;
            sums[i / WARP * 4 + 1] = qq;
            sums[i / WARP * 4 + 2] = kq;
        }
        __syncthreads();
        kk = sums[0] + sums[4] + sums[8] + sums[12];
        qq = sums[1] + sums[5] + sums[9] + sums[13];
        kq = sums[2] + sums[6] + sums[10] + sums[14];
        float to_key = 1.0f / sqrtf(kk + DELTA_NORM_EPS), to_query = root / sqrtf(qq + DELTA_NORM_EPS);
        float decay = expf(decay_factor * softplus(alpha[(int64_t)t * heads + head] + bias));
        float share = 1.0f / (1.0f + expf(-beta[(int64_t)t * heads + head]));
        float by_key = 0, by_query = 0;
#pragma unroll
        for (int32_t r = 0; r < DELTA_OWN; r++) {
            by_key = fmaf(s[r], key[r * DELTA_PARTS + part], by_key);
            by_query = fmaf(s[r], query[r * DELTA_PARTS + part], by_query);
        }
        by_key = column_sum(by_key) * to_key * decay;
        by_query = column_sum(by_query) * to_query * decay;
        float delta = share * (v - by_key), change = delta * to_key;
        if (own && part == 0) y[((int64_t)t * heads + head) * values + column] = fmaf(kq * to_key * to_query, delta, by_query);
#pragma unroll
        for (int32_t r = 0; r < DELTA_OWN; r++) {
            int32_t row = r * DELTA_PARTS + part;
            s[r] = fmaf(decay, s[r], key[row] * change);
            if (target != SAME_STATE && own && row < keys) states[target * place + matrix + (int64_t)row * values] = s[r];
        }
    }
}
