// Normalizes, gates or scales the input vector of a product and rounds it to half precision, in the orders in which the products
// read it.
#include "prepare.cuh"

// grid tokens, block 256
// p            in device memory
// first_token  row of x, up and y that the first block works on. Its vector is the first of xp, or in slot 0 of side
// vectors      which vectors to write, besides y: 0 none, 1 xp, 2 side (SLOTS tokens at most)
extern "C" __global__ void __launch_bounds__(256) x_prepare(const prepare_task* p, int32_t first_token, int32_t vectors) {
    SHARED_ARRAY(float, scratch, 8);
    int32_t token = first_token + (int32_t)blockIdx.x;
    float largest = transform_vector(p, token, scratch);
    if (vectors) round_vector(p, token, blockIdx.x, vectors == 2, largest, scratch);
}
