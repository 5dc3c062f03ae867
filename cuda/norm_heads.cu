// RMSNorm of every head by itself: queries and keys before they are rotated.
#include "rms_norm.cuh"

// grid (heads, tokens), block 256
// x       [tokens][heads][dim], in place
// weight  [dim], the same for all heads
extern "C" __global__ void __launch_bounds__(256) norm_heads(float* x, const float* weight, int32_t dim, float eps) {
    SHARED_ARRAY(float, scratch, 8);
    x += ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * dim;
    float factor = rms_factor(x, dim, eps, scratch);
    for (int32_t i = threadIdx.x; i < dim; i += 256) x[i] = x[i] * factor * weight[i];
}
