// Packs decoded codes (packed.cuh), and takes packed codes apart again for products of many vectors.
#include "huffman.cuh"
#include "packed.cuh"

// Codes that matrix::packed_bits hold are those of the levels packed_first … packed_first + range − 1; a level outside is clipped to the nearest of
// them and becomes a remainder.
struct clipped {
    int32_t code, delta; // delta: levels that clipping took away

    __device__ __forceinline__ clipped(const matrix* w, int32_t q) {
        int32_t s = w->low_bits, level = (q >> s) - w->packed_first, top = (1 << (w->packed_bits - s)) - 1, held = min(max(level, 0), top);
        code = held << s | (q & ((1 << s) - 1));
        delta = level - held;
    }
};

// Where a quad's outliers of the file are.
__device__ __forceinline__ outlier_range quad_outliers(const matrix* w, int32_t quad, int32_t row) {
    int32_t stored = quad * QUAD + row;
    return stored < w->rows ? row_outliers(w, stored / w->rows_per_group, stored % w->rows_per_group) : outlier_range{0, 0};
}

// All kernels of this file but pack_starts: grid any number of blocks ≤ ⌈n_quads / 8⌉, block 256 threads, a warp per quad (four stored rows).
// w           matrix with the parts of the coded form, and the values of the packed form
// first_quad  first quad; first row of a group
// plane       [stored row − 4·first_quad][w->stride] (a << s | lo), or values[a] + data_zero, as decode_chunks_u8 leaves them with
//             zero − data_zero = 0, before decode_outliers

// starts[quad + 1] = remainders of the quad.
extern "C" __global__ void __launch_bounds__(256) pack_count(const matrix* w, int32_t first_quad, int32_t n_quads, const uint8_t* plane, uint32_t* starts) {
    int32_t lane = threadIdx.x % WARP;
    for (int32_t i = blockIdx.x * 8 + threadIdx.x / WARP; i < n_quads; i += gridDim.x * 8) {
        uint32_t n = 0;
        for (int32_t r = 0; r < QUAD && (first_quad + i) * QUAD + r < w->rows; r++) {
            const uint8_t* row = plane + (int64_t)(i * QUAD + r) * w->stride;
            for (int32_t c = lane; c < w->cols; c += WARP) n += clipped(w, row[c]).delta != 0;
            outlier_range o = quad_outliers(w, first_quad + i, r);
            if (lane == 0) n += o.end - o.begin;
        }
        n += warp_exclusive_sum(n);
        if (lane == WARP - 1) starts[first_quad + i + 1] = n;
    }
}

// Turns the counts of some quads into starts; those before them are starts already. grid 1, block 256.
extern "C" __global__ void __launch_bounds__(256) pack_starts(int32_t first_quad, int32_t n_quads, uint32_t* starts) {
    SHARED_ARRAY(uint32_t, sums, 8);
    uint32_t base = first_quad ? starts[first_quad] : 0;
    if (threadIdx.x == 0 && first_quad == 0) starts[0] = 0;
    for (int32_t at = 0; at < n_quads; at += 256) {
        int32_t i = at + threadIdx.x;
        uint32_t n = i < n_quads ? starts[first_quad + i + 1] : 0, below = warp_exclusive_sum(n);
        __syncthreads(); // sums are no longer read
        if (threadIdx.x % WARP == WARP - 1) sums[threadIdx.x / WARP] = below + n;
        __syncthreads();
        for (uint32_t k = 0; k < threadIdx.x / WARP; k++) below += sums[k];
        if (i < n_quads) starts[first_quad + i + 1] = base + below + n;
        for (int k = 0; k < 8; k++) base += sums[k];
    }
}

// One row's remainders from `at` on; returns where the next row's begin. `room` entries fit.
__device__ __forceinline__ uint32_t pack_remainders(const matrix* w, int32_t quad, int32_t r, const uint8_t* row, uint32_t at, uint32_t room, uint32_t* out) {
    int32_t lane = threadIdx.x % WARP, stored = quad * QUAD + r;
    outlier_range o = quad_outliers(w, quad, r);
    for (uint32_t i = o.begin + lane; i < o.end; i += WARP)
        if (at + i - o.begin < room) out[at + i - o.begin] = (w->outliers[i] & ~0x7fu) | (stored & 0x7f);
    at += o.end - o.begin;
    for (int32_t first = 0; first < w->cols; first += WARP) {
        int32_t c = first + lane, delta = c < w->cols ? clipped(w, row[c]).delta : 0;
        uint32_t which = __ballot_sync(ALL_LANES, delta != 0), mine = at + __popc(which & ((1u << lane) - 1));
        if (delta && mine < room) out[mine] = (uint32_t)delta << 24 | (uint32_t)c << 7 | (stored & 0x7f);
        at += __popc(which);
    }
    return at;
}

