// Which addresses kernels may touch: registered parts of the arena, the block's shared memory, and the host's own memory
// (stacks, thread-local variables). The compiler calls the hooks below before every access of a kernel
// (-fsanitize=kernel-address with out-of-line checks); the build without checks simply lacks these calls.
#include "runtime.h"
#include <errno.h>
#include <fcntl.h>
#include <map>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace emu {

thread_local SharedMemory* shared;

namespace {

// Addresses within AROUND of the arena are meant to be device memory; the host's own mappings lie elsewhere.
const uint8_t IN_FLIGHT = 0x80; // in SharedMemory::filled
const uint64_t GRANULE = 16, MAX_ARENA = 1ull << 40, AROUND = 1ull << 42;

struct Arena {
    uint64_t base = 0, size = 0;
    uint8_t* valid = nullptr; // per 16 bytes: how many of them, from the first, may be touched
    std::map<uint64_t, uint64_t> blocks;
} arena;

std::string hex(uint64_t v) {
    char s[32];
    snprintf(s, sizeof s, "0x%llx", (unsigned long long)v);
    return s;
}

std::string describe(uint64_t addr, uint32_t size, bool write) {
    return std::string(write ? "write" : "read") + " of " + std::to_string(size) + " bytes at " + hex(addr);
}

// Says which block is near an address that belongs to none.
std::string neighbour(uint64_t addr) {
    auto after = arena.blocks.upper_bound(addr);
    if (after == arena.blocks.begin()) return "";
    auto b = std::prev(after);
    return ", " + std::to_string(addr - b->first) + " bytes after the start of the allocation at " + hex(b->first) + " of " +
        std::to_string(b->second) + " bytes";
}

void set_valid(uint64_t ptr, uint64_t size, bool on) {
    uint64_t g = (ptr - arena.base) / GRANULE;
    memset(arena.valid + g, on ? (int)GRANULE : 0, size / GRANULE);
    if (size % GRANULE) arena.valid[g + size / GRANULE] = on ? size % GRANULE : 0;
}

void check_arena(uint64_t addr, uint32_t size, bool write) {
    uint64_t offset = addr - arena.base;
    for (uint32_t done = 0; done < size;) {
        uint32_t in = (offset + done) % GRANULE, n = std::min((uint32_t)GRANULE - in, size - done);
        if (offset + done >= arena.size || arena.valid[(offset + done) / GRANULE] < in + n)
            fail("global memory: " + describe(addr, size, write) + " outside of every allocation" + neighbour(addr));
        done += n;
    }
}

// Two threads touched a word, one of them wrote, and no barrier lies between.
[[noreturn]] void race(uint32_t offset, uint16_t other, bool write, bool other_write) {
    fail(std::string("shared memory: race: ") + (write ? "write" : "read") + " at offset " + std::to_string(offset) +
        " after a " +
         (other_write ? "write" : "read") + " by thread " + std::to_string(other) + " without a barrier between");
}

bool ordered(const Access& a, const Epochs& now) {
    if (!a.used || a.block_epoch != now.block) return true;
    if (warp_of(a.thread) != warp_of(now.thread) || a.many == 2) return false;
    return a.warp_epoch != now.warp || (!a.many && a.thread == now.thread);
}

void note_read(Access& r, const Epochs& now) {
    uint8_t many = 0; // 1: several threads of one warp, 2: of several warps, since the last barrier
    if (r.used && r.block_epoch == now.block && r.thread != now.thread) many = warp_of(r.thread) != warp_of(now.thread) ? 2 : 1;
    if (r.used && r.block_epoch == now.block && r.many > many) many = r.many;
    r = {now.thread, now.block, now.warp, 1, many};
}

void check_shared(uint64_t addr, uint32_t size, bool write) {
    uint32_t offset = (uint32_t)(addr - (uint64_t)shared->bytes);
    Epochs now = epochs();
    for (uint32_t done = 0; done < size;) {
        uint32_t in = (offset + done) % 4, n = std::min(4 - in, size - done), word = (offset + done) / 4;
        if (word >= SHARED_SPAN / 4 || shared->valid[word] < in + n)
            fail("shared memory: " + describe(addr, size, write) + ", offset " + std::to_string((int32_t)offset) +
                ", outside of the block's " +
                 std::to_string(shared->dynamic_bytes) + " dynamic bytes and its arrays");
        Access &w = shared->written[word], &r = shared->read[word];
        uint8_t mask = (uint8_t)(((1u << n) - 1) << in);
        if (shared->filled[word] & IN_FLIGHT)
            fail("shared memory: " + describe(addr, size, write) + ", offset " + std::to_string(offset + done) +
                ", where an asynchronous copy is on its way: its thread has not waited for it");
        if (write) shared->filled[word] |= mask;
        if (mask & ~shared->filled[word])
            fail("shared memory: read at offset " + std::to_string(offset + done) +
                " of what no thread of the block has written");
        if (!ordered(w, now)) race(offset + done, w.thread, write, true);
        if (write && !ordered(r, now)) race(offset + done, r.thread, write, false);
        if (write)
            w = {now.thread, now.block, now.warp, 1, 0};
        else
            note_read(r, now);
        done += n;
    }
}

void check(uint64_t addr, uint32_t size, bool write) {
    if (!self) return;
    bool in_arena = addr - (arena.base - AROUND) < 2 * AROUND, in_shared = addr - (uint64_t)shared < sizeof(SharedMemory);
    if (!in_arena && !in_shared) {
        if (addr < 4096) fail("null pointer: " + describe(addr, size, write));
        return;
    }
    if (size <= 16 && (size & (size - 1)) == 0 && addr % size) fail("misaligned " + describe(addr, size, write));
    if (in_arena) {
        check_arena(addr, size, write);
        races_check(addr, size, write);
    } else {
        check_shared(addr, size, write);
    }
}

} // namespace

