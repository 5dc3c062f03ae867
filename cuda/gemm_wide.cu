// Y = X·Wᵀ for many tokens on tensor cores, from decoded bytes, in large tiles (compute capability 8.0 and later).
#include "gemm_tile.cuh"

// A block of 8 warps computes 128 rows × 128 tokens, 32 columns at a time; a warp 32 rows × 64 tokens. Weights and inputs are
// copied to shared memory asynchronously, two steps ahead, as they are: bytes and halves. A lane converts the weights that it
// multiplies in registers. Its 8 columns of a row lie side by side, and so do all that lanes read or copy together: no access
// of shared memory has bank conflicts.
enum { WIDE_ROWS = 128, WIDE_TOKENS = 128, WIDE_DEPTH = 32, WIDE_STAGES = 3, WIDE_THREADS = 256,
    // in units of 16 bytes: the rows of a stage, 32 bytes each, and its tokens, 64 bytes each
    STAGE_ROWS = WIDE_ROWS * 2, STAGE = STAGE_ROWS + WIDE_TOKENS * 4 };

#ifdef HAS_ASYNC

// What a thread copies: half of a row's 32 columns, and a quarter of two tokens'.
struct wide_copies {
    const uint8_t *w, *xp;
    uint32_t x[2]; // bytes from xp on: a batch has at most 4096 tokens, a vector 2^18 bytes

    __device__ __forceinline__ void next(uint4* stage) {
        copy_async_16(stage + threadIdx.x, w);
        w += WIDE_DEPTH;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            copy_async_16(stage + STAGE_ROWS + i * WIDE_THREADS + threadIdx.x, xp + x[i]);
            x[i] += 2 * WIDE_DEPTH;
        }
    }
};

// A warp's share: 2 × 8 tiles of 16 rows × 8 tokens (mma_16x8x16; for the order of columns see mma_multiplier). BLOCKS: weights
// have a scale for each block of columns.
template <bool BLOCKS> struct wide_multiplier {
    enum { ROW_TILES = 2, TOKEN_TILES = 8, LINES = 2 * ROW_TILES };
    float sum[ROW_TILES][TOKEN_TILES][4];
    code_scales scales;
    uint32_t term, bits[LINES]; // bits: scales of the lane's rows and next columns
    int32_t first_row, first_token, group, quad;

    __device__ __forceinline__ void open(const matrix* w) {
        float center = code_center(w);
        term = center_term(center);
        if (BLOCKS) scales.open(w, center + w->data_zero, 1);
        int32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        first_row = warp / 2 * 32;
        first_token = warp % 2 * 64;
        group = lane / 4;
        quad = lane % 4;
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
            for (int j = 0; j < TOKEN_TILES; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) sum[i][j][k] = 0;
    }
    // stored: of the tile's first row; last: of the last row that there is.
    __device__ __forceinline__ void load_scales(int32_t stored, int32_t last, int32_t col) {
        if (!BLOCKS) return;
        col = min(col + 8 * quad, scales.w->cols - 1);
#pragma unroll
        for (int i = 0; i < LINES; i++) bits[i] = block_scale_bits(scales.w, min(stored + first_row + 8 * i + group, last), col);
    }
    __device__ __forceinline__ void multiply(const uint4* stage) {
        uint32_t h[LINES][4];
#pragma unroll
        for (int i = 0; i < LINES; i++) {
            uint2 codes = ((const uint2*)stage)[(first_row + 8 * i + group) * 4 + quad];
            bytes_to_half2(codes.x, term, h[i]);
            bytes_to_half2(codes.y, term, h[i] + 2);
            if (BLOCKS) scales.template scale<4>(h[i], bits[i]);
        }
        const uint4* x = stage + STAGE_ROWS + (first_token + group) * 4 + quad;
#pragma unroll
        for (int j = 0; j < TOKEN_TILES; j++) {
            uint4 b = x[8 * 4 * j];
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
                const uint32_t *lo = h[2 * i], *hi = h[2 * i + 1];
                mma_16x8x16(sum[i][j], lo[0], hi[0], lo[1], hi[1], b.x, b.y);
                mma_16x8x16(sum[i][j], lo[2], hi[2], lo[3], hi[3], b.z, b.w);
            }
        }
    }
    __device__ __forceinline__ void write(const gemm_output& out) const {
        gemm_row rows[LINES];
#pragma unroll
        for (int i = 0; i < LINES; i++) rows[i] = out.row(first_row + 8 * i + group);
#pragma unroll
        for (int j = 0; j < 2 * TOKEN_TILES; j++)
#pragma unroll
            for (int i = 0; i < LINES; i++) out.write(rows[i], first_token + j / 2 * 8 + 2 * quad + j % 2,
                sum[i / 2][j / 2][2 * (i % 2) + j % 2]);
    }
};

