// Formats of the caches of keys and values.
#pragma once
#include "tasks.cuh"

// Element e = (row·n_kv_heads + head)·head_dim + dimension. `elements` is the number in the whole cache.
// load8 reads elements e … e + 7, e a multiple of 8. keep stores one element per lane, 32 consecutive ones per warp (those with
// `inside`), and returns the value that load8 will read; collective over the warp. Nothing is written unless `write`. What is not
// finite is kept as NaN, which attention carries on: an infinite key could lose its position all weight instead.

// The row of a position of a token's sequence.
__device__ __forceinline__ int64_t cache_row(const int32_t* pages, int32_t position) {
    return (int64_t)__ldg(pages + position / PAGE) * PAGE + position % PAGE;
}
__device__ __forceinline__ int64_t cache_elements(const attention_task* a) { return a->rows * a->n_kv_heads * a->head_dim; }

// float16 [elements]
struct cache_f16 {
    uint16_t* data;

    __device__ __forceinline__ cache_f16(uint8_t* p, int64_t elements) : data((uint16_t*)p) {}
    __device__ __forceinline__ void load8(int64_t e, float* f) const {
        uint4 v = *(const uint4*)(data + e);
        uint32_t h[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            f[2 * i] = half_to_float((uint16_t)h[i]);
            f[2 * i + 1] = half_to_float((uint16_t)(h[i] >> 16));
        }
    }
    __device__ __forceinline__ float keep(int64_t e, float v, bool inside, bool write) const {
        // v − v is 0, or NaN for what is not finite.
        uint16_t h = float_to_half(fminf(fmaxf(v, -65504.0f), 65504.0f) + (v - v));
        if (inside && write) data[e] = h;
        return half_to_float(h);
    }
};

// int8 [elements], then float16 [elements/32]: value = code · scale of its 32
struct cache_q8 {
    int8_t* codes;
    int64_t elements; // rather than a second pointer: keys and values have it in common, which saves registers

    __device__ __forceinline__ cache_q8(uint8_t* p, int64_t elements_) : codes((int8_t*)p), elements(elements_) {}
    __device__ __forceinline__ uint16_t* scale_of(int64_t e) const { return (uint16_t*)(codes + elements) + e / 32; }
    __device__ __forceinline__ void load8(int64_t e, float* f) const {
        uint2 v = *(const uint2*)(codes + e);
        float scale = half_to_float(*scale_of(e));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            f[i] = scale * (float)(int8_t)(v.x >> (8 * i));
            f[4 + i] = scale * (float)(int8_t)(v.y >> (8 * i));
        }
    }
    __device__ __forceinline__ float keep(int64_t e, float v, bool inside, bool write) const {
        float largest = warp_max_magnitude(inside ? v : 0);
        uint16_t h = float_to_half(largest / 127 + (largest - largest)); // NaN for what is not finite
        float scale = half_to_float(h), q = scale > 0 ? rintf(v / scale) : 0;
        q = fminf(fmaxf(q, -127.0f), 127.0f);
        if (inside && write) {
            codes[e] = (int8_t)q;
            if (threadIdx.x % WARP == 0) *scale_of(e) = h;
        }
        return scale * q;
    }
};
