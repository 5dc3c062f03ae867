// Root-mean-square normalization (Zhang, Sennrich 2019).
#include "common.cuh"

// y = x / √(mean(x²) + eps) · weight.   grid tokens, block 256
// x, y [tokens][width] (may be the same), weight [width]
extern "C" __global__ void __launch_bounds__(256) rmsnorm(const float* x, const float* weight, int32_t width, float eps, float* y) {
    SHARED_ARRAY(float, scratch, 8);
    x += (int64_t)blockIdx.x * width;
    y += (int64_t)blockIdx.x * width;
    float sum = 0;
    for (int32_t i = threadIdx.x; i < width; i += 256) sum = fmaf(x[i], x[i], sum);
    sum = block_reduce_256<false>(sum, scratch);
    float factor = 1.0f / sqrtf(sum / width + eps);
    for (int32_t i = threadIdx.x; i < width; i += 256) y[i] = x[i] * factor * weight[i];
}
