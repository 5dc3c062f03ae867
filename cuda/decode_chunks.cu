// Decodes coded rows into a plane of fixed-width codes: once at load (plan "resident"), or a piece at a time ahead of a batched
// product.
#include "pair_stream.cuh"

__device__ __forceinline__ void store_pair(uint8_t* p, int32_t a,
    int32_t b) { *(uint16_t*)p = (uint16_t)((a & 0xff) | (b & 0xff) << 8); }
__device__ __forceinline__ void store_pair(int32_t* p, int32_t a, int32_t b) { *(uint2*)p = uint2_of(a, b); }
__device__ __forceinline__ void store_pair(uint16_t* p, int32_t a,
    int32_t b) { *(uint32_t*)p = (uint32_t)((a & 0xffff) | b << 16); }

// Any coding, any plane. One chunk: the lane's pair of every row and step. q = values[a], or (a << s | lo) + offset, or float
// bits.
template <class T> struct any_decoder {
    int32_t offset;
    const uint32_t* table;
    uint32_t mask;

    __device__ __forceinline__ any_decoder(const matrix* w, uint32_t* table_sh, int32_t offset_) : offset(offset_),
        table(table_sh), mask(0) {}
    __device__ __forceinline__ void load_table(const matrix* w, int32_t index, uint32_t* table_sh) { mask = ::load_table(w, index,
        table_sh); }
    __device__ __forceinline__ void chunk(const matrix* w, int32_t group, int32_t tile, T* plane) const;
};
template <class T> __device__ __forceinline__ void any_decoder<T>::chunk(const matrix* w, int32_t group, int32_t tile,
    T* plane) const {
    int32_t rows = group_rows(w, group), steps = tile_steps(w, tile), stride = w->stride, low_bits = w->low_bits,
        float_kind = w->float_kind;
    const int32_t* values = w->values;
    T* row = plane + tile * w->steps_per_tile * 64 + 2 * (threadIdx.x % WARP);
    pair_decoder d;
    d.open(w, group, tile, table, mask);
    for (int32_t r = 0; r < rows; r++, row += stride) {
        for (int32_t j = 0; j < steps; j++) {
            level_pair p = d.next();
            int32_t q[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (float_kind)
                    q[i] = level_float(w, p.level[i], p.low[i]);
                else
                    q[i] = (values ? values[p.level[i]] : (int32_t)((uint32_t)p.level[i] << low_bits | p.low[i])) + offset;
            }
            store_pair(row + 64 * j, q[0], q[1]);
        }
    }
}

// Stores pairs of bytes: an entry holds them above the length, in bits 16 … 31.
struct byte_writer {
    enum { MOST_STEPS = 16 };
    uint8_t* next; // the lane's pair of the next step
    int32_t steps; // N of begin

    template <int N> __device__ __forceinline__ void begin() {
        next += 64 * N;
        steps = N;
    }
    __device__ __forceinline__ void pair(int k, uint32_t entry, uint32_t low, int at_even, int at_odd) {
        uint32_t bytes = (entry >> 16) + (low >> at_even | low >> (8 + at_odd)); // both low values start at bit 0 of their bytes
        *(uint16_t*)(next + 64 * (k - steps)) = (uint16_t)bytes;
    }
};

// Bytes, S = 0 … 4 low bits.
template <int S> struct byte_decoder {
    int32_t offset;
    pair_stream<2, S> pairs;

    __device__ __forceinline__ byte_decoder(const matrix* w, uint32_t* table_sh, int32_t offset_) : offset(offset_),
        pairs(table_sh) {}
    __device__ __forceinline__ void load_table(const matrix* w, int32_t index, uint32_t* table_sh) {
        const int32_t *values = w->values, add = offset;
        pairs.load_table(w, index, table_sh, [=](int32_t a, int32_t b) {
            int32_t qa = (values ? values[a] : a << S) + add, qb = (values ? values[b] : b << S) + add;
            return (uint32_t)(qa & 0xff) << 16 | (uint32_t)(qb & 0xff) << 24;
        });
    }
    __device__ __forceinline__ void chunk(const matrix* w, int32_t group, int32_t tile, uint8_t* plane) {
        // a row takes at most
        int32_t rows = group_rows(w, group), n_steps = tile_steps(w, tile), row_words = n_steps * w->max_len / 32 + 2;
        uint8_t* row = plane + tile * w->steps_per_tile * 64 + 2 * (threadIdx.x % WARP);
        pairs.open(w, group, tile, n_steps, rows);
        for (int32_t r = 0; r < rows; r++, row += w->stride) {
            byte_writer pairs_to = {row, 0};
            pairs.row(pairs_to, n_steps, row_words);
        }
    }
};

