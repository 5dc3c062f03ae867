// Runs blocks: every CUDA thread is a fiber, a warp's fibers meet at collectives, host threads take blocks in turn.
#include "fiber.h"
#include "runtime.h"
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <thread>

namespace emu {

__thread Thread* self;

namespace {

enum : size_t { STACK_BYTES = 64 << 10 };
enum : uint32_t { LANES = 32, MAX_THREADS = 1024 };
enum State : uint8_t { RUNNABLE, IN_COLLECTIVE, IN_BARRIER, DONE };

struct Fibre : Thread {
    Fiber fiber;
    uint32_t index, lane, warp;
    State state;
    Kind kind; // of the collective it waits in
    uint32_t mask, value, result;
    int32_t source;
};

} // namespace

// One host thread's machinery: the fibers of one block at a time.
struct Worker {
    std::vector<Fibre> fibres{MAX_THREADS};
    uint32_t n = 0; // threads of a block
    char* stacks = nullptr;
    SharedMemory memory;
    Fiber scheduler;
    const Launch* launch = nullptr;
    uint32_t n_done = 0, n_barrier = 0;
    uint16_t block_epoch = 0, warp_epoch[MAX_THREADS / LANES] = {};
    uint64_t turn = 0; // counts what Order needs
    std::string error;

    Worker();
    ~Worker() { munmap(stacks, MAX_THREADS * STACK_BYTES); }
    Worker(const Worker&) = delete;
    void run_block(const Launch& l, uint3 block_idx);
    void run_threads();
    void resume(Fibre& f);
    std::string stuck() const;
};

namespace {

thread_local Worker* worker;

// Numbers that differ from launch to launch but not from run to run, unless ELLM_EMU_SEED says so.
uint64_t mixed(uint64_t n) {
    static const uint64_t seed = [] {
        const char* s = getenv("ELLM_EMU_SEED");
        return s ? strtoull(s, nullptr, 10) : 1;
    }();
    n = (n + seed) * 0x9e3779b97f4a7c15; // splitmix64 (Steele, Lea, Flood 2014)
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9;
    n = (n ^ n >> 27) * 0x94d049bb133111eb;
    return n ^ n >> 31;
}

// An order of 0 … n − 1: start, start + step, …, modulo n.
struct Order {
    uint64_t n, start, step;

    Order(uint64_t count, uint64_t number) : n(count), start(mixed(number) % count), step(mixed(~number) % count) {
        while (std::gcd(step, n) != 1) step++;
    }
    uint64_t operator[](uint64_t i) const { return (uint64_t)((start + (unsigned __int128)i * step) % n); }
};

Fibre& running() { return *static_cast<Fibre*>(self); }

std::string name_thread(const Fibre& f, const Launch& l) {
    char s[256];
    snprintf(s, sizeof s, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u)", l.kernel->name, f.block_idx.x, f.block_idx.y,
        f.block_idx.z,
        f.thread_idx.x, f.thread_idx.y, f.thread_idx.z);
    return s;
}

const char* kind_name(Kind k) {
    switch (k) {
    case SHUFFLE: return "a shuffle";
    case BALLOT: return "a ballot";
    case SYNC_WARP: return "__syncwarp";
    case SYNC_THREADS: return "__syncthreads";
    default: return "nothing";
    }
}

void to_scheduler() { fiber_switch(&running().fiber, &worker->scheduler); }

void thread_main() {
    worker->launch->kernel->call(worker->launch->args);
    running().state = DONE;
    worker->n_done++;
    to_scheduler();
    __builtin_unreachable();
}

} // namespace

Worker::Worker() {
    stacks = (char*)mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) {
        fprintf(stderr, "ellm-emu: no memory for thread stacks\n");
        exit(1);
    }
}

void Worker::resume(Fibre& f) {
    self = &f;
    fiber_switch(&scheduler, &f.fiber);
}

