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
    uint32_t max_threads; // of a block (__launch_bounds__)
    void (*call)(const uint64_t* args); // each argument in the low bytes of its slot
};
extern const Kernel kernels[];
extern const int n_kernels;
extern const bool checked; // the kernels were compiled with checks; their blocks then run one after the other

struct Launch {
    const Kernel* kernel;
    dim3 grid, block;
    uint32_t shared_bytes;
    const uint64_t* args;
};
struct Worker;
// Runs kernels on a number of host threads, blocks and warps in an order that changes from launch to launch.
class Machine {
public:
    explicit Machine(int n_threads);
    ~Machine();
    // Runs all blocks. Returns "" or what went wrong, with kernel, block and thread.
    std::string launch(const Launch& l);

private:
    std::vector<std::unique_ptr<Worker>> workers;
    uint64_t n_launches = 0;
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
    // bytes of each word that a thread of the block has written, one bit each; or IN_FLIGHT: an asynchronous copy brings them
    uint8_t filled[SHARED_SPAN / 4] = {};
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

// Checks an access of the running thread like one of the kernel's own.
void touch_memory(const void* p, uint32_t size, bool write);
// An asynchronous copy to p has begun; has arrived.
void shared_in_flight(const void* p, uint32_t size);
void shared_arrived(const void* p, uint32_t size);

// ---- asynchronous copies (async.cpp) ----
void async_begin_block();

// ---- races in device memory (races.cpp) ----
std::string races_map(uint64_t base, uint64_t size);
void races_begin_launch();
void races_begin_block(uint32_t block, uint32_t n_threads);
// Ends the launch if another thread of it touched [addr, addr + size) unordered. Notes the access.
void races_check(uint64_t addr, uint32_t size, bool write);

} // namespace emu
