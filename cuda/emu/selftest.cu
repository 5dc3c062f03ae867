// Kernels of the emulator's own test: each shows one primitive, or breaks one rule.
#include "common.cuh"
#include "bugs.cu"

// ---- what must work; out [threads] ----
extern "C" __global__ void __launch_bounds__(64) t_index(uint32_t* out) {
    uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    uint32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    uint32_t i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    out[i] = i + 1000 * threadIdx.y + 100000 * blockIdx.z;
}
extern "C" __global__ void __launch_bounds__(32) t_arguments(uint32_t* out, int32_t a, int64_t b, float c, uint8_t d) {
    out[0] = a == -5 && b == -(1ll << 40) && c == 0.25f && d == 200; }

extern "C" __global__ void __launch_bounds__(64) t_shuffle(uint32_t* out) {
    int i = threadIdx.x;
    uint32_t v = i * i;
    out[i] = __shfl_sync(ALL_LANES, v, 5);
    out[64 + i] = __shfl_sync(ALL_LANES, v, i + 1, 8);
    out[128 + i] = __shfl_xor_sync(ALL_LANES, v, 16);
    out[192 + i] = __shfl_up_sync(ALL_LANES, v, 3);
    out[256 + i] = __shfl_down_sync(ALL_LANES, v, 3, 16);
    out[320 + i] = (uint32_t)(10 * __shfl_xor_sync(ALL_LANES, 0.5f * i, 1));
    // Each half of the warp on its own.
    out[384 + i] = i % 32 < 16 ? __shfl_sync(0xffffu, v, 3) : __shfl_sync(0xffff0000u, v, 30);
}
extern "C" __global__ void __launch_bounds__(64) t_vote(uint32_t* out) {
    int i = threadIdx.x;
    out[i] = __ballot_sync(ALL_LANES, i % 3 == 0);
    out[64 + i] = (uint32_t)(__all_sync(ALL_LANES, i < 32) | __any_sync(ALL_LANES, i == 40) << 1);
}
// The block's sum through shared memory, barriers and both kinds of arrays.
extern "C" __global__ void __launch_bounds__(256) t_shared(uint32_t* out) {
    SHARED_DYNAMIC(uint32_t, dynamic);
    SHARED_ARRAY(uint32_t, fixed, 256);
    SHARED_ARRAY(uint64_t, wide, 2);
    uint32_t i = threadIdx.x;
    dynamic[i] = i;
    __syncthreads();
    fixed[255 - i] = dynamic[i] + 1;
    __syncthreads();
    for (uint32_t n = 128; n; n /= 2) {
        if (i < n) fixed[i] += fixed[i + n];
        __syncthreads();
    }
    if (i == 0) wide[1] = fixed[0];
    __syncthreads();
    out[blockIdx.x * 256 + i] = (uint32_t)wide[1] + blockIdx.x;
}
extern "C" __global__ void __launch_bounds__(32) t_syncwarp(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 32);
    for (int turn = 0; turn < 3; turn++) {
        s[threadIdx.x] = threadIdx.x + turn;
        __syncwarp();
        out[threadIdx.x] = s[threadIdx.x ^ 1];
        __syncwarp();
    }
}
extern "C" __global__ void __launch_bounds__(64) t_atomic(uint32_t* count, float* sum) {
    atomicAdd(count, 1u);
    atomicAdd(sum, 0.5f);
}
extern "C" __global__ void __launch_bounds__(32) t_bits(uint32_t* out) {
    out[0] = __funnelshift_r(0x89abcdefu, 0x01234567u, 36);
    out[1] = __funnelshift_l(0x89abcdefu, 0x01234567u, 4);
    out[2] = __byte_perm(0x33221180u, 0x77665544u, 0x7408);
    out[3] = (uint32_t)(__popc(0xf0f0u) + 100 * __clz(1) + 10000 * __ffs(8));
    out[4] = and_or(0xffu, 0x0fu, 0x100u);
    out[5] = __funnelshift_r(0xdeadbeefu, 1, 32);
}
extern "C" __global__ void __launch_bounds__(32) t_half(const uint32_t* in, uint32_t* out) { // in, out: [n][3], [n]
    int i = blockIdx.x * 32 + threadIdx.x;
    out[i] = half2_fma(in[3 * i], in[3 * i + 1], in[3 * i + 2]);
}
// Two warps, each its own product. a: halves [2][16 rows][16], b: [2][16][8], c: float [2][16][8], as PTX distributes them over
// lanes.
extern "C" __global__ void __launch_bounds__(64) t_mma(const uint16_t* a, const uint16_t* b, float* c) {
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    a += warp * 256;
    b += warp * 128;
    c += warp * 128;
    uint32_t av[4], bv[2];
    for (int i = 0; i < 4; i++) {
        const uint16_t* p = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
        av[i] = p[0] | (uint32_t)p[1] << 16;
    }
    for (int i = 0; i < 2; i++) bv[i] = b[(2 * t + 8 * i) * 8 + g] | (uint32_t)b[(2 * t + 8 * i + 1) * 8 + g] << 16;
    float cv[4];
    for (int i = 0; i < 4; i++) cv[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    mma_16x8x16(cv, av[0], av[1], av[2], av[3], bv[0], bv[1]);
    for (int i = 0; i < 4; i++) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = cv[i];
}
// next_word twice: not due, then due.
extern "C" __global__ void __launch_bounds__(32) t_next_word(const uint32_t* words, uint32_t* out) {
    uint32_t lo = 1, hi = 2, ahead = 3;
    uint64_t next = (uintptr_t)words;
    next_word(lo, hi, ahead, 31, 12, next);
    out[0] = lo == 1 && hi == 2 && ahead == 3 && next == (uintptr_t)words;
    next_word(lo, hi, ahead, 38, 31, next);
    out[1] = lo == 2 && hi == 3 && ahead == words[0] && next == (uintptr_t)(words + 32);
}

// ---- what must be refused ----
extern "C" __global__ void __launch_bounds__(64) f_read(const uint32_t* p, int64_t at, uint32_t* out) {
    out[threadIdx.x] = p[at + threadIdx.x]; }
extern "C" __global__ void __launch_bounds__(64) f_write(uint8_t* p, int64_t at) { p[at + threadIdx.x] = 1; }
extern "C" __global__ void __launch_bounds__(32) f_misaligned(uint8_t* p) { *(uint32_t*)(p + 2) = 1; }
extern "C" __global__ void __launch_bounds__(32) f_shared_bounds(int32_t at) {
    SHARED_DYNAMIC(uint32_t, s);
    s[at] = 1;
}
extern "C" __global__ void __launch_bounds__(32) f_shared_array(int32_t at) {
    SHARED_ARRAY(uint32_t, a, 8);
    SHARED_ARRAY(uint32_t, b, 8);
    if (threadIdx.x) return;
    a[at] = 1;
    b[0] = 1;
}
extern "C" __global__ void __launch_bounds__(64) f_race(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 64);
    s[threadIdx.x] = 0;
    __syncthreads();
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[63 - threadIdx.x]; // no barrier
}
extern "C" __global__ void __launch_bounds__(32) f_race_in_warp(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 32);
    s[threadIdx.x] = 0;
    __syncwarp();
    out[threadIdx.x] = s[(threadIdx.x + 1) % 32];
    s[threadIdx.x] = 1;
}
extern "C" __global__ void __launch_bounds__(32) f_race_of_writers() {
    SHARED_ARRAY(uint32_t, s, 1);
    s[0] = threadIdx.x;
}
extern "C" __global__ void __launch_bounds__(32) f_exited(uint32_t* out) {
    if (threadIdx.x == 7) return;
    out[threadIdx.x] = __shfl_xor_sync(ALL_LANES, threadIdx.x, 1);
}
extern "C" __global__ void __launch_bounds__(32) f_other_collective(uint32_t* out) {
    if (threadIdx.x < 16)
        out[threadIdx.x] = __ballot_sync(ALL_LANES, 1);
    else
        out[threadIdx.x] = __shfl_sync(ALL_LANES, threadIdx.x, 0);
}
extern "C" __global__ void __launch_bounds__(32) f_other_mask() {
    if (threadIdx.x < 16)
        __syncwarp(0xffffu);
    else
        __syncwarp();
}
extern "C" __global__ void __launch_bounds__(32) f_not_in_mask() { __syncwarp(2); }
extern "C" __global__ void __launch_bounds__(32) f_unnamed_source(uint32_t* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, threadIdx.x, 20);
}
extern "C" __global__ void __launch_bounds__(64) f_barrier() {
    if (threadIdx.x < 40) __syncthreads();
}
extern "C" __global__ void __launch_bounds__(64) f_barrier_and_warp() {
    if (threadIdx.x < 40)
        __syncthreads();
    else
        __syncwarp();
}
extern "C" __global__ void __launch_bounds__(8) f_missing_lanes() { __syncwarp(); }
