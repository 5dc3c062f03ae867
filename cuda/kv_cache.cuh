// Formats of the caches of keys and values, and the rotation of what goes into them.
#pragma once
#include "tasks.cuh"

// Element e = (position·n_kv_heads + head)·head_dim + dimension. `elements` is that of the whole cache.
// load8 reads elements e … e + 7, e a multiple of 8. keep stores one element per lane, 32 consecutive ones per warp (those with
// `inside`), and returns the value that load8 will read; collective over the warp. Nothing is written unless `write`.

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
        uint16_t h = float_to_half(v);
        if (inside && write) data[e] = h;
        return half_to_float(h);
    }
};

// int8 [elements], then float16 [elements/32]: value = code · scale of its 32
struct cache_q8 {
    int8_t* codes;
    uint16_t* scales;

    __device__ __forceinline__ cache_q8(uint8_t* p, int64_t elements) : codes((int8_t*)p), scales((uint16_t*)(p + elements)) {}
    __device__ __forceinline__ void load8(int64_t e, float* f) const {
        uint2 v = *(const uint2*)(codes + e);
        float scale = half_to_float(scales[e / 32]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            f[i] = scale * (float)(int8_t)(v.x >> (8 * i));
            f[4 + i] = scale * (float)(int8_t)(v.y >> (8 * i));
        }
    }
    __device__ __forceinline__ float keep(int64_t e, float v, bool inside, bool write) const {
        uint16_t h = float_to_half(warp_max(inside ? fabsf(v) : 0) / 127);
        float scale = half_to_float(h), q = scale > 0 ? rintf(v / scale) : 0;
        q = fminf(fmaxf(q, -127.0f), 127.0f);
        if (inside && write) {
            codes[e] = (int8_t)q;
            if (threadIdx.x % WARP == 0) scales[e / 32] = h;
        }
        return scale * q;
    }
};

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
    return d == first ? x[first] * cos_a - x[second] * sin_a : x[first] * sin_a + x[second] * cos_a;
}
