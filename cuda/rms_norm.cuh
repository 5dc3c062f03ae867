// RMSNorm (Zhang, Sennrich 2019): v_i = x_i / √(mean(x²) + eps) · norm_i. It runs where the vector is prepared for a product
// (prepare.cuh).
#pragma once
#include "common.cuh"

// 1 / √(mean(x²) + eps) of a vector of `cols` values, NaN if the sum of squares is not finite: 0 would make an answer of it.
// scratch: 8 floats of shared memory. Collective over a block of 256 threads.
__device__ __forceinline__ float rms_factor(const float* x, int32_t cols, float eps, float* scratch) {
    float sum = 0;
    for (int32_t i = threadIdx.x; i < cols; i += 256) sum = fmaf(x[i], x[i], sum);
    sum = block_reduce_256<false>(sum, scratch);
    float factor = 1.0f / sqrtf(sum / cols + eps) + (sum - sum);
    __syncthreads();
    return factor;
}
