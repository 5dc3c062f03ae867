// Gated linear units (Shazeer 2020): v_i = act(gate_i) · up_i. They run where the vector is prepared for a product (prepare.cuh).
#pragma once
#include "common.cuh"

// v · sigmoid(v·(linear + cubic·v²)): SiLU with 1 and 0, GELU with 2√(2/π) and 0.044715 times that.
__device__ __forceinline__ float activation(float v, float linear, float cubic) {
    return v / (1.0f + __expf(-v * fmaf(cubic, v * v, linear)));
}
