// Rounds the input vectors of a product to half precision, in the orders in which the products read it.
#include "prepared.cuh"

// grid: vectors, block 256 threads
// x      [vectors][cols]
// steps, steps_per_tile, tiles   of the matrices that will be multiplied
// stride bytes from one prepared vector to the next, a multiple of 16
// xp     prepared vectors, 16-byte aligned, 64 + 144·steps + 512·tiles·⌈steps_per_tile/4⌉ bytes each (layout: prepared.cuh)
extern "C" __global__ void __launch_bounds__(256) x_prepare(const float* x, int32_t cols, int32_t steps, int32_t steps_per_tile, int32_t tiles, int64_t stride, uint8_t* xp) {
    SHARED_ARRAY(float, scratch, 8);
    float largest = 0, sum = 0;
    x += (int64_t)blockIdx.x * cols;
    xp += blockIdx.x * stride;
    for (int32_t i = threadIdx.x; i < cols; i += 256) largest = fmaxf(largest, fabsf(x[i]));
    largest = block_reduce_256<true>(largest, scratch);
    __syncthreads();
    // The unit is the power of two that brings the largest value into [2, 4).
    uint32_t exponent = __float_as_uint(largest) >> 23; // 0 (zero or subnormal) … 255
    exponent = exponent < 2 ? 1 : exponent - 1;
    float unit = __uint_as_float(exponent << 23);
    // 1 / unit in two factors, since it may exceed the range.
    uint32_t inverse = 254 - exponent, half_of_it = inverse / 2 + 63;
    float first = __uint_as_float(half_of_it << 23), second = __uint_as_float((inverse - half_of_it + 127) << 23);

    uint32_t* natural = (uint32_t*)prepared_natural(xp);
    float* sums = (float*)prepared_sums(xp, steps);
    uint32_t* stepped = (uint32_t*)prepared_stepped(xp, steps);
    for (int32_t pair = threadIdx.x; pair < steps * 32; pair += 256) {
        float a = 2 * pair < cols ? x[2 * pair] * first * second : 0;
        float b = 2 * pair + 1 < cols ? x[2 * pair + 1] * first * second : 0;
        uint32_t h = half2_pack(a, b);
        float sum_16 = half2_sum(h);
        sum += sum_16;
        natural[pair] = h;
#pragma unroll
        for (int bit = 4; bit; bit >>= 1) sum_16 += __shfl_xor_sync(ALL_LANES, sum_16, bit);
        if (pair % 8 == 0) sums[pair / 8] = sum_16;
    }
    sum = block_reduce_256<false>(sum, scratch);
    // The barrier of the reduction makes all of `natural` visible.
    int32_t quads = (steps_per_tile + 3) / 4;
    for (int32_t i = threadIdx.x; i < tiles * quads * 128; i += 256) {
        int32_t in_tile = i / 128 % quads * 4 + i % 4, step = i / 128 / quads * steps_per_tile + in_tile, lane = i / 4 % 32;
        stepped[i] = in_tile < steps_per_tile && step < steps ? natural[step * 32 + lane] : 0;
    }
    if (threadIdx.x == 0) {
        ((float*)xp)[0] = unit;
        ((float*)xp)[1] = unit * sum;
    }
}

// y[token][c] = x[token][c] · col_scale[c].   grid (⌈cols/256⌉, tokens), block 256.   x, y [tokens][cols]; may be the same
extern "C" __global__ void __launch_bounds__(256) mul_cols(const float* x, const float* col_scale, int32_t cols, float* y) {
    int32_t c = blockIdx.x * 256 + threadIdx.x;
    int64_t i = (int64_t)blockIdx.y * cols + c;
    if (c < cols) y[i] = x[i] * col_scale[c];
}
