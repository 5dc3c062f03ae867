// Normalizes, gates or scales the input vector of a product and rounds it to half precision, in the orders in which the products read it.
#include "prepare.cuh"

// grid tokens, block 256
// p            in device memory; xp of a token has 64 + 2048·⌈steps/16⌉ + 16·steps + 512·tiles·⌈steps_per_tile/4⌉ bytes (layout: prepared.cuh)
// first_token  row of x, up and y that the first block works on. Its vector goes to the first of xp
// vectors      1: write xp, 0: only y
extern "C" __global__ void __launch_bounds__(256) x_prepare(const prepare_task* p, int32_t first_token, int32_t vectors) {
    SHARED_ARRAY(float, scratch, 8);
    int32_t token = first_token + (int32_t)blockIdx.x;
    float largest = transform_vector(p, token, scratch);
    if (vectors) round_vector(p, token, blockIdx.x, largest, scratch);
}
