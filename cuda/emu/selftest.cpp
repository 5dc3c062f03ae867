// Tests of the emulator: every primitive gives what CUDA documents, every check fires, and its message names the place.
#include "bugs.h"
#include "runtime.h"
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

namespace {

enum : uint64_t { BASE = 0x200000000000, SIZE = 1 << 20, BUFFER = 1 << 16 };
int failures = 0;
emu::Machine* machine;

void expect(bool ok, const std::string& what) {
    if (ok) return;
    failures++;
    fprintf(stderr, "FAIL: %s\n", what.c_str());
}

uint32_t* words(uint64_t address) { return (uint32_t*)(uintptr_t)address; }

std::string run(const char* name, dim3 grid, dim3 block, uint32_t shared, std::vector<uint64_t> args) {
    for (int i = 0; i < emu::n_kernels; i++) {
        if (std::string(name) != emu::kernels[i].name) continue;
        expect((int)args.size() == emu::kernels[i].n_args, std::string(name) + ": number of arguments");
        return machine->launch({&emu::kernels[i], grid, block, shared, args.data()});
    }
    return std::string("no kernel ") + name;
}

void works(const char* name, dim3 grid, dim3 block, uint32_t shared, std::vector<uint64_t> args) {
    std::string error = run(name, grid, block, shared, args);
    expect(error.empty(), std::string(name) + ": " + error);
}

void refused(const char* name, uint32_t threads, uint32_t shared, std::vector<uint64_t> args, const char* message) {
    std::string error = run(name, {2, 1, 1}, {threads, 1, 1}, shared, args);
    bool ok = error.find(message) != std::string::npos && error.find(std::string("kernel ") + name) != std::string::npos;
    expect(ok, std::string(name) + ": expected \"" + message + "\", got \"" + error + "\"");
}

uint64_t slot(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

void test_launch() {
    uint32_t* out = words(BASE);
    works("t_index", {3, 2, 2}, {4, 3, 2}, 0, {BASE});
    for (uint32_t i = 0; i < 12 * 24; i++) expect(out[i] == i + 1000 * (i / 4 % 3) + 100000 * (i / 24 / 6),
        "t_index " + std::to_string(i));
    works("t_arguments", {1, 1, 1}, {1, 1, 1}, 0, {BASE, 0xdead0000fffffffb, (uint64_t) - (1ll << 40), slot(0.25f), 0x12c8});
    expect(out[0] == 1, "t_arguments");
    expect(run("t_index", {1, 1, 1}, {33, 32, 1}, 0, {BASE}).find("1056 threads") != std::string::npos, "too many threads");
    expect(!run("t_index", {0, 1, 1}, {1, 1, 1}, 0, {BASE}).empty(), "empty grid");
    expect(!run("t_index", {1, 1, 1}, {1, 1, 1}, 49153, {BASE}).empty(), "too much dynamic shared memory");
    expect(run("t_shared", {1, 1, 1}, {256, 1, 1}, 48 << 10, {BASE}).find("48 KB") != std::string::npos,
        "too much shared memory with arrays");
}

void test_warps() {
    uint32_t* out = words(BASE);
    works("t_shuffle", {1, 1, 1}, {64, 1, 1}, 0, {BASE});
    works("t_vote", {1, 1, 1}, {64, 1, 1}, 0, {BASE + 4096});
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t w = i / 32 * 32, l = i % 32, s[7];
        s[0] = w + 5;
        s[1] = w + l / 8 * 8 + (l + 1) % 8;
        s[2] = i ^ 16;
        s[3] = l < 3 ? i : i - 3;
        s[4] = l % 16 + 3 < 16 ? i + 3 : i;
        s[6] = w + (l < 16 ? 3 : 30);
        for (int k = 0; k < 7; k++)
            expect(out[64 * k + i] == (k == 5 ? 5 * (i ^ 1) : s[k] * s[k]), "t_shuffle " + std::to_string(k) + ", thread " +
                std::to_string(i));
        expect(out[1024 + i] == (i < 32 ? 0x49249249u : 0x92492492u), "ballot");
        expect(out[1088 + i] == (i < 32 ? 1u : 2u), "all, any");
    }
    works("t_shared", {5, 1, 1}, {256, 1, 1}, 1024, {BASE});
    for (uint32_t i = 0; i < 5 * 256; i++) expect(out[i] == 256 * 257 / 2 + i / 256, "t_shared");
    works("t_syncwarp", {1, 1, 1}, {32, 1, 1}, 0, {BASE});
    for (uint32_t i = 0; i < 32; i++) expect(out[i] == (i ^ 1) + 2, "t_syncwarp");
    out[0] = 0;
    out[1] = 0;
    works("t_atomic", {100, 1, 1}, {64, 1, 1}, 0, {BASE, BASE + 4});
    expect(out[0] == 6400 && out[1] == (uint32_t)slot(3200.0f), "t_atomic");
}

void test_bits() {
    uint32_t* out = words(BASE);
    works("t_bits", {1, 1, 1}, {1, 1, 1}, 0, {BASE});
    const uint32_t want[6] = {0x789abcde, 0x12345678, 0x774480ff, 8 + 3100 + 40000, 0x10f, 0xdeadbeef};
    for (int i = 0; i < 6; i++) expect(out[i] == want[i], "t_bits " + std::to_string(i));
    out[64] = 77;
    works("t_next_word", {1, 1, 1}, {1, 1, 1}, 0, {BASE + 256, BASE});
    expect(out[0] == 1 && out[1] == 1, "t_next_word");
}

// The half nearest to a finite number, ties to even, by search.
uint16_t nearest_half(long double v) {
    uint16_t sign = signbit(v) ? 0x8000 : 0, lo = 0, hi = 0x7c00; // 0x7c00 stands for 2^16 here
    long double a = fabsl(v);
    auto value = [](uint16_t h) { return h == 0x7c00 ? 65536.0L : (long double)emu::half_to_float(h); };
    while (hi - lo > 1) {
        uint16_t mid = (lo + hi) / 2;
        (value(mid) <= a ? lo : hi) = mid;
    }
    if (a >= 65536) return sign | 0x7c00;
    long double below = a - value(lo), above = value(hi) - a;
    return sign | (below < above || (below == above && lo % 2 == 0) ? lo : hi);
}

void test_half() {
    expect(emu::half_to_float(0x3c00) == 1 && emu::half_to_float(0xc100) == -2.5f && emu::half_to_float(1) == 0x1p-24f &&
        emu::half_to_float(0x7bff) == 65504 &&
               emu::half_to_float(0x7c00) > FLT_MAX && emu::half_to_float(0x7e00) != emu::half_to_float(0x7e00), "half_to_float");
    for (uint32_t h = 0; h < 0x10000; h++)
        if ((h & 0x7c00) != 0x7c00) expect(emu::double_to_half(emu::half_to_float((uint16_t)h)) == h,
            "round trip of half " + std::to_string(h));
    expect(emu::double_to_half(65519.999) == 0x7bff && emu::double_to_half(65520) == 0x7c00 &&
        emu::double_to_half(-1e300) == 0xfc00 && emu::double_to_half(0x1p-26) == 0 &&
               emu::double_to_half(0x1p-25) == 0 && emu::double_to_half(0x1.000001p-25) == 1 &&
                   emu::double_to_half(-0.0) == 0x8000 && (emu::double_to_half(NAN) & 0x7fff) > 0x7c00, "double_to_half");
    uint32_t state = 12345, *in = words(BASE), *out = words(BASE + 49152);
    auto random = [&] { return state = state * 1664525 + 1013904223; };
    const uint32_t n = 4096;
    for (uint32_t i = 0; i < 3 * n; i++) in[i] = (random() >> 16 & 0xbfff) | (random() & 0xbfff0000); // finite
    for (uint32_t i = 0; i < n; i += 4) in[3 * i + 2] &= 0x83ff83ff; // subnormal sums far below the product
    works("t_half", {n / 32, 1, 1}, {32, 1, 1}, 0, {BASE, BASE + 49152});
    for (uint32_t i = 0; i < n; i++) {
        for (int half = 0; half < 32; half += 16) {
            auto part = [&](int k) { return (long double)emu::half_to_float((uint16_t)(in[3 * i + k] >> half)); };
            long double exact = part(0) * part(1) + part(2); // fits the 64 bits of an x86 long double in all but extreme cases
            if (LDBL_MANT_DIG < 64 || (exact == 0)) continue;
            expect(nearest_half(exact) == (uint16_t)(out[i] >> half), "half2_fma of triple " + std::to_string(i));
        }
    }
}

// Small integers: every order of summation gives the same.
void test_mma() {
    const uint64_t a_at = BASE, b_at = BASE + 4096, c_at = BASE + 8192;
    uint16_t *a = (uint16_t*)words(a_at), *b = (uint16_t*)words(b_at);
    float *c = (float*)words(c_at), want[256];
    auto small = [](int i) { return (i * 37 + i / 7 * 11) % 17 - 8; };
    for (int i = 0; i < 512; i++) a[i] = emu::double_to_half(small(i));
    for (int i = 0; i < 256; i++) b[i] = emu::double_to_half(small(i + 1000));
    for (int i = 0; i < 256; i++) {
        int row = i / 8, col = i % 8, warp = row / 16;
        c[i] = want[i] = (float)small(i + 2000);
        for (int k = 0; k < 16; k++) want[i] += (float)(small(row * 16 + k) * small(1000 + (warp * 16 + k) * 8 + col));
    }
    works("t_mma", {1, 1, 1}, {64, 1, 1}, 0, {a_at, b_at, c_at});
    for (int i = 0; i < 256; i++) expect(c[i] == want[i], "mma_16x8x16, element " + std::to_string(i));
}

void test_memory() {
    const uint64_t outside = BASE + BUFFER - 4 * 63; // 63 words before the end
    refused("f_read", 64, 0, {outside, 0, BASE},
        "thread (63,0,0): global memory: read of 4 bytes at 0x200000010000 outside of every allocation, 65536 bytes after");
    refused("f_write", 64, 0, {BASE, (uint64_t)-1}, "global memory: write of 1 bytes at 0x1fffffffffff");
    refused("f_read", 1, 0, {0, 1, BASE}, "null pointer: read of 4 bytes at 0x4");
    refused("f_misaligned", 1, 0, {BASE}, "misaligned write at 0x200000000002, which is 2 modulo 4 (selftest.cu:");
    // Allocations: the last bytes of an odd size, freeing, refusing nonsense.
    const uint64_t p = BASE + (1 << 17);
    expect(emu::arena_alloc(p, 61).empty() && !emu::arena_alloc(p + 48, 16).empty() && emu::arena_alloc(p + 64, 16).empty(),
        "arena_alloc");
    refused("f_write", 62, 0, {p, 0}, "thread (61,0,0): global memory: write of 1 bytes");
    expect(emu::arena_free(p).empty() && !emu::arena_free(p).empty(), "arena_free");
    refused("f_write", 1, 0, {p, 0}, "outside of every allocation");
    expect(!emu::arena_alloc(BASE + SIZE - 16, 32).empty() && !emu::arena_alloc(BASE - 16, 16).empty() &&
        !emu::arena_alloc(p + 8, 8).empty() &&
               !emu::arena_alloc(p, ~0ull).empty(), "arena_alloc of nonsense");
    refused("f_shared_bounds", 1, 64, {16}, "offset 64, outside of the block's 64 dynamic bytes");
    refused("f_shared_bounds", 1, 64, {(uint64_t)-1}, "outside of");
    refused("f_shared_array", 32, 0, {8}, "shared memory: write of 4 bytes");
}

void test_collectives() {
    refused("f_race", 64, 0, {BASE}, "race: ");
    refused("f_race_in_warp", 32, 0, {BASE}, "race: ");
    refused("f_race_of_writers", 32, 0, {}, " without a barrier between");
    refused("f_exited", 32, 0, {BASE}, "divergent collective: waits in a shuffle for lane 7, which has exited");
    refused("f_other_collective", 32, 0, {BASE}, " (mask ffffffff) and ffffffff in a ");
    refused("f_other_mask", 32, 0, {}, "divergent collective");
    refused("f_not_in_mask", 32, 0, {}, "__syncwarp with a mask that does not name the calling lane");
    refused("f_unnamed_source", 32, 0, {BASE}, "shuffle reads lane 20, which its mask does not name");
    refused("f_barrier", 64, 0, {}, "divergent barrier: waits at __syncthreads");
    refused("f_barrier_and_warp", 64, 0, {}, "which waits at __syncthreads");
    refused("f_missing_lanes", 8, 0, {}, "names lanes that the block does not have");
}

} // namespace

int main(int argc, char**) {
    char path[] = "/tmp/emu-selftest-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, SIZE)) {
        perror(path);
        return 1;
    }
    expect(!emu::map_arena("/nonexistent/file", SIZE, BASE).empty() && !emu::map_arena(path, 2 * SIZE, BASE).empty() &&
        !emu::map_arena(path, SIZE, BASE + 1).empty(), "map_arena");
    std::string error = emu::map_arena(path, SIZE, BASE);
    unlink(path);
    close(fd);
    expect(error.empty(), error);
    error = emu::arena_alloc(BASE, BUFFER);
    expect(error.empty(), error);
    if (failures) return 1;
    emu::Machine three(3);
    machine = &three;
    test_launch();
    test_warps();
    test_bits();
    test_half();
    test_mma();
    test_memory();
    test_collectives();
    expect(!emu::arena_free(BASE).size(), "arena_free");
    failures += test_bugs(three, BASE + (1 << 18), argc > 1);
    printf("emulator self-test: %s\n", failures ? "FAILED" : "ok");
    return failures != 0;
}
