// The work of x_prepare, also as the end of another kernel: the last block that finishes a product prepares the next one's input.
#pragma once
#include "glu.cuh"
#include "prepared.cuh"
#include "rms_norm.cuh"
#include "tasks.cuh"

// The unit of a prepared vector: the power of two that brings the largest value into [2, 4). Its inverse comes in two factors,
// since it may exceed the range.
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

// One block prepares a vector while all others wait, and its time is that of loads which depend on each other: a thread takes
// four columns at a time, and no pass reads what another thread has written.

// Writes v to y and returns its largest magnitude. Collective over a block of 256 threads.
__device__ __forceinline__ float transform_vector(const prepare_task* p, int32_t token, float* scratch) {
    int32_t cols = p->cols;
    const float *x = p->x + (int64_t)token * cols, *up = p->up ? p->up + (int64_t)token * cols : 0, *norm = p->norm,
        *col_scale = p->col_scale;
    float* y = p->y ? p->y + (int64_t)token * cols : 0;
    float factor = norm ? rms_factor(x, cols, p->eps, scratch) : 1, largest = 0;
#pragma unroll 1
    for (int32_t i = threadIdx.x; 4 * i < cols; i += 256) { // not unrolled: kernels that end with this have few registers left
        float v[4], f[4];
        load_four(x, i, cols, v);
        if (norm) {
            load_four(norm, i, cols, f);
#pragma unroll
            for (int k = 0; k < 4; k++) v[k] = v[k] * factor * f[k];
        }
        if (up) {
            load_four(up, i, cols, f);
#pragma unroll
            for (int k = 0; k < 4; k++) v[k] = activation(v[k], p->act_linear, p->act_cubic) * f[k];
        }
        if (col_scale) {
            load_four(col_scale, i, cols, f);
#pragma unroll
            for (int k = 0; k < 4; k++) v[k] *= f[k];
        }
        if (y) store_four(y, i, cols, v);
#pragma unroll
        for (int k = 0; k < 4; k++) largest = fmaxf(largest, fabsf(v[k]));
    }
    largest = block_reduce_256<true>(largest, scratch);
    __syncthreads();
    return largest;
}

// Where a vector side by side with others is written to.
struct side_writer {
    uint2* pieces;     // pairs of pairs
    float* sums;       // of 16 columns
    uint32_t* stepped; // from one group of four steps to the next: 4·STEPPED_PITCH
    int32_t steps, per_tile, quads;

    __device__ __forceinline__ side_writer(const prepare_task* p, int32_t slot) : steps(p->steps), per_tile(p->steps_per_tile),
        quads((p->steps_per_tile + 3) / 4) {
        pieces = (uint2*)(p->side + PREPARED_HEADER) + slot * (2 * BLOCK_UINT4);
        sums = (float*)side_sums(p->side, steps) + slot * 64;
        stepped = (uint32_t*)(side_tile(p->side, steps, per_tile, 0, slot) - threadIdx.x % WARP);
    }
    // Columns 4·i … 4·i + 3 and their sum. Collective over a warp, whose threads have neighbouring i; i < 16·steps if `inside`.
    __device__ __forceinline__ void write(int32_t i, bool inside, uint2 h, float sum) const {
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        if (!inside) return;
        pieces[side_pair(2 * i) / 2] = h;
        if (i % 4 == 0) sums[side_sum_at(i / 4)] = sum;
        int32_t step = i / 16, in_tile = step % per_tile;
        uint32_t* to = stepped + (step / per_tile * quads + in_tile / 4) * (4 * STEPPED_PITCH) + i % 16 * 8 + in_tile % 4;
        to[0] = h.x;
        to[4] = h.y;
    }
    // Steps that fill groups of four up are zero.
    __device__ __forceinline__ void fill(int32_t tiles) const {
        if (per_tile % 4 == 0 && tiles * per_tile == steps) return;
#pragma unroll 1
        for (int32_t i = threadIdx.x; i < tiles * quads * 128; i += 256) {
            int32_t in_tile = i / 128 % quads * 4 + i % 4, step = i / 128 / quads * per_tile + in_tile;
            if (in_tile >= per_tile || step >= steps) stepped[i / 128 * (4 * STEPPED_PITCH) + i % 128] = 0;
        }
    }
};

// Rounds v of a token to the prepared vector number `slot`: side by side, or for itself. Collective over a block of 256 threads.
__device__ __forceinline__ void round_vector(const prepare_task* p, int32_t token, int32_t slot, bool side, float largest,
    float* scratch) {
    uint8_t* to = side ? p->side : p->xp + slot * p->xp_stride;
    if (!to) return;
    int32_t cols = p->cols, fours = p->steps * 16, lane = threadIdx.x % WARP;
    const float* v = (p->y ? p->y : p->x) + (int64_t)token * cols;
    vector_unit u(largest);
    side_writer writer(p, slot);
    float sum = 0;
#pragma unroll 1
    for (int32_t i = threadIdx.x; i - lane < fours; i += 256) {
        float f[4];
        load_four(v, i, cols, f);
#pragma unroll
        for (int k = 0; k < 4; k++) f[k] = f[k] * u.first * u.second;
        uint2 h = uint2_of(half2_pack(f[0], f[1]), half2_pack(f[2], f[3]));
        float sum_4 = half2_sum(h.x) + half2_sum(h.y);
        sum += sum_4;
        if (side)
            writer.write(i, i < fours, h, sum_4);
        else if (i < fours)
            ((uint2*)(to + PREPARED_HEADER))[i] = h;
    }
    if (side) writer.fill(p->tiles);
    sum = block_reduce_256<false>(sum, scratch);
    if (threadIdx.x == 0) {
        float* header = (float*)to + (side ? 2 * slot : 0);
        header[0] = u.unit;
        header[1] = u.unit * sum;
    }
    __syncthreads();
}

// The vectors of up to SLOTS tokens side by side, by one block. scratch: 8 floats of shared memory. Not inlined, since all
// products call it at their end.
__device__ __noinline__ void prepare_vectors(const prepare_task* p, int32_t first_token, int32_t tokens, float* scratch) {
    for (int32_t t = 0; t < tokens; t++)
        round_vector(p, first_token + t, t, true, transform_vector(p, first_token + t, scratch), scratch);
}

// True in the block that arrives last of `blocks`, which then sees what the others wrote, and counts from 0 again. Collective
// over the block.
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

// Called at the end of a kernel: its last block runs p (0 = nothing) for up to SLOTS tokens. Grid (any, any), blocks of 256
// threads.
__device__ __forceinline__ void prepare_after(const prepare_task* p, int32_t first_token, int32_t n_tokens) {
    if (!p || !last_block(p->done, gridDim.x * gridDim.y)) return;
    SHARED_ARRAY(float, scratch, 8);
    prepare_vectors(p, first_token, n_tokens, scratch);
}
