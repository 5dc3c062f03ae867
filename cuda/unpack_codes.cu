// Unpacks packed codes (packed.cuh) to bytes, for products of many vectors.
#include "packed.cuh"

// Adds to one code in memory, whose neighbours in the same word other threads add to. What leaves a code's range on the way,
// because a weight has several exceptions, is back at the end: sums of words do not depend on the order.
__device__ __forceinline__ void add_code(uint8_t* code, int32_t delta) {
    uint32_t at = (uint32_t)(uintptr_t)code % 4;
    atomicAdd((uint32_t*)(code - at), (uint32_t)delta << (8 * at));
}
__device__ __forceinline__ void add_code(int32_t* code, int32_t delta) { atomicAdd(code, delta); }

// Pairs of codes, in the halves of a word, to memory; zero is added to each.
__device__ __forceinline__ void store_pairs(uint8_t* row, const uint32_t* pairs, int32_t zero) {
    uint32_t add = (uint32_t)zero * 0x00010001u; // codes and sums are below 256
#pragma unroll
    for (int i = 0; i < PIECE_PAIRS; i += 2) ((uint32_t*)row)[i / 2] = __byte_perm(pairs[i] + add, pairs[i + 1] + add, 0x6420);
}
__device__ __forceinline__ void store_pairs(int32_t* row, const uint32_t* pairs, int32_t zero) {
#pragma unroll
    for (int i = 0; i < PIECE_PAIRS; i++) ((uint2*)row)[i] = uint2_of((pairs[i] & 0xffff) + zero, (pairs[i] >> 16) + zero);
}

template <int BITS, class T> __device__ __forceinline__ void unpack_row(const matrix* w, int32_t stored, T* row, int32_t zero) {
    int32_t pieces = packed_pieces(w->cols);
    const uint32_t* words = (const uint32_t*)w->data + packed_at(w, stored, 0, 0);
    for (int32_t p = threadIdx.x % WARP; p < pieces; p += WARP) {
        uint32_t v[BITS], pairs[PIECE_PAIRS];
#pragma unroll
        for (int k = 0; k < BITS; k++) v[k] = words[((int64_t)k * pieces + p) * QUAD];
#pragma unroll
        for (int i = 0; i < PIECE_PAIRS; i++) pairs[i] = packed_pair(v, 1, BITS, i);
        store_pairs(row + p * PIECE_COLS, pairs, zero);
    }
}

template <class T> __device__ __forceinline__ void unpack_codes(const matrix* w, int32_t first_quad, int32_t n_quads, T* plane) {
    int32_t lane = threadIdx.x % WARP, zero = w->packed_zero - (int32_t)w->data_zero;
    for (int32_t i = blockIdx.x * 8 + threadIdx.x / WARP; i < n_quads; i += gridDim.x * 8) {
        int32_t quad = first_quad + i;
        for (int32_t r = 0; r < QUAD && quad * QUAD + r < w->rows; r++) {
            T* row = plane + (int64_t)(i * QUAD + r) * w->stride;
            switch (w->packed_bits) {
            case 3: unpack_row<3>(w, quad * QUAD + r, row, zero); break;
            case 4: unpack_row<4>(w, quad * QUAD + r, row, zero); break;
            case 5: unpack_row<5>(w, quad * QUAD + r, row, zero); break;
            case 6: unpack_row<6>(w, quad * QUAD + r, row, zero); break;
            default: unpack_row<8>(w, quad * QUAD + r, row, zero); break;
            }
        }
        __syncwarp();
        if (!w->exception_start) continue;
        for (uint32_t k = w->exception_start[quad] + lane; k < w->exception_start[quad + 1]; k += WARP) {
            uint32_t o = w->exceptions[k];
            add_code(plane + (int64_t)(i * QUAD + outlier_row(o) % QUAD) * w->stride + outlier_col(o),
                (int32_t)((uint32_t)outlier_delta(o) << w->low_bits));
        }
    }
}

// grid any number of blocks ≤ ⌈n_quads / 8⌉, block 256 threads, a warp per quad (four stored rows)
// w           matrix in the packed form
// first_quad  first quad
// plane       [stored row − 4·first_quad][w->stride] q − data_zero as decode_chunks_* and decode_outliers_* leave them,
//             columns up to 32·⌈cols/32⌉
extern "C" __global__ void __launch_bounds__(256) unpack_codes_u8(const matrix* w, int32_t first_quad, int32_t n_quads,
    uint8_t* plane) { unpack_codes(w, first_quad, n_quads, plane); }
extern "C" __global__ void __launch_bounds__(256) unpack_codes_i32(const matrix* w, int32_t first_quad, int32_t n_quads,
    int32_t* plane) { unpack_codes(w, first_quad, n_quads, plane); }
