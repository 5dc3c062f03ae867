// Tensor-core products, lane by lane.
#include "runtime.h"

namespace emu {

namespace {

// What each thread of the running block brings to the product; a warp runs until it is complete.
struct Operands { uint32_t a[4], b[2]; };
thread_local Operands operands[1024];

double element(uint32_t pair, int which) { return half_to_float((uint16_t)(which ? pair >> 16 : pair)); }

} // namespace

void mma_16x8x16(float* c, const uint32_t* a, const uint32_t* b) {
    uint32_t lane = lane_id(), first = epochs().thread - lane;
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
            for (int k = 0; k < 4; k++) sum += element(operands[row + quad].a[i / 2 + k / 2 * 2], k % 2) * element(operands[col + quad].b[k / 2], k % 2);
        sums[i] = (float)sum;
    }
    warp_collective(BALLOT, ~0u, 1, 0); // before anybody brings the next operands
    memcpy(c, sums, sizeof sums);
}

} // namespace emu
