// Packs decoded codes (packed.cuh).
#include "huffman.cuh"
#include "packed.cuh"

// Codes that matrix::packed_bits hold are those of the levels packed_first … packed_first + range − 1; a level outside is clipped
// to the nearest of them and becomes an exception.
struct clipped {
    int32_t code, delta; // delta: levels that clipping took away

    __device__ __forceinline__ clipped(const matrix* w, int32_t q) {
        int32_t s = w->low_bits, level = (q >> s) - w->packed_first, top = (1 << (w->packed_bits - s)) - 1,
            held = min(max(level, 0), top);
        code = held << s | (q & ((1 << s) - 1));
        delta = level - held;
    }
};

// Where a quad's outliers of the file are.
__device__ __forceinline__ outlier_range quad_outliers(const matrix* w, int32_t quad, int32_t row) {
    int32_t stored = quad * QUAD + row;
    return stored < w->rows ? row_outliers(w, stored / w->rows_per_group, stored % w->rows_per_group) : outlier_range{0, 0};
}

// All kernels of this file but pack_starts: grid any number of blocks ≤ ⌈n_quads / 8⌉, block 256 threads, a warp per quad (four
// stored rows).
// w           matrix with the parts of the coded form, and the values of the packed form
// first_quad  first quad; first row of a group
// plane       [stored row − 4·first_quad][w->stride] (a << s | lo), or values[a] + data_zero, as decode_chunks_u8 leaves them
//             with
//             zero − data_zero = 0, before decode_outliers

// starts[quad + 1] = exceptions of the quad.
extern "C" __global__ void __launch_bounds__(256) pack_count(const matrix* w, int32_t first_quad, int32_t n_quads,
    const uint8_t* plane, uint32_t* starts) {
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
        __syncthreads(); // all reads of sums are done
        if (threadIdx.x % WARP == WARP - 1) sums[threadIdx.x / WARP] = below + n;
        __syncthreads();
        for (uint32_t k = 0; k < threadIdx.x / WARP; k++) below += sums[k];
        if (i < n_quads) starts[first_quad + i + 1] = base + below + n;
        for (int k = 0; k < 8; k++) base += sums[k];
    }
}

// One row's exceptions from `at` on; returns where the next row's begin. `room` entries fit.
__device__ __forceinline__ uint32_t pack_exceptions(const matrix* w, int32_t quad, int32_t r, const uint8_t* row, uint32_t at,
    uint32_t room, uint32_t* out) {
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

template <int BITS> __device__ __forceinline__ void pack_row(const matrix* w, int32_t stored, const uint8_t* row,
    uint32_t* planes) {
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
// exceptions  [room]; what does not fit is left out (starts tells)
extern "C" __global__ void __launch_bounds__(256) pack_codes(const matrix* w, int32_t first_quad, int32_t n_quads,
    const uint8_t* plane, uint32_t* planes, const uint32_t* starts,
    uint32_t* exceptions, uint32_t room) {
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
            if (starts) at = pack_exceptions(w, quad, r, row, at, room, exceptions);
        }
        for (int32_t r = w->rows - quad * QUAD; r < QUAD; r++) // rows that fill up the last quad
            for (int32_t p = lane; p < pieces * bits; p += WARP) planes[packed_at(w, quad * QUAD + r, p % pieces,
                p / pieces)] = 0;
    }
}
