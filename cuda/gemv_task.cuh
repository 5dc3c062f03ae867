// What the products of few vectors share: which matrix and which vectors a block works on, and where its results go.
#pragma once
#include "prepare.cuh"

// All gemv_* kernels: grid (Σ blocks of the tasks, ⌈n_tokens / T⌉), block 256 threads. A block multiplies T vectors: one, or
// where the kernel's name ends in _x2, _x4 or _x8, that many. It decodes its weights once for all T. A vector's result has the
// same bits for every T.
// tasks        in device memory
// x            [tokens][cols] inputs (already multiplied by the column scales, if there are any)
// side         the same inputs through x_prepare, side by side (prepared.cuh)
// first_token  row of y that the first token's result goes to
// n_tokens     1 … SLOTS
// after        what the launch's last block prepares for the next product; 0 = nothing

// A block's part of a launch: T vectors of some rows of a task. Values needed only after the loop are looked up again there, to
// save registers inside it.
template <int T> struct gemv_part {
    const gemv_task* tasks;
    const float* inputs;
    const uint8_t* side;
    int32_t first_token, n_tokens;

    __device__ __forceinline__ gemv_part(const gemv_task* tasks_, const float* x, const uint8_t* side_, int32_t first_token_,
        int32_t n_tokens_)
        : tasks(tasks_), inputs(x), side(side_), first_token(first_token_), n_tokens(n_tokens_) {}

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
    // Slot of vector t. Vectors after the last token are whatever was there; their results are not wanted.
    __device__ __forceinline__ int32_t slot(int32_t t) const { return (int32_t)blockIdx.y * T + t; }
    __device__ __forceinline__ bool wanted(int32_t t) const { return T == 1 || slot(t) < n_tokens; }
    __device__ __forceinline__ const float* x(const matrix* w, int32_t t) const { return inputs + (int64_t)slot(t) * w->cols; }

    // Writes the result of a stored row of w, the task's matrix, with vector t, which is wanted.
    __device__ __forceinline__ void write(const matrix* w, int32_t stored, int32_t t, float value) const {
        int32_t block, row = matrix_row(w, stored);
        const gemv_task* task = find(&block);
        float* y = task->y + (int64_t)(first_token + slot(t)) * w->rows + row;
        if (task->bias) value += task->bias[row];
        *y = task->accumulate ? *y + value : value;
    }
};

// GEMV_KERNEL(blocks, name, N, f): kernel `name` that calls f(part) with T = N vectors, at least `blocks` blocks of which share a
// multiprocessor of 64 K registers.
#define GEMV_KERNEL(blocks, name, N, ...) \
    extern "C" __global__ void __launch_bounds__(256, blocks) name(const gemv_task* tasks, const float* x, const uint8_t* side, \
        int32_t first_token, int32_t n_tokens, const prepare_task* after) { \
        enum { T = N }; \
        __VA_ARGS__(gemv_part<T>(tasks, x, side, first_token, n_tokens)); \
        prepare_after(after, first_token, n_tokens); \
    }
// GEMV_KERNELS_2(blocks, name, f): the kernels name and name_x2. GEMV_KERNELS_4: name_x4, too; GEMV_KERNELS_8: and name_x8.
#define GEMV_KERNELS_2(blocks, name, ...) \
    GEMV_KERNEL(blocks, name, 1, __VA_ARGS__) \
    GEMV_KERNEL(2, name##_x2, 2, __VA_ARGS__)
#define GEMV_KERNELS_4(blocks, name, ...) \
    GEMV_KERNELS_2(blocks, name, __VA_ARGS__) \
    GEMV_KERNEL(2, name##_x4, 4, __VA_ARGS__)
#define GEMV_KERNELS_8(blocks, name, ...) \
    GEMV_KERNELS_4(blocks, name, __VA_ARGS__) \
    GEMV_KERNEL(2, name##_x8, 8, __VA_ARGS__)
