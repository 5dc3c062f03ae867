// Rotary position embedding (Su et al. 2021). Queries and keys are rotated by rope_store, or by attention itself for a single
// token.
#pragma once
#include "tasks.cuh"

// Sine and cosine of 0 ≤ a < 2^20 to about 1e-6: reduced to ±π in three steps (Cody, Waite 1980), without the
// local memory that sinf's reduction of huge arguments takes.
__device__ __forceinline__ void sin_cos(float a, float* sin_a, float* cos_a) {
    float turns = rintf(a * 0.159154943f);
    a = fmaf(turns, -6.28125f, a);
    a = fmaf(turns, -0.0019350051879882812f, a);
    a = fmaf(turns, -3.0199159e-7f, a);
    *sin_a = __sinf(a);
    *cos_a = __cosf(a);
}

// Dimension d of a head x at a position, after rotary embedding (Su et al. 2021).
__device__ __forceinline__ float rotated(const attention_task* a, const float* x, int32_t d, int32_t position) {
    if (!a->inv_freq || d >= a->rope_dim) return x[d];
    int32_t half = a->rope_dim / 2, i = d / 2, first = d & ~1, second = d | 1;
    if (a->neox) {
        i = d < half ? d : d - half;
        first = i;
        second = i + half;
    }
    float sin_a, cos_a;
    sin_cos((float)position * a->inv_freq[i], &sin_a, &cos_a);
    return a->rope_gain * (d == first ? x[first] * cos_a - x[second] * sin_a : x[first] * sin_a + x[second] * cos_a);
}