template <int BITS> __device__ __forceinline__ void pack_row(const matrix* w, int32_t stored, const uint8_t* row, uint32_t* planes) {
    int32_t pieces = packed_pieces(w->cols);
    for (int32_t p = threadIdx.x % WARP; p < pieces; p += WARP) {
        uint32_t pairs[PIECE_PAIRS];
#pragma unroll
        for (int k = 0; k < PIECE_PAIRS; k++) {
            const uint8_t* q = row + p * PIECE_COLS + 2 * k;
            pairs[k] = (uint32_t)clipped(w, q[0]).code | (uint32_t)clipped(w, q[1]).code << 16;
        }
#pragma unroll
        for (int k = 0; k < BITS; k++) planes[packed_at(w, stored, p, k)] = packed_word(pairs, BITS, k);
    }
}

// planes      packed codes of all quads
// starts      as pack_starts leaves them, or 0 if nothing is clipped and the matrix has no outliers
// remainders  [room]; what does not fit is left out (starts tells)
extern "C" __global__ void __launch_bounds__(256) pack_codes(const matrix* w, int32_t first_quad, int32_t n_quads, const uint8_t* plane, uint32_t* planes, const uint32_t* starts,
    uint32_t* remainders, uint32_t room) {
    int32_t lane = threadIdx.x % WARP, pieces = packed_pieces(w->cols), bits = w->packed_bits;
    for (int32_t i = blockIdx.x * 8 + threadIdx.x / WARP; i < n_quads; i += gridDim.x * 8) {
        int32_t quad = first_quad + i;
        uint32_t at = starts ? starts[quad] : 0;
        for (int32_t r = 0; r < QUAD && quad * QUAD + r < w->rows; r++) {
            const uint8_t* row = plane + (int64_t)(i * QUAD + r) * w->stride;
            switch (bits) {
            case 3: pack_row<3>(w, quad * QUAD + r, row, planes); break;
            case 4: pack_row<4>(w, quad * QUAD + r, row, planes); break;
            case 5: pack_row<5>(w, quad * QUAD + r, row, planes); break;
            case 6: pack_row<6>(w, quad * QUAD + r, row, planes); break;
            default: pack_row<8>(w, quad * QUAD + r, row, planes); break;
            }
            if (starts) at = pack_remainders(w, quad, r, row, at, room, remainders);
        }
        for (int32_t r = w->rows - quad * QUAD; r < QUAD; r++) // rows that fill up the last quad
            for (int32_t p = lane; p < pieces * bits; p += WARP) planes[packed_at(w, quad * QUAD + r, p % pieces, p / pieces)] = 0;
    }
}

// Adds to one code in memory, whose neighbours in the same word other threads add to. What leaves a code's range on the way, because a weight has
// several remainders, is back at the end: sums of words do not depend on the order.
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
        if (!w->remainder_start) continue;
        for (uint32_t k = w->remainder_start[quad] + lane; k < w->remainder_start[quad + 1]; k += WARP) {
            uint32_t o = w->remainders[k];
            add_code(plane + (int64_t)(i * QUAD + outlier_row(o) % QUAD) * w->stride + outlier_col(o), (int32_t)((uint32_t)outlier_delta(o) << w->low_bits));
        }
    }
}

// plane: [stored row − 4·first_quad][w->stride] q − data_zero as decode_chunks_* and decode_outliers_* leave them, columns up to 32·⌈cols/32⌉
extern "C" __global__ void __launch_bounds__(256) unpack_codes_u8(const matrix* w, int32_t first_quad, int32_t n_quads, uint8_t* plane) { unpack_codes(w, first_quad, n_quads, plane); }
extern "C" __global__ void __launch_bounds__(256) unpack_codes_i32(const matrix* w, int32_t first_quad, int32_t n_quads, int32_t* plane) { unpack_codes(w, first_quad, n_quads, plane); }