void touch_memory(const void* p, uint32_t size, bool write) { check((uint64_t)p, size, write); }

void shared_in_flight(const void* p, uint32_t size) {
    uint64_t offset = (uint64_t)p - (uint64_t)shared->bytes;
    if (offset >= SHARED_SPAN) fail("an asynchronous copy to what is not shared memory");
    memset(shared->bytes + offset, 0xcb, size);
    memset(shared->filled + offset / 4, IN_FLIGHT, size / 4);
}

void shared_arrived(const void* p, uint32_t size) {
    memset(shared->filled + ((uint64_t)p - (uint64_t)shared->bytes) / 4, 0, size / 4);
    check((uint64_t)p, size, true);
}

void SharedMemory::reset(uint32_t dynamic) {
    uint32_t words = top / 4;
    memset(valid, 0, words);
    memset(filled, 0, words);
    memset(written, 0, words * sizeof(Access));
    memset(read, 0, words * sizeof(Access));
    statics.clear();
    used = top = 0;
    dynamic_bytes = dynamic;
    extend(dynamic);
}

// Adds an array after the others, with a gap that may not be touched.
uint32_t SharedMemory::extend(uint32_t size) {
    uint32_t at = top;
    used += size;
    if (used > SHARED_LIMIT || at + size + 32 > SHARED_SPAN) fail("more than 48 KB of shared memory");
    memset(bytes + at, 0xcb, size); // what a kernel reads before writing is garbage
    memset(valid + at / 4, 4, size / 4);
    if (size % 4) valid[(at + size) / 4] = size % 4;
    top = (at + size + 16 + 15) & ~15u;
    return at;
}

void* shared_dynamic() { return shared->bytes; }

void* shared_static(const void* site, uint32_t size) {
    for (auto& s : shared->statics)
        if (s.first == site) return shared->bytes + s.second;
    uint32_t at = shared->extend(size);
    shared->statics.emplace_back(site, at);
    return shared->bytes + at;
}

std::string map_arena(const char* path, uint64_t size, uint64_t base) {
    if (!size || size > MAX_ARENA || base % 4096 || base < AROUND)
        return "memory size must be 1 byte to 1 TB, and the base a multiple of 4096 from 4 TB on";
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return std::string("cannot open ") + path + ": " + strerror(errno);
    struct stat st;
    if (fstat(fd, &st) || (uint64_t)st.st_size < size) {
        close(fd);
        return std::string(path) + " is smaller than " + std::to_string(size) + " bytes";
    }
    void* want = (void*)(uintptr_t)base;
#ifdef MAP_FIXED_NOREPLACE
    void* got = mmap(want, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
#else
    void* got = mmap(want, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
#endif
    close(fd);
    if (got != want) return "cannot map the memory file at " + hex(base);
    arena.valid = (uint8_t*)mmap(nullptr, size / GRANULE + 1, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena.valid == MAP_FAILED) return "no memory for the map of allocations";
    arena.base = base;
    arena.size = size;
    return checked ? races_map(base, size) : "";
}

std::string arena_alloc(uint64_t ptr, uint64_t size) {
    if (ptr % GRANULE || !size || ptr < arena.base || ptr - arena.base > arena.size || size > arena.size - (ptr - arena.base))
        return "alloc " + hex(ptr) + " " + std::to_string(size) + ": must be 16-byte aligned and lie within the memory";
    auto after = arena.blocks.lower_bound(ptr);
    bool overlaps = after != arena.blocks.end() && after->first < ptr + size;
    if (after != arena.blocks.begin()) {
        auto before = std::prev(after);
        overlaps = overlaps || before->first + before->second > ptr;
    }
    if (overlaps) return "alloc " + hex(ptr) + " " + std::to_string(size) + ": overlaps another allocation";
    arena.blocks[ptr] = size;
    set_valid(ptr, size, true);
    return "";
}

std::string arena_free(uint64_t ptr) {
    auto b = arena.blocks.find(ptr);
    if (b == arena.blocks.end()) return "free " + hex(ptr) + ": not allocated";
    set_valid(ptr, b->second, false);
    arena.blocks.erase(b);
    return "";
}

bool arena_contains(uint64_t addr) { return addr - arena.base < arena.size; }

} // namespace emu

#define HOOKS(n)                                                                                            \
    extern "C" void __asan_load##n##_noabort(uint64_t a) { emu::check(a, n, false); }                       \
    extern "C" void __asan_store##n##_noabort(uint64_t a) { emu::check(a, n, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
extern "C" void __asan_loadN_noabort(uint64_t a, uint64_t n) { emu::check(a, (uint32_t)n, false); }
extern "C" void __asan_storeN_noabort(uint64_t a, uint64_t n) { emu::check(a, (uint32_t)n, true); }
extern "C" void __asan_handle_no_return() {}
extern "C" void __asan_before_dynamic_init(const char*) {}
extern "C" void __asan_after_dynamic_init() {}
