// Deliberate bugs, and legal things that look like one. bugs.cpp says which of them the emulator must report.
#include "common.cuh"

// ---- shared memory ----
extern "C" __global__ void __launch_bounds__(64) bug_no_barrier(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 64);
    s[threadIdx.x] = 0;
    __syncthreads();
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[63 - threadIdx.x];
}
// As bug_no_barrier, but the reading warp comes first.
extern "C" __global__ void __launch_bounds__(64) bug_reader_first(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 64);
    s[threadIdx.x] = 0;
    __syncthreads();
    if (threadIdx.x < 32)
        out[threadIdx.x] = s[threadIdx.x + 32];
    else
        s[threadIdx.x] = 7;
}
extern "C" __global__ void __launch_bounds__(32) bug_no_syncwarp(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 32);
    s[threadIdx.x] = 0;
    __syncthreads();
    s[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = s[threadIdx.x ^ 1];
}
// A shuffle between write and read orders no memory.
extern "C" __global__ void __launch_bounds__(32) bug_shuffle_as_fence(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 32);
    s[threadIdx.x] = 0;
    __syncthreads();
    s[threadIdx.x] = threadIdx.x;
    uint32_t v = __shfl_xor_sync(ALL_LANES, threadIdx.x, 1);
    out[threadIdx.x] = s[threadIdx.x ^ 1] + v;
}
extern "C" __global__ void __launch_bounds__(64) bug_same_value_writes(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 1);
    s[0] = 5;
    __syncthreads();
    out[threadIdx.x] = s[0];
}
// Neighbouring bytes of one word: legal on hardware, but too slow to be wanted.
extern "C" __global__ void __launch_bounds__(64) legal_neighbouring_bytes(uint32_t* out) {
    SHARED_ARRAY(uint8_t, s, 64);
    s[threadIdx.x] = (uint8_t)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
}
// A word is read by warp 0, then by warp 1, then written by warp 2: the second reader must not hide the first.
extern "C" __global__ void __launch_bounds__(96) bug_second_reader(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 1);
    if (threadIdx.x == 0) s[0] = 1;
    __syncthreads();
    if (threadIdx.x == 0) out[0] = s[0];
    if (threadIdx.x == 32) out[1] = s[0];
    if (threadIdx.x == 64) s[0] = 2;
}

