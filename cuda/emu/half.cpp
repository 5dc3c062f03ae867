// Half precision in software, so that results do not depend on the host's instructions.
#include "cuda_host.h"

namespace emu {

float half_to_float(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, bits;
    float f;
    if (magnitude >= 0x0f800000) { // infinity, NaN
        bits = magnitude | 0x70000000;
    } else {
        memcpy(&f, &magnitude, 4);
        f *= 0x1p112f; // moves the exponent, also of subnormals
        memcpy(&bits, &f, 4);
    }
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&f, &bits, 4);
    return f;
}

uint16_t double_to_half(double d) {
    uint64_t bits;
    memcpy(&bits, &d, 8);
    uint16_t sign = (uint16_t)(bits >> 48 & 0x8000);
    int e = (int)(bits >> 52 & 0x7ff) - 1023, shift = 42; // of the 53-bit significand, to reach the half's unit
    uint64_t m = (bits & ((1ull << 52) - 1)) | 1ull << 52;
    if (e == 1024) return sign | (d != d ? 0x7fff : 0x7c00);
    if (e < -14) {
        shift += -14 - e;
        e = -14;
        if (shift > 54) return sign;
    }
    uint64_t r = (m + (1ull << (shift - 1)) - 1 + (m >> shift & 1)) >> shift; // 0 … 2048, with the implicit bit
    if (e > 15 || (e == 15 && r == 2048)) return sign | 0x7c00;
    return sign | (uint16_t)(((e + 14) << 10) + r); // the implicit bit adds 1 to the exponent
}

uint16_t half_fma(uint16_t a, uint16_t b, uint16_t c) {
    double p = (double)half_to_float(a) * half_to_float(b), z = half_to_float(c), s = p + z; // p is exact
    double t = s - p, error = (p - (s - t)) + (z - t);
    if (error != 0 && s == s && fabs(s) < 0x1p100) { // round to odd, so that the second rounding is right
        uint64_t bits;
        memcpy(&bits, &s, 8);
        if (!(bits & 1)) {
            bits += (error > 0) == (s > 0) ? 1 : -1;
            memcpy(&s, &bits, 8);
        }
    }
    return double_to_half(s);
}

} // namespace emu
