// Expands the two-level block scales of the file to one half per block, and one for its minimum, at load.
#include "common.cuh"

// Value i of a packed array of `bits`-bit values, LSB first.
__device__ __forceinline__ uint32_t packed_value(const uint32_t* words, int64_t i, int32_t bits) {
    int64_t at = i * bits;
    uint32_t shift = (uint32_t)at & 31, lo = words[at >> 5], hi = shift + bits > 32 ? words[(at >> 5) + 1] : 0;
    return __funnelshift_r(lo, hi, shift) & ((1u << bits) - 1);
}

// grid ⌈4·⌈rows/4⌉·stride / 256⌉ or fewer, block 256.
// d        float16 [rows][blocks/per_super]
// d_min    float16, likewise; 0 = no minimum
// sub      [rows·blocks] values of sub_bits bits, packed LSB first; 0 = all 1. 4-byte aligned, readable up to a multiple of 4
//          bytes
// sub_min  likewise, without bias; 0 = all 1
// per_super  blocks per super-block
// sub_bits   1 … 8 (8: sub is a signed byte); sub_bias is added to the values of sub
// inv_unit, inv_min_unit   1 / block_unit and 1 / min_unit of the matrix: powers of two so that scaled values stay within ±1
// stride   ≥ blocks
// out      float16 [⌈rows/4⌉][stride][4 rows]; zeros beyond rows and blocks
// out_min  likewise, if d_min is given
extern "C" __global__ void __launch_bounds__(256) block_scales(const uint16_t* d, const uint16_t* d_min, const uint32_t* sub,
    const uint32_t* sub_min,
    int32_t rows, int32_t blocks, int32_t stride, int32_t per_super, int32_t sub_bits, int32_t sub_bias, float inv_unit,
        float inv_min_unit, uint16_t* out, uint16_t* out_min) {
    int64_t n = (int64_t)((rows + 3) / 4) * stride * 4;
    for (int64_t k = (int64_t)blockIdx.x * 256 + threadIdx.x; k < n; k += (int64_t)gridDim.x * 256) {
        int32_t block = (int32_t)(k / 4 % stride);
        // blocks is a multiple of per_super
        int64_t row = k / 4 / stride * 4 + k % 4, i = row * blocks + block, super = i / per_super;
        float s = 1, m = 1;
        if (row >= rows || block >= blocks) {
            out[k] = 0;
            if (d_min) out_min[k] = 0;
            continue;
        }
        if (sub) {
            uint32_t v = packed_value(sub, i, sub_bits);
            s = (float)((sub_bits == 8 ? (int32_t)(int8_t)v : (int32_t)v) + sub_bias);
        }
        out[k] = float_to_half(half_to_float(d[super]) * s * inv_unit);
        if (!d_min) continue;
        if (sub_min) m = (float)packed_value(sub_min, i, sub_bits);
        out_min[k] = float_to_half(half_to_float(d_min[super]) * m * inv_min_unit);
    }
}