// ---- unwritten memory ----
extern "C" __global__ void __launch_bounds__(32) bug_unwritten_shared(uint32_t* out) {
    SHARED_ARRAY(uint32_t, s, 32);
    out[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(32) bug_unwritten_dynamic(uint32_t* out) {
    SHARED_DYNAMIC(uint32_t, s);
    if (threadIdx.x < 31) s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(32) bug_unwritten_byte(uint32_t* out) {
    SHARED_DYNAMIC(uint8_t, s);
    if (threadIdx.x == 0) s[0] = s[1] = s[3] = 1;
    __syncwarp();
    out[threadIdx.x] = s[2];
}
extern "C" __global__ void __launch_bounds__(32) bug_unwritten_local(uint32_t* out) {
    uint32_t v[4];
    if (threadIdx.x > 40) v[2] = 1;
    out[threadIdx.x] = v[(threadIdx.x & 1) + 2];
}
extern "C" __global__ void __launch_bounds__(32) bug_unwritten_global(uint32_t* fresh, uint32_t* out) {
    out[threadIdx.x] = fresh[threadIdx.x];
}

// ---- alignment: the host's compiler may split a load, or load only the part that is used ----
extern "C" __global__ void __launch_bounds__(32) bug_misaligned_part(const uint8_t* p, uint32_t* out) {
    out[threadIdx.x] = ((const uint4*)(p + 4))[threadIdx.x].x;
}
extern "C" __global__ void __launch_bounds__(32) bug_misaligned_whole(const uint8_t* p, uint4* out) {
    out[threadIdx.x] = ((const uint4*)(p + 8))[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(32) bug_misaligned_8_bytes(const uint8_t* p, uint2* out) {
    out[threadIdx.x] = ((const uint2*)(p + 4))[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(32) bug_misaligned_shared(uint4* out) {
    SHARED_DYNAMIC(uint32_t, s);
    for (uint32_t i = threadIdx.x; i < 160; i += 32) s[i] = 1;
    __syncthreads();
    out[threadIdx.x] = *(const uint4*)(s + 1 + 4 * threadIdx.x);
}
extern "C" __global__ void __launch_bounds__(32) bug_misaligned_ldg(const uint8_t* p, uint32_t* out) {
    uint4 v = __ldg((const uint4*)(p + 4));
    out[threadIdx.x] = v.x + v.y + v.z + v.w;
}

// ---- bounds ----
extern "C" __global__ void __launch_bounds__(32) bug_past_the_end(const uint32_t* p, uint32_t* out, int64_t at) {
    out[threadIdx.x] = p[at]; }
extern "C" __global__ void __launch_bounds__(32) bug_other_allocation(const uint32_t* p, uint32_t* out, int64_t at) {
    out[threadIdx.x] = p[at]; }
extern "C" __global__ void __launch_bounds__(32) bug_local_index(uint32_t* out, int32_t at) {
    uint32_t v[8];
    for (int i = 0; i < 8; i++) v[i] = i + blockDim.x;
    out[threadIdx.x] = v[at];
}
extern "C" __global__ void __launch_bounds__(64) bug_other_shared_array(uint32_t* out, int32_t at) {
    SHARED_ARRAY(uint32_t, a, 64);
    SHARED_ARRAY(uint32_t, b, 64);
    b[threadIdx.x] = 3;
    a[threadIdx.x] = 4;
    __syncthreads();
    out[threadIdx.x] = a[at];
}

// ---- device memory ----
extern "C" __global__ void __launch_bounds__(32) bug_block_reads_block(uint32_t* buf, uint32_t* out) {
    if (blockIdx.x == 1)
        buf[threadIdx.x] = 7;
    else
        out[threadIdx.x] = buf[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(32) bug_blocks_write(uint32_t* buf) { buf[threadIdx.x] = blockIdx.x; }

// The block that arrives last adds what all have written. before: the first fence is there; after: the second.
__device__ __forceinline__ void sum_by_last_block(uint32_t* buf, uint32_t* done, uint32_t* out, bool before, bool after) {
    SHARED_ARRAY(uint32_t, arrived, 1);
    buf[blockIdx.x * 32 + threadIdx.x] = 1;
    if (before) __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) arrived[0] = atomicAdd(done, 1u);
    __syncthreads();
    if (arrived[0] != gridDim.x - 1) return;
    if (after) __threadfence();
    uint32_t s = 0;
    for (uint32_t b = 0; b < gridDim.x; b++) s += buf[b * 32 + threadIdx.x];
    out[threadIdx.x] = s;
}
extern "C" __global__ void __launch_bounds__(32) legal_last_block(uint32_t* buf, uint32_t* done, uint32_t* out) {
    sum_by_last_block(buf, done, out, true, true);
}
extern "C" __global__ void __launch_bounds__(32) bug_last_block_first_fence(uint32_t* buf, uint32_t* done, uint32_t* out) {
    sum_by_last_block(buf, done, out, false, true);
}
extern "C" __global__ void __launch_bounds__(32) bug_last_block_second_fence(uint32_t* buf, uint32_t* done, uint32_t* out) {
    sum_by_last_block(buf, done, out, true, false);
}
// All blocks read what one of them writes after it alone has arrived.
extern "C" __global__ void __launch_bounds__(32) bug_readers_in_blocks(uint32_t* buf, uint32_t* done, uint32_t* out) {
    out[blockIdx.x * 32 + threadIdx.x] = buf[threadIdx.x];
    __threadfence();
    if (threadIdx.x == 0 && blockIdx.x == gridDim.x - 1) atomicAdd(done, 1u);
    __syncthreads();
    if (blockIdx.x == gridDim.x - 1) buf[threadIdx.x] = 1;
}
extern "C" __global__ void __launch_bounds__(64) bug_warp_reads_warp(uint32_t* buf, uint32_t* out) {
    if (threadIdx.x >= 32)
        buf[threadIdx.x] = 7;
    else
        out[threadIdx.x] = buf[threadIdx.x + 32];
}
extern "C" __global__ void __launch_bounds__(32) bug_lane_reads_lane(uint32_t* buf, uint32_t* out) {
    buf[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = buf[threadIdx.x ^ 1];
}
extern "C" __global__ void __launch_bounds__(32) legal_lane_bytes(uint8_t* buf, uint32_t* out) {
    buf[threadIdx.x] = (uint8_t)threadIdx.x;
    out[threadIdx.x] = buf[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(32) bug_ldg_of_written(uint32_t* buf, uint32_t* out) {
    buf[threadIdx.x] = 9;
    __syncthreads();
    out[threadIdx.x] = __ldg(buf + (threadIdx.x ^ 1));
}
extern "C" __global__ void __launch_bounds__(32) bug_write_after_ldg(uint32_t* buf, uint32_t* out) {
    out[threadIdx.x] = __ldg(buf + threadIdx.x);
    __syncthreads();
    buf[threadIdx.x ^ 1] = 9;
}

// ---- launches and collectives ----
extern "C" __global__ void __launch_bounds__(64) bug_launch_bounds(uint32_t* out) { out[threadIdx.x] = 1; }
extern "C" __global__ void __launch_bounds__(32) bug_divergent_shuffle(uint32_t* out) {
    uint32_t v = 0;
    if (threadIdx.x < 16) v = __shfl_sync(ALL_LANES, threadIdx.x, 0);
    out[threadIdx.x] = v;
}
extern "C" __global__ void __launch_bounds__(32) bug_two_shuffles_meet(uint32_t* out) {
    uint32_t v;
    if (threadIdx.x < 16)
        v = __shfl_sync(ALL_LANES, threadIdx.x, 20);
    else
        v = __shfl_sync(ALL_LANES, threadIdx.x, 3);
    out[threadIdx.x] = v;
}
extern "C" __global__ void __launch_bounds__(64) bug_two_barriers_meet(uint32_t* out) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void __launch_bounds__(32) bug_barrier_in_divergence(uint32_t* out) {
    if (threadIdx.x & 1)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}
// Hardware lets whole warps leave; the project's kernels never do.
extern "C" __global__ void __launch_bounds__(64) legal_barrier_after_exit(uint32_t* out) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
// Waits for a block that may start only when this one has ended.
extern "C" __global__ void __launch_bounds__(32) bug_spin(volatile uint32_t* flag, uint32_t* out) {
    if (blockIdx.x == 3) {
        *flag = 1;
        return;
    }
    uint32_t n = 0;
    while (!*flag && n < 1000) n++;
    out[blockIdx.x * 32 + threadIdx.x] = n;
}

// ---- arithmetic ----
extern "C" __global__ void __launch_bounds__(32) bug_int_overflow(uint32_t* p, int32_t rows, int32_t cols, uint32_t* out) {
    out[threadIdx.x] = p[(rows * cols) & 7];
}
extern "C" __global__ void __launch_bounds__(32) bug_shift_by_32(uint32_t* out, int32_t n) { out[threadIdx.x] = 1u << n; }
extern "C" __global__ void __launch_bounds__(32) bug_half_overflow(uint32_t* out) {
    out[threadIdx.x] = half2_fma(0x7bff7bffu, 0x40004000u, 0); }

// ---- asynchronous copies ----
extern "C" __global__ void __launch_bounds__(64) bug_copy_no_wait(const uint4* in, uint4* out) {
    SHARED_ARRAY(uint4, s, 64);
    copy_async_16(s + threadIdx.x, in + threadIdx.x);
    copy_commit();
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
// Waits, but for an older group.
extern "C" __global__ void __launch_bounds__(64) bug_copy_wait_for_other(const uint4* in, uint4* out) {
    SHARED_ARRAY(uint4, s, 64);
    copy_async_16(s + threadIdx.x, in + threadIdx.x);
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
// What is not committed is not waited for.
extern "C" __global__ void __launch_bounds__(64) bug_copy_no_commit(const uint4* in, uint4* out) {
    SHARED_ARRAY(uint4, s, 64);
    copy_async_16(s + threadIdx.x, in + threadIdx.x);
    copy_wait<0>();
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(64) bug_copy_no_barrier(const uint4* in, uint4* out) {
    SHARED_ARRAY(uint4, s, 64);
    copy_async_16(s + threadIdx.x, in + threadIdx.x);
    copy_commit();
    __syncthreads();
    copy_wait<0>();
    out[threadIdx.x] = s[63 - threadIdx.x];
}
// The second copy may arrive before the other warp has read the first.
extern "C" __global__ void __launch_bounds__(64) bug_copy_over_readers(const uint4* in, uint4* out) {
    SHARED_ARRAY(uint4, s, 64);
    copy_async_16(s + threadIdx.x, in + threadIdx.x);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    out[threadIdx.x] = s[63 - threadIdx.x];
    copy_async_16(s + threadIdx.x, in + threadIdx.x);
    copy_commit();
    copy_wait<0>();
}
extern "C" __global__ void __launch_bounds__(64) bug_copy_misaligned(const uint32_t* in, uint4* out) {
    SHARED_ARRAY(uint4, s, 64);
    copy_async_16(s + threadIdx.x, in + 4 * threadIdx.x + 1);
    copy_commit();
    copy_wait<0>();
    out[threadIdx.x] = s[threadIdx.x];
}
// Two stages: while one is read, the other is on its way.
extern "C" __global__ void __launch_bounds__(64) legal_copy_stages(const uint4* in, uint4* out) {
    SHARED_ARRAY(uint4, s, 128);
    copy_async_16(s + threadIdx.x, in);
    copy_commit();
    uint4 sum = {0, 0, 0, 0};
    for (int32_t i = 0; i < 4; i++) {
        copy_async_16(s + (i + 1) % 2 * 64 + threadIdx.x, in + i);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        sum.x += s[i % 2 * 64 + 63 - threadIdx.x].x;
        __syncthreads();
    }
    out[threadIdx.x] = sum;
}
