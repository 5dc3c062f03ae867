// Tensor-core products and the loads for them, lane by lane.
#include "runtime.h"

namespace emu {

namespace {

// What each thread of the running block brings to the product; a warp runs until it is complete.
struct Operands { uint32_t a[4], b[2]; };
// [1024], on the heap: a library that is loaded late has little room for thread-local variables.
thread_local std::unique_ptr<Operands[]> operands;

struct Row { uint16_t halves[8]; };
thread_local std::unique_ptr<Row[]> rows; // [1024]

double element(uint32_t pair, int which) { return half_to_float((uint16_t)(which ? pair >> 16 : pair)); }

} // namespace

void mma_16x8x16(float* c, const uint32_t* a, const uint32_t* b) {
    uint32_t lane = lane_id(), first = epochs().thread - lane;
    if (!operands) operands.reset(new Operands[1024]);
    Operands& mine = operands[first + lane];
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    // A ballot waits for all lanes, and unlike __syncwarp orders no memory.
    warp_collective(BALLOT, ~0u, 1, 0);
    float sums[4];
    for (int i = 0; i < 4; i++) { // row group + 8·(i / 2), column 2·quad + i % 2
        uint32_t row = first + lane / 4 * 4, col = first + (lane % 4 * 2 + i % 2) * 4;
        double sum = c[i];
        for (int quad = 0; quad < 4; quad++)
            for (int k = 0; k < 4; k++) sum += element(operands[row + quad].a[i / 2 + k / 2 * 2], k % 2)
                * element(operands[col + quad].b[k / 2], k % 2);
        sums[i] = (float)sum;
    }
    warp_collective(BALLOT, ~0u, 1, 0); // before anybody brings the next operands
    memcpy(c, sums, sizeof sums);
}

void load_transposed(const void* row, uint32_t* v) {
    uint32_t lane = lane_id(), first = epochs().thread - lane;
    if (checked) touch_memory(row, 16, false);
    if (!rows) rows.reset(new Row[1024]);
    memcpy(rows[first + lane].halves, row, sizeof(Row));
    warp_collective(BALLOT, ~0u, 1, 0);
    for (int i = 0; i < 4; i++) {
        const Row* matrix = &rows[first + 8 * i + lane % 4 * 2];
        v[i] = matrix[0].halves[lane / 4] | (uint32_t)matrix[1].halves[lane / 4] << 16;
    }
    warp_collective(BALLOT, ~0u, 1, 0); // before anybody brings the next rows
}

} // namespace emu
