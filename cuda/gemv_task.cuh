// What the products of single vectors share: which matrix and which vector a block works on, and where its results go.
#pragma once
#include "prepare.cuh"

// All gemv_* kernels: grid (Σ blocks of the tasks, tokens), block 256 threads.
// tasks        in device memory
// x            [tokens][cols] inputs (already multiplied by the column scales, if there are any)
// xp           [tokens] the same inputs through x_prepare, xp_stride bytes apart
// first_token  row of y that the first token's result goes to
// after        what the launch's last block prepares for the next product; 0 = nothing

// A block's part of a launch. Products hold many registers in their loops: what is needed only behind them is looked up there, again.
struct gemv_part {
    const gemv_task* tasks;
    const float* inputs;
    const uint8_t* vectors;
    int64_t stride;
    int32_t first_token;

    __device__ __forceinline__ gemv_part(const gemv_task* tasks_, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t first_token_)
        : tasks(tasks_), inputs(x), vectors(xp), stride(xp_stride), first_token(first_token_) {}

    // The task, and which of its blocks this one is.
    __device__ __forceinline__ const gemv_task* find(int32_t* block) const {
        const gemv_task* t = tasks;
        *block = blockIdx.x;
        for (; *block >= t->blocks; t++) *block -= t->blocks;
        return t;
    }
    __device__ __forceinline__ const matrix* w() const {
        int32_t block;
        return find(&block)->w;
    }
    __device__ __forceinline__ const float* x(const matrix* w) const { return inputs + (int64_t)blockIdx.y * w->cols; }
    __device__ __forceinline__ const uint8_t* xp() const { return vectors + blockIdx.y * stride; }

    // Writes the result of a stored row of w, the task's matrix.
    __device__ __forceinline__ void write(const matrix* w, int32_t stored, float value) const {
        int32_t block, row = matrix_row(w, stored);
        const gemv_task* t = find(&block);
        float* y = t->y + (int64_t)(first_token + (int32_t)blockIdx.y) * w->rows + row;
        if (t->bias) value += t->bias[row];
        *y = t->accumulate ? *y + value : value;
    }
};
