// Deliberate bugs: each is reported, or out of the emulator's reach for a reason that is given here, and then must run without a
// report, so that this list stays true. "emu-selftest --bugs" prints it.
#include "bugs.h"
#include <stdio.h>

namespace {

enum : uint64_t { SIZE = 4096, STRIDE = 65536 };

struct Bug {
    const char* kernel;
    uint32_t blocks, threads, shared;
    const char* args;       // A, B, C: the allocations; numbers
    const char* reported;   // part of the message; nullptr = none
    const char* why;        // out of reach because …; of legal kernels: what they are
};

const char *TAGS = "pointers carry no tag of their allocation",
    *SITES = "g++ duplicates collectives, so that call sites differ in correct kernels",
           *VALUES = "values carry no mark of being undefined (of device memory, Poison makes them NaN)";

const Bug BUGS[] = {
    {"bug_no_barrier", 1, 64, 0, "A", "shared memory: race", nullptr},
    {"bug_reader_first", 1, 64, 0, "A", "shared memory: race", nullptr},
    {"bug_no_syncwarp", 1, 32, 0, "A", "shared memory: race", nullptr},
    {"bug_shuffle_as_fence", 1, 32, 0, "A", "shared memory: race", nullptr},
    {"bug_same_value_writes", 1, 64, 0, "A", "shared memory: race", nullptr},
    {"legal_neighbouring_bytes", 1, 64, 0, "A", "shared memory: race", "stricter than hardware: bank conflicts by another name"},
    {"bug_second_reader", 1, 96, 0, "A", "shared memory: race", nullptr},
    {"bug_unwritten_shared", 1, 32, 0, "A", "no thread of the block has written", nullptr},
    {"bug_unwritten_dynamic", 1, 32, 128, "A", "no thread of the block has written", nullptr},
    {"bug_unwritten_byte", 1, 32, 4, "A", "at offset 2 of what no thread", nullptr},
    {"bug_unwritten_local", 1, 32, 0, "A", nullptr, VALUES},
    {"bug_unwritten_global", 1, 32, 0, "BA", nullptr, VALUES},
    {"bug_misaligned_part", 1, 32, 0, "BA", "misaligned read", nullptr},
    {"bug_misaligned_whole", 1, 32, 0, "BA", "misaligned read", nullptr},
    {"bug_misaligned_8_bytes", 1, 32, 0, "BA", "misaligned read", nullptr},
    {"bug_misaligned_shared", 1, 32, 1024, "A", "misaligned read", nullptr},
    {"bug_misaligned_ldg", 1, 32, 0, "BA", "misaligned", nullptr},
    {"bug_past_the_end", 1, 32, 0, "BA 1024", "outside of every allocation", nullptr},
    {"bug_other_allocation", 1, 32, 0, "BA 16384", nullptr, TAGS},
    {"bug_local_index", 1, 32, 0, "A 40", "outside of a local array", nullptr},
    {"bug_other_shared_array", 1, 64, 0, "A 72", nullptr, TAGS},
    {"bug_block_reads_block", 2, 32, 0, "BA", "which nothing orders", nullptr},
    {"bug_blocks_write", 2, 32, 0, "B", "of another block, which nothing orders", nullptr},
    {"legal_last_block", 4, 32, 0, "BCA", nullptr, "legal"},
    {"bug_last_block_first_fence", 4, 32, 0, "BCA", "no __threadfence before its atomic", nullptr},
    {"bug_last_block_second_fence", 4, 32, 0, "BCA", "without a __threadfence after", nullptr},
    {"bug_readers_in_blocks", 4, 32, 0, "BCA", "which nothing orders", nullptr},
    {"bug_warp_reads_warp", 1, 64, 0, "BA", "without a barrier between", nullptr},
    {"bug_lane_reads_lane", 1, 32, 0, "BA", "without __syncwarp between", nullptr},
    {"legal_lane_bytes", 1, 32, 0, "BA", nullptr, "legal"},
    {"bug_ldg_of_written", 1, 32, 0, "BA", "(__ldg) of what the same launch has written", nullptr},
    {"bug_write_after_ldg", 1, 32, 0, "BA", nullptr,
        "the last block of a launch rewrites the prepared vectors that the launch has read"},
    {"bug_launch_bounds", 1, 128, 0, "A", "its __launch_bounds__ are 64", nullptr},
    {"bug_divergent_shuffle", 1, 32, 0, "A", "divergent collective", nullptr},
    {"bug_two_shuffles_meet", 1, 32, 0, "A", nullptr, SITES},
    {"bug_two_barriers_meet", 1, 64, 0, "A", nullptr, SITES},
    {"bug_barrier_in_divergence", 1, 32, 0, "A", nullptr, SITES},
    {"legal_barrier_after_exit", 1, 64, 0, "A", "divergent barrier", "stricter than hardware, which lets whole warps leave"},
    {"bug_spin", 5, 32, 0, "BA", "which nothing orders", nullptr},
    {"bug_int_overflow", 1, 32, 0, "A 152064 151936 B", "overflow of a signed product", nullptr},
    {"bug_shift_by_32", 1, 32, 0, "A 32", "by 32 bits", nullptr},
    {"bug_copy_no_wait", 1, 64, 0, "BA", "asynchronous copy is on its way", nullptr},
    {"bug_copy_wait_for_other", 1, 64, 0, "BA", "asynchronous copy is on its way", nullptr},
    {"bug_copy_no_commit", 1, 64, 0, "BA", "asynchronous copy is on its way", nullptr},
    {"bug_copy_no_barrier", 1, 64, 0, "BA", "asynchronous copy is on its way", nullptr},
    {"bug_copy_over_readers", 1, 64, 0, "BA", "shared memory: race", nullptr},
    {"bug_copy_misaligned", 1, 64, 0, "BA", "misaligned read", nullptr},
    {"legal_copy_stages", 1, 64, 0, "BA", nullptr, "legal"},
    {"bug_half_overflow", 1, 32, 0, "A", nullptr, "infinity is a value that kernels may want"},
};

std::vector<uint64_t> arguments(const char* s, uint64_t base) {
    std::vector<uint64_t> args;
    while (*s) {
        char* end = (char*)s + 1;
        if (*s >= 'A' && *s <= 'C') args.push_back(base + (uint64_t)(*s - 'A') * STRIDE);
        if (*s >= '0' && *s <= '9') args.push_back(strtoull(s, &end, 10));
        s = end;
    }
    return args;
}

} // namespace

