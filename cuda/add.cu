// Adds a vector to another: the residual stream.
#include "common.cuh"

// block 256, any grid (grid-stride), n: number of floats. y[i] += scale·x[i]
extern "C" __global__ void __launch_bounds__(256) add(float* y, const float* x, float scale, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < n; i += (int64_t)gridDim.x * 256)
        y[i] = fmaf(scale, x[i], y[i]);
}
