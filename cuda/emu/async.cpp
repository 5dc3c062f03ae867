// Copies from device to shared memory that run beside their thread (cp.async). The bytes arrive as late as they may: when the
// thread waits for their group. Until then nobody may touch the destination, and threads that are to read what has arrived need a
// barrier after the wait.
#include "runtime.h"

namespace emu {

namespace {

struct Copy {
    uint8_t* to;
    const void* from;
};
struct Copies {
    std::vector<Copy> open;                // of the group that has not been committed
    std::vector<std::vector<Copy>> groups; // committed, the oldest first
};
// [1024], on the heap: a library that is loaded late has little room for thread-local variables.
thread_local std::unique_ptr<Copies[]> copies;

enum : uint32_t { COPY_BYTES = 16, MAX_THREADS = 1024 };

void arrive(const Copy& c) {
    if (checked) shared_arrived(c.to, COPY_BYTES);
    memcpy(c.to, c.from, COPY_BYTES);
}

} // namespace

void async_begin_block() {
    if (!copies) return;
    for (uint32_t i = 0; i < MAX_THREADS; i++) {
        copies[i].open.clear();
        copies[i].groups.clear();
    }
}

void async_copy_16(void* to, const void* from) {
    if (!copies) copies.reset(new Copies[MAX_THREADS]);
    if (checked) {
        touch_memory(from, COPY_BYTES, false);
        touch_memory(to, COPY_BYTES, true);
        shared_in_flight(to, COPY_BYTES);
    }
    copies[epochs().thread].open.push_back({(uint8_t*)to, from});
}

void async_commit() {
    if (!copies) copies.reset(new Copies[MAX_THREADS]);
    Copies& c = copies[epochs().thread];
    c.groups.push_back(std::move(c.open));
    c.open.clear();
}

void async_wait(uint32_t most) {
    if (!copies) return;
    auto& groups = copies[epochs().thread].groups;
    while (groups.size() > most) {
        for (const Copy& c : groups.front()) arrive(c);
        groups.erase(groups.begin());
    }
}

} // namespace emu
