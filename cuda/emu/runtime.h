// The emulator's inside: workers that run blocks, and the memory they may touch.
#pragma once
#include "cuda_host.h"
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace emu {

// ---- kernels (generated list, kernels.cpp) ----
struct Kernel {
    const char* name;
    int n_args;
    void (*call)(const uint64_t* args); // each argument in the low bytes of its slot
};
extern const Kernel kernels[];
extern const int n_kernels;

struct Launch {
    const Kernel* kernel;
    dim3 grid, block;
    uint32_t shared_bytes;
    const uint64_t* args;
};
struct Worker;
// Runs kernels on a number of host threads.
class Machine {
public:
    explicit Machine(int n_threads);
    ~Machine();
    // Runs all blocks. Returns "" or what went wrong, with kernel, block and thread.
    std::string launch(const Launch& l);

private:
    std::vector<std::unique_ptr<Worker>> workers;
};

// Ends the running thread and the launch with a message.
[[noreturn]] void fail(const std::string& message);
// Names the kernel, block and thread now running on this host thread.
std::string where();

// ---- device memory (memory.cpp) ----
// Maps `size` bytes of a file at address base.
std::string map_arena(const char* path, uint64_t size, uint64_t base);
std::string arena_alloc(uint64_t ptr, uint64_t size); // allows access to [ptr, ptr + size)
std::string arena_free(uint64_t ptr);
bool arena_contains(uint64_t addr);

// ---- shared memory of the worker's current block (memory.cpp) ----
enum : uint32_t { SHARED_LIMIT = 48 << 10, SHARED_SPAN = SHARED_LIMIT + 4096 };
struct Access { uint16_t thread, block_epoch, warp_epoch; uint8_t used, many; };
struct SharedMemory {
    uint8_t below[1 << 20]; // never touched: wild indices land here and behind
    alignas(64) uint8_t bytes[SHARED_SPAN];
    uint8_t above[1 << 20];
    uint8_t valid[SHARED_SPAN / 4] = {}; // leading valid bytes of each word
    Access written[SHARED_SPAN / 4] = {}, read[SHARED_SPAN / 4] = {};
    uint32_t dynamic_bytes = 0, used = 0, top = 0; // used counts against the limit; top includes the gaps
    std::vector<std::pair<const void*, uint32_t>> statics; // site → offset
    void reset(uint32_t dynamic);
    uint32_t extend(uint32_t size);
};
extern thread_local SharedMemory* shared;
// Epochs of the running thread: how many barriers its block, and how many __syncwarp its warp have passed.
struct Epochs { uint16_t thread, block, warp; };
Epochs epochs();
uint16_t warp_of(uint16_t thread);

} // namespace emu
