// How long a load takes on which the next depends (bench/kernels -rates).
#include "common.cuh"

// grid 1, block 1
// x      [any] numbers of elements of x, a cycle
// y      [1] the element that is reached after `steps` steps from element 0
extern "C" __global__ void __launch_bounds__(32) measure_chase(const uint32_t* x, uint32_t* y, int32_t steps) {
    uint32_t at = 0;
    for (int32_t i = 0; i < steps; i++) at = x[at];
    y[0] = at;
}