int test_bugs(emu::Machine& machine, uint64_t base, bool print) {
    int wrong = 0, found = 0, silent = 0;
    for (int i = 0; i < 3; i++) emu::arena_alloc(base + i * STRIDE, SIZE);
    for (const Bug& b : BUGS) {
        const emu::Kernel* kernel = nullptr;
        for (int i = 0; i < emu::n_kernels; i++)
            if (!strcmp(b.kernel, emu::kernels[i].name)) kernel = &emu::kernels[i];
        for (int i = 0; i < 3; i++) memset((void*)(base + i * STRIDE), 0, SIZE);
        std::vector<uint64_t> args = arguments(b.args, base);
        std::string error = kernel ? machine.launch({kernel, {b.blocks, 1, 1}, {b.threads, 1, 1}, b.shared, args.data()}) :
            "no such kernel";
        bool ok = b.reported ? error.find(b.reported) != std::string::npos : error.empty();
        if (!ok) fprintf(stderr, "FAIL: %s: expected \"%s\", got \"%s\"\n", b.kernel, b.reported ? b.reported : "",
            error.c_str());
        wrong += !ok;
        found += b.reported && !b.why;
        silent += !b.reported && strncmp(b.kernel, "legal", 5);
        if (print) printf("%-28s %-9s %s\n", b.kernel, b.reported ? "reported" : "silent", b.why ? b.why : b.reported);
    }
    for (int i = 0; i < 3; i++) emu::arena_free(base + i * STRIDE);
    printf("deliberate bugs: %d reported, %d out of reach\n", found, silent);
    return wrong;
}