template <bool BLOCKS> __device__ __forceinline__ void gemm_wide(const matrix* w, const uint8_t* data, int32_t first_row,
    int32_t n_rows, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    SHARED_ARRAY(uint4, stages, WIDE_STAGES * STAGE);
    int32_t row_0 = blockIdx.x * WIDE_ROWS, token_0 = blockIdx.y * WIDE_TOKENS;
    int32_t rows = n_rows - row_0, tokens = n_tokens - token_0;
    int32_t steps = (w->cols + WIDE_DEPTH - 1) / WIDE_DEPTH, last = first_row + n_rows - 1;
    if (!data) data = (const uint8_t*)w->data + (int64_t)first_row * w->stride;
    wide_copies copies;
    copies.w = data + (int64_t)(row_0 + min((int32_t)threadIdx.x / 2, rows - 1)) * w->stride + threadIdx.x % 2 * 16;
    copies.xp = xp;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int32_t token = token_0 + min((int32_t)threadIdx.x / 4 + i * (WIDE_TOKENS / 2), tokens - 1);
        copies.x[i] = (uint32_t)token * (uint32_t)xp_stride + PREPARED_HEADER + threadIdx.x % 4 * 16;
    }
    wide_multiplier<BLOCKS> multiplier;
    multiplier.open(w);
    bool wanted = multiplier.first_row < rows && multiplier.first_token < tokens; // by this warp
    // There are as many groups of copies as steps and more, so that waiting for the same number of them always fits.
#pragma unroll
    for (int i = 0; i < WIDE_STAGES - 1; i++) {
        if (i < steps) copies.next(stages + i * STAGE);
        copy_commit();
    }
    multiplier.load_scales(first_row + row_0, last, 0);
    int32_t now = 0;
    for (int32_t step = 0; step < steps; step++) {
        copy_wait<WIDE_STAGES - 2>();
        __syncthreads(); // this step's stage is there, and all have read the one before
        if (step + WIDE_STAGES - 1 < steps) copies.next(stages + (now == 0 ? WIDE_STAGES - 1 : now - 1) * STAGE);
        copy_commit();
        if (wanted) multiplier.multiply(stages + now * STAGE);
        multiplier.load_scales(first_row + row_0, last, (step + 1) * WIDE_DEPTH);
        now = now == WIDE_STAGES - 1 ? 0 : now + 1;
    }
    code_scales scales; // opened here, where the loop is over: it would take registers there
    scales.open(w, code_center(w) + w->data_zero, 1);
    gemm_output out = {w, first_row + row_0, rows, tokens, scales, xp + (int64_t)token_0 * xp_stride, xp_stride, bias,
        y + (int64_t)token_0 * w->rows};
    multiplier.write(out);
}

#else

// Devices without asynchronous copies have gemm_mma_u8 and gemm_half_u8.
template <bool BLOCKS> __device__ __forceinline__ void gemm_wide(const matrix* w, const uint8_t* data, int32_t first_row,
    int32_t n_rows, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    __trap();
}

#endif

// Grid (⌈n_rows / 128⌉, ⌈n_tokens / 128⌉), block 256 threads, no dynamic shared memory. Arguments as of gemm_mma_u8
// (gemm_codes.cu); a scale for all of the matrix or for each row.
extern "C" __global__ void __launch_bounds__(256, 2) gemm_wide_u8(const matrix* w, const uint8_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_wide<false>(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
// The same with scales for blocks of at least 16 columns.
extern "C" __global__ void __launch_bounds__(256, 2) gemm_wide_block_u8(const matrix* w, const uint8_t* data, int32_t first_row,
    int32_t n_rows, const float* x, const uint8_t* xp, int64_t xp_stride, int32_t n_tokens, const float* bias, float* y) {
    gemm_wide<true>(w, data, first_row, n_rows, xp, xp_stride, n_tokens, bias, y);
}
