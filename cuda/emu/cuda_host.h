// CUDA's vocabulary for the host compiler. It is included ahead of every kernel file when the emulator is built.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__
#define __launch_bounds__(...)
#define __restrict__

struct uint3 { uint32_t x, y, z; };
struct dim3 { uint32_t x, y, z; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

namespace emu {

enum Kind : uint32_t { NONE, SHUFFLE, BALLOT, SYNC_WARP, SYNC_THREADS };

// What a kernel sees of the thread it runs in.
struct Thread {
    uint3 thread_idx, block_idx;
    dim3 block_dim, grid_dim;
};
extern __thread Thread* self; // the running thread of this worker's block

// Waits until every lane in mask has arrived with the same kind and mask. SHUFFLE: returns lane `source`'s value,
// or value itself where source is outside 0 … 31. BALLOT: the lanes whose value is not 0.
uint32_t warp_collective(Kind kind, uint32_t mask, uint32_t value, int32_t source);
void block_barrier();
uint32_t lane_id();
void fence();
void atomic_begin(const void* p);
void atomic_end();
void read_only(const void* p, uint32_t size); // reads through the read-only cache
void* shared_dynamic();
void* shared_static(const void* site, uint32_t bytes);

// Tensor-core product of a warp, distributed over its lanes as PTX's mma.m16n8k16; a sum of 16 products is rounded once.
void mma_16x8x16(float* c, const uint32_t* a, const uint32_t* b);

// Four matrices of 8 × 8 halves of shared memory, transposed, as PTX's ldmatrix.x4.trans.
void load_transposed(const void* row, uint32_t* v);

// Copies of 16 bytes from device to shared memory beside the thread, in groups; async_wait waits until at most `most` of this
// thread's groups are on their way.
void async_copy_16(void* to, const void* from);
void async_commit();
void async_wait(uint32_t most);

// Half precision, round to nearest even, subnormals kept.
float half_to_float(uint16_t h);
uint16_t double_to_half(double d); // rounds once
uint16_t half_fma(uint16_t a, uint16_t b, uint16_t c);

} // namespace emu

#define threadIdx (emu::self->thread_idx)
#define blockIdx (emu::self->block_idx)
#define blockDim (emu::self->block_dim)
#define gridDim (emu::self->grid_dim)

inline void __syncthreads() { emu::block_barrier(); }
inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    emu::fence();
}
inline void __syncwarp(uint32_t mask = ~0u) { emu::warp_collective(emu::SYNC_WARP, mask, 0, 0); }
inline uint32_t __ballot_sync(uint32_t mask, int predicate) { return emu::warp_collective(emu::BALLOT, mask, predicate != 0, 0); }

inline int __all_sync(uint32_t mask, int predicate) { return emu::warp_collective(emu::BALLOT, mask, predicate != 0, 0) == mask; }
inline int __any_sync(uint32_t mask, int predicate) { return emu::warp_collective(emu::BALLOT, mask, predicate != 0, 0) != 0; }

template <class T> inline T emu_shuffle(uint32_t mask, T value, int32_t source) {
    static_assert(sizeof(T) == 4, "shuffles move 32 bits");
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = emu::warp_collective(emu::SHUFFLE, mask, bits, source);
    memcpy(&value, &bits, 4);
    return value;
}
// Lanes exchange within segments of `width` (a power of two) lanes.
template <class T> inline T __shfl_sync(uint32_t mask, T v, int source, int width = 32) {
    return emu_shuffle(mask, v, (int32_t)((emu::lane_id() & ~(width - 1)) | (source & (width - 1))));
}
template <class T> inline T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32) {
    uint32_t lane = emu::lane_id(), source = lane ^ (uint32_t)bits;
    return emu_shuffle(mask, v, (int32_t)(source / width > lane / width ? lane : source));
}
template <class T> inline T __shfl_down_sync(uint32_t mask, T v, unsigned delta, int width = 32) {
    uint32_t lane = emu::lane_id(), source = lane + delta;
    return emu_shuffle(mask, v, (int32_t)(source / width != lane / width ? lane : source));
}
template <class T> inline T __shfl_up_sync(uint32_t mask, T v, unsigned delta, int width = 32) {
    uint32_t lane = emu::lane_id();
    return emu_shuffle(mask, v, (int32_t)((lane & (width - 1)) < delta ? lane : lane - delta));
}

template <class T> inline T __ldg(const T* p) {
    emu::read_only(p, sizeof(T));
    return *p;
}

struct emu_atomic {
    explicit emu_atomic(const void* p) { emu::atomic_begin(p); }
    ~emu_atomic() { emu::atomic_end(); }
};
template <class T> inline T atomicAdd(T* p, T v);
template <> inline uint32_t atomicAdd(uint32_t* p, uint32_t v) {
    emu_atomic a(p);
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <> inline int32_t atomicAdd(int32_t* p, int32_t v) { return (int32_t)atomicAdd((uint32_t*)p, (uint32_t)v); }
template <> inline float atomicAdd(float* p, float v) {
    emu_atomic a(p);
    uint32_t* w = (uint32_t*)p;
    uint32_t old = __atomic_load_n(w, __ATOMIC_RELAXED), next;
    float f;
    do {
        memcpy(&f, &old, 4);
        float sum = f + v;
        memcpy(&next, &sum, 4);
    } while (!__atomic_compare_exchange_n(w, &old, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return f;
}

inline uint32_t __funnelshift_r(uint32_t lo, uint32_t hi, uint32_t n) {
    return (uint32_t)(((uint64_t)hi << 32 | lo) >> (n & 31));
}
inline uint32_t __funnelshift_l(uint32_t lo, uint32_t hi, uint32_t n) {
    return (uint32_t)(((uint64_t)hi << 32 | lo) << (n & 31) >> 32);
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t sel = s >> (4 * i), byte = (uint32_t)(bytes >> (8 * (sel & 7))) & 0xff;
        if (sel & 8) byte = byte & 0x80 ? 0xff : 0; // sign replication
        r |= byte << (8 * i);
    }
    return r;
}
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __clz(int32_t v) { return v ? __builtin_clz((uint32_t)v) : 32; }
inline int __ffs(int32_t v) { return __builtin_ffs(v); }
inline uint32_t __float_as_uint(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
inline float __uint_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