// Lets every warp run until all its threads wait at the block's barrier or are done. The order of warps and lanes changes each
// time.
void Worker::run_threads() {
    uint32_t n_warps = (n + LANES - 1) / LANES;
    for (bool progress = true; progress && n_done < n;) {
        progress = false;
        Order warps(n_warps, ++turn);
        uint32_t flip = (uint32_t)mixed(turn) % LANES;
        for (uint32_t k = 0; k < n_warps; k++) {
            uint32_t first = (uint32_t)warps[k] * LANES;
            for (bool again = true; again;) {
                again = false;
                for (uint32_t lane = 0; lane < LANES; lane++) {
                    uint32_t i = first + (lane ^ flip);
                    if (i >= n || fibres[i].state != RUNNABLE) continue;
                    again = progress = true;
                    resume(fibres[i]);
                    if (!error.empty()) return;
                }
            }
        }
        if (n_barrier == n) {
            n_barrier = 0;
            block_epoch++;
            for (uint32_t i = 0; i < n; i++) fibres[i].state = RUNNABLE;
            progress = true;
        }
    }
    if (n_done < n) error = stuck();
}

// Explains why no thread can go on.
std::string Worker::stuck() const {
    for (uint32_t i = 0; i < n; i++) {
        const Fibre& f = fibres[i];
        if (f.state != IN_COLLECTIVE) continue;
        for (uint32_t k = 0; k < n; k++) {
            const Fibre& g = fibres[k];
            if (g.warp != f.warp || !(f.mask >> g.lane & 1)) continue;
            const char* where = g.state == DONE ? "has exited" : g.state == IN_BARRIER ? "waits at __syncthreads" : nullptr;
            if (where) return name_thread(f, *launch) + ": divergent collective: waits in " + kind_name(f.kind)
                + " for lane " + std::to_string(g.lane) + ", which " + where;
        }
        uint32_t present = n - f.warp * LANES;
        if (present < LANES && f.mask >> present) return name_thread(f, *launch) + ": " + kind_name(f.kind)
            + " names lanes that the block does not have";
    }
    for (uint32_t i = 0; i < n; i++)
        if (fibres[i].state == IN_BARRIER) return name_thread(fibres[i], *launch)
            + ": divergent barrier: waits at __syncthreads, but other threads have exited or wait elsewhere";
    return "kernel " + std::string(launch->kernel->name) + ": threads wait for each other";
}

void Worker::run_block(const Launch& l, uint3 block_idx) {
    launch = &l;
    n = l.block.x * l.block.y * l.block.z;
    n_done = n_barrier = 0;
    block_epoch = 0;
    memset(warp_epoch, 0, sizeof warp_epoch);
    shared->reset(l.shared_bytes);
    async_begin_block();
    if (checked) races_begin_block((block_idx.z * l.grid.y + block_idx.y) * l.grid.x + block_idx.x, n);
    for (uint32_t i = 0; i < n; i++) {
        Fibre& f = fibres[i];
        f.thread_idx = {i % l.block.x, i / l.block.x % l.block.y, i / (l.block.x * l.block.y)};
        f.block_idx = block_idx;
        f.block_dim = l.block;
        f.grid_dim = l.grid;
        f.index = i;
        f.lane = i % LANES;
        f.warp = i / LANES;
        f.state = RUNNABLE;
        fiber_init(&f.fiber, stacks + i * STACK_BYTES, STACK_BYTES, thread_main);
    }
    run_threads();
    self = nullptr;
}

namespace {

// All of the mask's lanes have arrived: checks that they agree and hands out the results.
void complete(Fibre* warp, const Fibre& f) {
    uint32_t ballot = 0;
    for (uint32_t l = 0; l < LANES; l++) {
        if (!(f.mask >> l & 1)) continue;
        const Fibre& g = warp[l];
        if (g.kind != f.kind || g.mask != f.mask) {
            char masks[64];
            snprintf(masks, sizeof masks, " (mask %08x) and %08x", f.mask, g.mask);
            fail(std::string("divergent collective: ") + kind_name(f.kind) + masks + " in " + kind_name(g.kind) +
                " of lane " + std::to_string(l));
        }
        if (g.value) ballot |= 1u << l;
    }
    for (uint32_t l = 0; l < LANES; l++) {
        if (!(f.mask >> l & 1)) continue;
        Fibre& g = warp[l];
        if (f.kind == SHUFFLE && (uint32_t)g.source < LANES && !(f.mask >> g.source & 1))
            fail("shuffle reads lane " + std::to_string(g.source) + ", which its mask does not name");
        g.result = f.kind == BALLOT ? ballot : (uint32_t)g.source < LANES ? warp[g.source].value : g.value;
        g.state = RUNNABLE;
    }
    if (f.kind == SYNC_WARP) worker->warp_epoch[f.warp]++;
}

} // namespace

