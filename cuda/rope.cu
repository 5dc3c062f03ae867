// Rotary position embedding (Su et al. 2021), in place.
#include "common.cuh"

// grid (heads, tokens), block 64
// x         [tokens][heads][head_dim]
// pos       [1] position of token 0, in device memory; token t is at pos + t
// inv_freq  [rope_dim/2] radians per position: base^(−2i/rope_dim), scaling and divisors included
// neox      1: dimension i pairs with i + rope_dim/2; 0: 2i with 2i + 1
extern "C" __global__ void __launch_bounds__(64) rope(float* x, const int32_t* pos, const float* inv_freq, int32_t heads, int32_t head_dim, int32_t rope_dim, int32_t neox) {
    x += ((int64_t)blockIdx.y * heads + blockIdx.x) * head_dim;
    float position = (float)(*pos + (int32_t)blockIdx.y);
    for (int32_t i = threadIdx.x; i < rope_dim / 2; i += 64) {
        float sin_a, cos_a;
        sin_cos(position * inv_freq[i], &sin_a, &cos_a);
        int32_t a = neox ? i : 2 * i, b = neox ? i + rope_dim / 2 : 2 * i + 1;
        float xa = x[a], xb = x[b];
        x[a] = xa * cos_a - xb * sin_a;
        x[b] = xa * sin_a + xb * cos_a;
    }
}
