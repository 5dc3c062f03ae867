// Causal convolutions of every channel over time: gated, in the layers of LFM2 without attention, and with SiLU, before the delta
// rule of Qwen 3.5.
#include "glu.cuh"
#include "states.cuh"

static const int32_t CONV_TAPS = 4; // most positions that one sees

// What both kernels do with the channels of a block. A thread per channel takes the tokens of the batch one after the other, so
// that sequences, their states and the order of both need no other care. GATED: see short_conv; otherwise see conv_silu.
template <bool GATED>
__device__ __forceinline__ void convolve(const float* x, float* y, const float* weights, float* states, const int32_t* from,
                                         const int32_t* to, int32_t tokens, int32_t width, int32_t kernel, int64_t place) {
    int32_t c = blockIdx.x * 64 + threadIdx.x, skip = CONV_TAPS - kernel; // taps that are 0
    if (c >= width) return;
    float w[CONV_TAPS], seen[CONV_TAPS]; // the present position last
#pragma unroll
    for (int32_t k = 0; k < CONV_TAPS; k++) {
        w[k] = k < skip ? 0 : weights[(int64_t)c * kernel + k - skip];
        seen[k] = 0;
    }
    for (int32_t t = 0; t < tokens; t++) {
        int32_t source = from[t], target = to[t];
        if (source != SAME_STATE) {
#pragma unroll
            for (int32_t k = 0; k < CONV_TAPS - 1; k++)
                seen[k] = source == EMPTY_STATE || k < skip ? 0 : states[source * place + (int64_t)(k - skip) * width + c];
        }
        const float* in = x + (int64_t)t * (GATED ? 3 : 1) * width + c;
        seen[CONV_TAPS - 1] = GATED ? in[0] * in[2 * (int64_t)width] : in[0];
        float sum = 0;
#pragma unroll
        for (int32_t k = 0; k < CONV_TAPS; k++) sum = fmaf(w[k], seen[k], sum);
        y[(int64_t)t * width + c] = GATED ? in[width] * sum : activation(sum, 1, 0);
#pragma unroll
        for (int32_t k = 0; k < CONV_TAPS - 1; k++) {
            seen[k] = seen[k + 1];
            if (target != SAME_STATE && k >= skip) states[target * place + (int64_t)(k - skip) * width + c] = seen[k];
        }
    }
}

// grid (width / 64, rounded up), block 64
// x        [tokens][3][width]: b, c and x of every channel
// y        [tokens][width]: c · Σ weights[k] · (b·x) of the last `kernel` positions
// weights  [width][kernel], the present position last
// states   products b·x of the last kernel − 1 positions, the oldest first: [kernel − 1][width] at every place
// from, to where a token's state comes from and goes to (states.cuh); place: floats from one place to the next
extern "C" __global__ void __launch_bounds__(64) short_conv(const float* x, float* y, const float* weights, float* states,
                                                             const int32_t* from, const int32_t* to, int32_t tokens,
                                                             int32_t width, int32_t kernel, int64_t place) {
    convolve<true>(x, y, weights, states, from, to, tokens, width, kernel, place);
}

// As short_conv, but x is [tokens][width], y is silu(Σ weights[k] · x), and states are of x.
extern "C" __global__ void __launch_bounds__(64) conv_silu(const float* x, float* y, const float* weights, float* states,
                                                            const int32_t* from, const int32_t* to, int32_t tokens,
                                                            int32_t width, int32_t kernel, int64_t place) {
    convolve<false>(x, y, weights, states, from, to, tokens, width, kernel, place);
}