uint32_t lane_id() { return running().lane; }

uint32_t warp_collective(Kind kind, uint32_t mask, uint32_t value, int32_t source) {
    Fibre& f = running();
    if (!(mask >> f.lane & 1)) fail(std::string(kind_name(kind)) + " with a mask that does not name the calling lane");
    f.kind = kind;
    f.mask = mask;
    f.value = value;
    f.source = source;
    f.state = IN_COLLECTIVE;
    Fibre* warp = &worker->fibres[f.warp * LANES];
    uint32_t present = worker->n - f.warp * LANES, arrived = 0;
    for (uint32_t l = 0; l < LANES && l < present; l++) arrived |= (uint32_t)(warp[l].state == IN_COLLECTIVE) << l;
    if ((arrived & mask) == mask)
        complete(warp, f);
    else
        to_scheduler();
    return f.result;
}

void block_barrier() {
    running().state = IN_BARRIER;
    worker->n_barrier++;
    to_scheduler();
}

Epochs epochs() {
    const Fibre& f = running();
    return {(uint16_t)f.index, worker->block_epoch, worker->warp_epoch[f.warp]};
}

uint16_t warp_of(uint16_t thread) { return thread / LANES; }

std::string where() { return self && worker ? name_thread(running(), *worker->launch) : "outside of kernels"; }

void fail(const std::string& message) {
    worker->error = where() + ": " + message;
    to_scheduler(); // never resumed
    __builtin_unreachable();
}

Machine::Machine(int n_threads) {
    if (checked) n_threads = 1;
    for (int i = 0; i < n_threads; i++) workers.emplace_back(new Worker);
}

Machine::~Machine() = default;

std::string Machine::launch(const Launch& l) {
    uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z, blocks = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
    if (!threads || threads > MAX_THREADS) return "block of " + std::to_string(threads) + " threads, allowed are 1 to 1024";
    if (threads > l.kernel->max_threads)
        return "kernel " + std::string(l.kernel->name) + ": block of " + std::to_string(threads) +
            " threads, its __launch_bounds__ are " +
               std::to_string(l.kernel->max_threads);
    if (!l.grid.x || l.grid.x > 0x7fffffffu || !l.grid.y || l.grid.y > 65535 || !l.grid.z || l.grid.z > 65535)
        return "grid dimensions outside of CUDA's limits";
    if (l.shared_bytes > SHARED_LIMIT) return "more than 48 KB of shared memory";

    if (checked) races_begin_launch();
    Order order(blocks, ++n_launches);
    std::atomic<uint64_t> next{0};
    auto work = [&](Worker* w) {
        worker = w;
        shared = &w->memory;
        w->error.clear();
        for (uint64_t i; (i = next.fetch_add(1)) < blocks;) {
            uint64_t b = order[i];
            w->run_block(l, {(uint32_t)(b % l.grid.x), (uint32_t)(b / l.grid.x % l.grid.y), (uint32_t)(b / l.grid.x / l.grid.y)});
            if (!w->error.empty()) next = blocks;
        }
        worker = nullptr;
        shared = nullptr;
    };
    std::vector<std::thread> pool;
    size_t n = (size_t)std::min<uint64_t>(workers.size(), blocks);
    for (size_t i = 1; i < n; i++) pool.emplace_back(work, workers[i].get());
    work(workers[0].get());
    for (std::thread& t : pool) t.join();
    for (size_t i = 0; i < n; i++)
        if (!workers[i]->error.empty()) return workers[i]->error;
    return "";
}

} // namespace emu
