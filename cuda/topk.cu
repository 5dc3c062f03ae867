// The largest logits, so that sampling need not copy the whole vocabulary to the host.
#include "common.cuh"

// An entry and the order in which entries are returned.
struct ranked {
    float value;
    int32_t index;
};
__device__ __forceinline__ bool before(ranked a, ranked b) { return a.value > b.value || (a.value == b.value && a.index < b.index); }

// The first of the warp's entries, in every lane.
__device__ __forceinline__ ranked warp_first(ranked a) {
#pragma unroll
    for (int bit = 16; bit; bit >>= 1) {
        ranked b = {__shfl_xor_sync(ALL_LANES, a.value, bit), __shfl_xor_sync(ALL_LANES, a.index, bit)};
        if (before(b, a)) a = b;
    }
    return a;
}

// grid rows, block 256
// x       [rows][n], NaNs are ignored
// values  [rows][k] descending; equal values in ascending order of index
// index   [rows][k]; where n < k or only NaNs are left: −1, with value −infinity
// k       1 … n (1: argmax). Costs k passes over x
extern "C" __global__ void __launch_bounds__(256) topk(const float* x, int32_t n, int32_t k, float* values, int32_t* index) {
    SHARED_ARRAY(float, best_value, 8);
    SHARED_ARRAY(int32_t, best_index, 8);
    const float lowest = __uint_as_float(0xff800000u); // −infinity
    const ranked none = {lowest, 0x7fffffff};
    x += (int64_t)blockIdx.x * n;
    ranked last = {-lowest, -1}; // every pass takes the first entry that comes after the previous pass's
    for (int32_t j = 0; j < k; j++) {
        ranked best = none;
        for (int32_t i = threadIdx.x; i < n; i += 256) {
            ranked r = {x[i], i};
            if (before(last, r) && before(r, best)) best = r;
        }
        best = warp_first(best);
        if (threadIdx.x % WARP == 0) {
            best_value[threadIdx.x / WARP] = best.value;
            best_index[threadIdx.x / WARP] = best.index;
        }
        __syncthreads();
        for (int i = 0; i < 8; i++) {
            ranked r = {best_value[i], best_index[i]};
            if (before(r, best)) best = r;
        }
        __syncthreads();
        last = best;
        if (threadIdx.x == 0) {
            values[(int64_t)blockIdx.x * k + j] = best.value;
            index[(int64_t)blockIdx.x * k + j] = best.index == none.index ? -1 : best.index;
        }
    }
}