template <class Decoder, class T> __device__ __forceinline__ void decode_chunks(const matrix* w, int32_t first_group,
    int32_t n_groups, T* plane) {
    SHARED_DYNAMIC(uint32_t, table_sh);
    int32_t tiles = w->tiles, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, loaded = -1;
    const int32_t warps = 8;
    Decoder decoder(w, table_sh, w->float_kind ? 0 : (w->values ? 0 : w->zero) - (int32_t)w->data_zero);
    // Chunks are numbered tile by tile. Each block takes a contiguous range, eight at a time as far as they share a table.
    int64_t n = (int64_t)n_groups * tiles;
    int32_t i = (int32_t)(n * blockIdx.x / gridDim.x), end = (int32_t)(n * (blockIdx.x + 1) / gridDim.x);
    while (i < end) {
        int32_t next = i + lane;
        table_run run = same_table(next < min(i + warps, end) ? w->chunk_table[(first_group + next % n_groups) * tiles +
            next / n_groups] : -1);
        if (run.table != loaded) decoder.load_table(w, run.table, table_sh);
        loaded = run.table;
        int32_t mine = i + warp, g = mine % n_groups;
        if (warp < run.n) decoder.chunk(w, first_group + g, mine / n_groups, plane + (int64_t)g * w->rows_per_group * w->stride);
        i += run.n;
    }
}

// All kernels of this file:
//   grid  ⌈n_groups·tiles / 8⌉ or fewer blocks, block 256 threads
//   dynamic shared memory  4 << max_len bytes
// Outliers are not applied: decode_outliers_* follows. stride must be even and ≥ 64·steps.
//
// w            coded matrix
// first_group  first group to decode
// n_groups     groups to decode
// plane        [stored row − first_group·rows_per_group][w->stride] codes; columns up to 64·steps are written

// plane: u8, q − data_zero, which must lie in 0 … 255 (outliers aside). Any low_bits, and those in the name, which are faster
extern "C" __global__ void __launch_bounds__(256, 4) decode_chunks_u8(const matrix* w, int32_t first_group, int32_t n_groups,
    uint8_t* plane) { decode_chunks<any_decoder<uint8_t> >(w, first_group, n_groups, plane); }
extern "C" __global__ void __launch_bounds__(256, 4) decode_chunks_u8_low0(const matrix* w, int32_t first_group, int32_t n_groups,
    uint8_t* plane) { decode_chunks<byte_decoder<0> >(w, first_group, n_groups, plane); }
extern "C" __global__ void __launch_bounds__(256, 4) decode_chunks_u8_low1(const matrix* w, int32_t first_group, int32_t n_groups,
    uint8_t* plane) { decode_chunks<byte_decoder<1> >(w, first_group, n_groups, plane); }
extern "C" __global__ void __launch_bounds__(256, 4) decode_chunks_u8_low2(const matrix* w, int32_t first_group, int32_t n_groups,
    uint8_t* plane) { decode_chunks<byte_decoder<2> >(w, first_group, n_groups, plane); }
extern "C" __global__ void __launch_bounds__(256, 4) decode_chunks_u8_low3(const matrix* w, int32_t first_group, int32_t n_groups,
    uint8_t* plane) { decode_chunks<byte_decoder<3> >(w, first_group, n_groups, plane); }
extern "C" __global__ void __launch_bounds__(256, 4) decode_chunks_u8_low4(const matrix* w, int32_t first_group, int32_t n_groups,
    uint8_t* plane) { decode_chunks<byte_decoder<4> >(w, first_group, n_groups, plane); }
// plane: i32, q − data_zero
extern "C" __global__ void __launch_bounds__(256, 4) decode_chunks_i32(const matrix* w, int32_t first_group, int32_t n_groups,
    int32_t* plane) {
    decode_chunks<any_decoder<int32_t> >(w, first_group, n_groups, plane);
}
// plane: bits of bf16 or f16 numbers (float_kind)
extern "C" __global__ void __launch_bounds__(256, 4) decode_chunks_float(const matrix* w, int32_t first_group, int32_t n_groups,
    uint16_t* plane) {
    decode_chunks<any_decoder<uint16_t> >(w, first_group, n_groups, plane);
}
