// Instructions that CUDA C++ has no short name for. All inline assembly of the project is here; the #else branch is what it
// means. A "half2" is a uint32_t holding two float16 numbers, the first in the low 16 bits.
#pragma once
#include <stdint.h>

#ifdef __CUDACC__

// (a & mask) | bits in one instruction.
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) {
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
    return r;
}
// a·b + c in both halves, rounded once.
__device__ __forceinline__ uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}
__device__ __forceinline__ float half_to_float(uint16_t h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
__device__ __forceinline__ uint16_t float_to_half(float f) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
// The sum of both halves, rounded to half precision, then widened.
__device__ __forceinline__ float half2_total(uint32_t h) {
    float f;
    asm("{ .reg .f16 a, b; mov.b32 {a, b}, %1; add.f16 a, a, b; cvt.f32.f16 %0, a; }" : "=f"(f) : "r"(h));
    return f;
}
// A half2 of one half, twice.
__device__ __forceinline__ uint32_t half2_same(uint16_t h) {
    uint32_t r;
    asm("mov.b32 %0, {%1, %1};" : "=r"(r) : "h"(h));
    return r;
}
// If pos, which was `before`, has passed a multiple of 32: moves a window of three words on by one. `next` is the address of the
// read-only word after the third; it moves on by 32 words without a carry into its upper half. The third is loaded in any case:
// that is an instruction less than asking whether.
__device__ __forceinline__ void next_word(uint32_t& lo, uint32_t& hi, uint32_t& ahead, uint32_t pos, uint32_t before,
    uint64_t& next) {
    asm("{ .reg .pred p; .reg .b32 t, l, h;\n\t"
        "lop3.b32 t, %4, %5, 32, 0x28; setp.ne.u32 p, t, 0;\n\t"
        "selp.b32 %0, %1, %0, p;\n\t"
        "selp.b32 %1, %2, %1, p;\n\t"
        "shl.b32 t, t, 2;\n\t"
        "mov.b64 {l, h}, %3; add.u32 l, l, t; mov.b64 %3, {l, h};\n\t"
        "ld.global.nc.u32 %2, [%3 + -128]; }"
        : "+r"(lo), "+r"(hi), "+r"(ahead), "+l"(next) : "r"(pos), "r"(before));
}

#if __CUDA_ARCH__ >= 750
#define HAS_MMA
// c += A·B on tensor cores, for 16 rows × 16 columns of A and 16 × 8 of B, float16 with float32 sums. Lane 4·g + t has of A rows
// g (a0, a2) and g + 8 (a1, a3), columns 2t, 2t + 1 (a0, a1) and 2t + 8, 2t + 9 (a2, a3); of B the same 2 + 2 rows (b0, b1) of
// column g; of c columns 2t and 2t + 1 of rows g (0, 1) and g + 8 (2, 3). Collective over the warp.
__device__ __forceinline__ void mma_16x8x16(float* c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
    uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a2), "r"(a3), "r"(b1));
#endif
}
#endif

#if __CUDA_ARCH__ >= 750
// Four matrices of 8 × 8 halves from shared memory, transposed. Lane i names row i % 8 of matrix i / 8, 16 bytes, aligned; it
// gets of each matrix rows 2·(i % 4) and 2·(i % 4) + 1 of column i / 4. Collective over the warp.
__device__ __forceinline__ void load_transposed(const void* row, uint32_t* v) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"((uint32_t)__cvta_generic_to_shared(row)) : "memory");
}
#endif

#if __CUDA_ARCH__ >= 800
#define HAS_ASYNC
// Copies 16 bytes, aligned, from device to shared memory while the thread goes on. A thread's copies since its last commit are a
// group; after copy_wait<N> at most the N newest groups of the thread are still on their way. Other threads see what has arrived
// after a barrier that follows the wait.
__device__ __forceinline__ void copy_async_16(void* to, const void* from) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" : : "r"(at), "l"(from) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" : : : "memory"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory"); }
#endif

#else

#define HAS_MMA
#define HAS_ASYNC
inline void load_transposed(const void* row, uint32_t* v) { emu::load_transposed(row, v); }
inline void copy_async_16(void* to, const void* from) { emu::async_copy_16(to, from); }
inline void copy_commit() { emu::async_commit(); }
template <int N> inline void copy_wait() { emu::async_wait(N); }
inline void mma_16x8x16(float* c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    uint32_t a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    emu::mma_16x8x16(c, a, b);
}
inline uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) { return (a & mask) | bits; }
inline uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) {
    return emu::half_fma((uint16_t)a, (uint16_t)b, (uint16_t)c) | (uint32_t)emu::half_fma(a >> 16, b >> 16, c >> 16) << 16;
}
inline void next_word(uint32_t& lo, uint32_t& hi, uint32_t& ahead, uint32_t pos, uint32_t before, uint64_t& next) {
    if (!((pos ^ before) & 32)) return;
    lo = hi;
    hi = ahead;
    ahead = __ldg((const uint32_t*)(uintptr_t)next);
    next = (next & ~0xffffffffull) | (uint32_t)(next + 128);
}
inline float half_to_float(uint16_t h) { return emu::half_to_float(h); }
inline uint16_t float_to_half(float f) { return emu::double_to_half(f); }
inline float half2_total(uint32_t h) { return half_to_float(emu::half_fma((uint16_t)h, 0x3c00, h >> 16)); }
inline uint32_t half2_same(uint16_t h) { return h | (uint32_t)h << 16; }

#endif

// a·b and a + b in both halves.
__device__ __forceinline__ uint32_t half2_mul(uint32_t a, uint32_t b) { return half2_fma(a, b, 0x80008000u); }
__device__ __forceinline__ uint32_t half2_add(uint32_t a, uint32_t b) { return half2_fma(a, 0x3c003c00u, b); }
__device__ __forceinline__ uint32_t half2_pack(float lo,
    float hi) { return float_to_half(lo) | (uint32_t)float_to_half(hi) << 16; }
// The exact sum of both halves in float32, at twice the conversions.
__device__ __forceinline__ float half2_sum(uint32_t h) { return half_to_float((uint16_t)h) + half_to_float((uint16_t)(h >> 16)); }
