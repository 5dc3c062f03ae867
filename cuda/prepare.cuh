// The work of x_prepare, also as the end of another kernel: the last block that finishes a product prepares the next one's input.
#pragma once
#include "prepared.cuh"
#include "tasks.cuh"

// The unit of a prepared vector: the power of two that brings the largest value into [2, 4). Its inverse comes in two factors, since it
// may exceed the range.
struct vector_unit {
    float unit, first, second;

    __device__ __forceinline__ explicit vector_unit(float largest) {
        uint32_t exponent = __float_as_uint(largest) >> 23; // 0 (zero or subnormal) … 255
        exponent = exponent < 2 ? 1 : exponent - 1;
        uint32_t inverse = 254 - exponent, half_of_it = inverse / 2 + 63;
        unit = __uint_as_float(exponent << 23);
        first = __uint_as_float(half_of_it << 23);
        second = __uint_as_float((inverse - half_of_it + 127) << 23);
    }
};

// Writes v to y and returns its largest magnitude. Collective over a block of 256 threads.
__device__ __forceinline__ float transform_vector(const prepare_task* p, int32_t token, float* scratch) {
    int32_t cols = p->cols;
    const float *x = p->x + (int64_t)token * cols, *up = p->up ? p->up + (int64_t)token * cols : 0, *norm = p->norm, *col_scale = p->col_scale;
    float* y = p->y ? p->y + (int64_t)token * cols : 0;
    float factor = 1, largest = 0;
    if (norm) {
        float sum = 0;
        for (int32_t i = threadIdx.x; i < cols; i += 256) sum = fmaf(x[i], x[i], sum);
        sum = block_reduce_256<false>(sum, scratch);
        factor = 1.0f / sqrtf(sum / cols + p->eps);
        __syncthreads();
    }
    for (int32_t i = threadIdx.x; i < cols; i += 256) {
        float v = x[i];
        if (norm) v = v * factor * norm[i];
        if (up) v = v / (1.0f + __expf(-v)) * up[i];
        if (col_scale) v *= col_scale[i];
        if (y) y[i] = v;
        largest = fmaxf(largest, fabsf(v));
    }
    largest = block_reduce_256<true>(largest, scratch); // its barrier makes y visible to the block
    __syncthreads();
    return largest;
}

// Rounds v of a token to the prepared vector number `slot`. Collective over a block of 256 threads.
__device__ __forceinline__ void round_vector(const prepare_task* p, int32_t token, int32_t slot, float largest, float* scratch) {
    if (!p->xp) return;
    int32_t cols = p->cols, steps = p->steps, per_tile = p->steps_per_tile, tiles = p->tiles;
    const float* v = (p->y ? p->y : p->x) + (int64_t)token * cols;
    uint8_t* xp = p->xp + slot * p->xp_stride;
    vector_unit u(largest);
    uint32_t* pieces = (uint32_t*)prepared_piece(xp, 0);
    float* sums = (float*)prepared_sums(xp, steps);
    uint32_t* stepped = (uint32_t*)prepared_stepped(xp, steps);
    float sum = 0;
    for (int32_t pair = threadIdx.x; pair < steps * 32; pair += 256) {
        float a = 2 * pair < cols ? v[2 * pair] * u.first * u.second : 0;
        float b = 2 * pair + 1 < cols ? v[2 * pair + 1] * u.first * u.second : 0;
        uint32_t h = half2_pack(a, b);
        float sum_16 = half2_sum(h);
        sum += sum_16;
        pieces[prepared_pair(pair)] = h;
#pragma unroll
        for (int bit = 4; bit; bit >>= 1) sum_16 += __shfl_xor_sync(ALL_LANES, sum_16, bit);
        if (pair % 8 == 0) sums[pair / 8] = sum_16;
    }
    sum = block_reduce_256<false>(sum, scratch);
    // The barrier of the reduction makes all of `pieces` visible.
    int32_t quads = (per_tile + 3) / 4;
    for (int32_t i = threadIdx.x; i < tiles * quads * 128; i += 256) {
        int32_t in_tile = i / 128 % quads * 4 + i % 4, step = i / 128 / quads * per_tile + in_tile, lane = i / 4 % 32;
        stepped[i] = in_tile < per_tile && step < steps ? pieces[prepared_pair(step * 32 + lane)] : 0;
    }
    if (threadIdx.x == 0) {
        ((float*)xp)[0] = u.unit;
        ((float*)xp)[1] = u.unit * sum;
    }
    __syncthreads();
}

// The vectors of some tokens, by one block. scratch: 8 floats of shared memory.
__device__ __forceinline__ void prepare_vectors(const prepare_task* p, int32_t first_token, int32_t tokens, float* scratch) {
    for (int32_t t = 0; t < tokens; t++) round_vector(p, first_token + t, t, transform_vector(p, first_token + t, scratch), scratch);
}

// True in the block that arrives last of `blocks`, which then sees what the others wrote, and counts from 0 again. Collective over the block.
__device__ __forceinline__ bool last_block(uint32_t* done, uint32_t blocks) {
    SHARED_ARRAY(uint32_t, before, 1);
    __threadfence(); // what this thread wrote is seen before the block counts as done
    __syncthreads();
    if (threadIdx.x == 0) {
        before[0] = atomicAdd(done, 1u);
        if (before[0] == blocks - 1) *done = 0;
    }
    __syncthreads();
    if (before[0] != blocks - 1) return false;
    __threadfence();
    return true;
}

// The end of a kernel behind which p (0 = none) is to run: grid (any, tokens), blocks of 256 threads.
__device__ __forceinline__ void prepare_after(const prepare_task* p, int32_t first_token) {
    if (!p || !last_block(p->done, gridDim.x * gridDim.y)) return;
    SHARED_ARRAY(float, scratch, 8);
    prepare_vectors(p, first_token, gridDim.y, scratch);
}
