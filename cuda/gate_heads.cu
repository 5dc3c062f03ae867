// Gates of attention's heads: what each attended to, times the sigmoid of a gate that was computed beside its query.
#include "common.cuh"

// grid (heads, tokens), block 256
// x      [tokens][heads][dim], in place
// gates  [tokens][heads][2][dim], of which the second halves are gates
extern "C" __global__ void __launch_bounds__(256) gate_heads(float* x, const float* gates, int32_t dim) {
    int64_t head = (int64_t)blockIdx.y * gridDim.x + blockIdx.x;
    x += head * dim;
    gates += (2 * head + 1) * dim;
    for (int32_t i = threadIdx.x; i < dim; i += 256) x[i] /= 1.0f + __expf(-gates[i]);
}
