// RMSNorm of every head by itself: queries and keys before they are rotated, what the delta rule reads.
#include "rms_norm.cuh"

// grid (heads, tokens), block 256
// x       [tokens][heads][stride], of which the first dim values are normalized
// y       [tokens][heads][dim]; x itself if stride is dim
// weight  [dim], the same for all heads
extern "C" __global__ void __launch_bounds__(256) norm_heads(const float* x, float* y, const float* weight, int32_t dim,
                                                              int32_t stride, float eps) {
    SHARED_ARRAY(float, scratch, 8);
    int64_t head = (int64_t)blockIdx.y * gridDim.x + blockIdx.x;
    x += head * stride;
    y += head * dim;
    float factor = rms_factor(x, dim, eps, scratch);
    for (int32_t i = threadIdx.x; i < dim; i += 256) y[i] = x[i] * factor * weight[i];
}
