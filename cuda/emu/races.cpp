// Races in device memory: for every word, who read it and who wrote it last in the running launch, and whether barriers, fences
// and atomics order that before the running thread. The kernels that are compiled with checks run their blocks one after the
// other, so nothing here is locked.
//
// Order between blocks: an atomic publishes how far each thread of its block has come, and learns what other blocks have
// published at the same address. What a thread did before one of its fences, before its block's atomic, happens before what the
// learning block does after its next fence.
#include "runtime.h"
#include <map>
#include <sys/mman.h>

namespace emu {

namespace {

enum Readers : uint16_t { ONE_THREAD, ONE_WARP, SEVERAL_WARPS };

// The accesses of a word in a launch, of which the last one is known exactly. 16 bytes.
struct Touch {
    uint32_t block;
    uint16_t launch, block_epoch, warp_epoch, fences;
    uint16_t blocks;   // how many blocks, if they read
    uint16_t thread : 10, readers : 2, atomic : 1;
};
static_assert(sizeof(Touch) == 16, "the shadow takes 8 bytes per byte of device memory");

struct Published {
    uint16_t block_epoch;
    std::vector<uint16_t> fences; // of each thread
};
struct Learnt {
    std::shared_ptr<Published> from;
    uint32_t fences; // of the learning block when it learnt
};

struct Shadow {
    uint64_t base = 0, words = 0;
    Touch *written = nullptr, *read = nullptr;
    uint8_t *written_bytes = nullptr, *read_bytes = nullptr; // which bytes of the word, one bit each
    std::map<uint64_t, std::map<uint32_t, std::shared_ptr<Published>>> published; // address of an atomic → block
    std::map<uint32_t, Learnt> learnt;                                            // block → what the running block knows of it
    std::shared_ptr<Published> mine; // what the running block published last, after mine_fences fences
    uint32_t mine_fences = 0;
    uint16_t launch = 0;
    uint32_t block = 0, n_threads = 0, block_fences = 0;
    uint16_t fences[1024];
    bool in_atomic = false;
} shadow;

template <class T> T* map_shadow(uint64_t n) {
    void* p = mmap(nullptr, n * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : (T*)p;
}

// Says why t, of another block, does not happen before the running thread's access; nullptr = it does.
const char* unordered_blocks(const Touch& t) {
    auto l = shadow.learnt.find(t.block);
    if (l == shadow.learnt.end() || l->second.from->block_epoch < t.block_epoch) return " of another block, which nothing orders";
    if (t.atomic) return nullptr;
    if (l->second.from->fences[t.thread] <= t.fences) return " of another block, which had no __threadfence before its atomic";
    if (shadow.block_fences <= l->second.fences) return " of another block, without a __threadfence after this block's atomic";
    return nullptr;
}

const char* unordered(const Touch& t, const Epochs& now) {
    if (t.launch != shadow.launch || (t.atomic && shadow.in_atomic)) return nullptr;
    if (t.block != shadow.block) {
        if (t.blocks > std::max<size_t>(1, shadow.learnt.size())) return " of several blocks, which nothing orders";
        return unordered_blocks(t);
    }
    if (t.blocks > shadow.learnt.size() + 1) return " of several blocks, which nothing orders";
    if (t.block_epoch != now.block) return nullptr;
    if (t.readers == SEVERAL_WARPS || warp_of(t.thread) != warp_of(now.thread))
        return " of the same block without a barrier between";
    if (t.readers == ONE_THREAD && t.thread == now.thread) return nullptr;
    return t.warp_epoch != now.warp ? nullptr : " of the same warp without __syncwarp between";
}

[[noreturn]] void race(uint64_t word, const Touch& t, bool write, bool other_write, const char* why) {
    char s[256];
    snprintf(s, sizeof s, "global memory: race: %s at 0x%llx after a %s by block %u, thread %u%s%s", write ? "write" : "read",
        (unsigned long long)(shadow.base + 4 * word), other_write ? "write" : "read", t.block, (uint32_t)t.thread,
        t.readers == ONE_THREAD && t.blocks < 2 ? "" : " and others", why);
    fail(s);
}

Touch touch(const Epochs& now) {
    Touch t = {};
    t.block = shadow.block;
    t.launch = shadow.launch;
    t.thread = now.thread;
    t.block_epoch = now.block;
    t.warp_epoch = now.warp;
    t.fences = shadow.fences[now.thread];
    t.atomic = shadow.in_atomic;
    t.blocks = 1;
    return t;
}

bool same_time(const Touch& a, const Touch& b) {
    return a.launch == b.launch && a.block == b.block && a.thread == b.thread && a.block_epoch == b.block_epoch &&
        a.warp_epoch == b.warp_epoch;
}

void note_read(uint64_t word, const Touch& t, uint8_t bytes) {
    Touch old = shadow.read[word], &r = shadow.read[word];
    r = t;
    if (old.launch != t.launch) {
        shadow.read_bytes[word] = bytes;
        return;
    }
    r.blocks = std::min(old.blocks + (old.block != t.block), 0xffff);
    if (old.block == t.block && old.block_epoch == t.block_epoch && (old.thread != t.thread || old.readers))
        r.readers = std::max<uint16_t>(old.readers, warp_of(old.thread) != warp_of(t.thread) ? SEVERAL_WARPS : ONE_WARP);
    shadow.read_bytes[word] |= bytes;
}

void note_write(uint64_t word, const Touch& t, uint8_t bytes) {
    if (!same_time(shadow.written[word], t)) shadow.written_bytes[word] = 0;
    shadow.written[word] = t;
    shadow.written_bytes[word] |= bytes;
}

// Calls f(word, its bytes) for every word of [addr, addr + size).
template <class F> void each_word(uint64_t addr, uint32_t size, F f) {
    uint64_t first = addr - shadow.base, end = first + size;
    for (uint64_t word = first / 4; 4 * word < end; word++) {
        uint64_t from = std::max(first, 4 * word), to = std::min(end, 4 * word + 4);
        f(word, (uint8_t)(((1u << (to - from)) - 1) << (from % 4)));
    }
}

} // namespace

std::string races_map(uint64_t base, uint64_t size) {
    shadow.base = base;
    shadow.words = size / 4 + 1;
    shadow.written = map_shadow<Touch>(shadow.words);
    shadow.read = map_shadow<Touch>(shadow.words);
    shadow.written_bytes = map_shadow<uint8_t>(shadow.words);
    shadow.read_bytes = map_shadow<uint8_t>(shadow.words);
    return shadow.written && shadow.read && shadow.written_bytes && shadow.read_bytes ? "" : "no memory to note accesses";
}

void races_begin_launch() {
    shadow.published.clear();
    if (++shadow.launch) return;
    shadow.launch = 1; // the numbers start again: forget the old ones
    madvise(shadow.written, shadow.words * sizeof(Touch), MADV_DONTNEED);
    madvise(shadow.read, shadow.words * sizeof(Touch), MADV_DONTNEED);
}

void races_begin_block(uint32_t block, uint32_t n_threads) {
    shadow.learnt.clear();
    shadow.mine.reset();
    shadow.block = block;
    shadow.n_threads = n_threads;
    shadow.block_fences = 0;
    shadow.in_atomic = false;
    memset(shadow.fences, 0, sizeof shadow.fences);
}

void races_check(uint64_t addr, uint32_t size, bool write) {
    Epochs now = epochs();
    Touch t = touch(now);
    each_word(addr, size, [&](uint64_t word, uint8_t bytes) {
        const Touch &w = shadow.written[word], &r = shadow.read[word];
        if (shadow.written_bytes[word] & bytes)
            if (const char* why = unordered(w, now)) race(word, w, write, true, why);
        if (!write) return note_read(word, t, bytes);
        if (shadow.read_bytes[word] & bytes)
            if (const char* why = unordered(r, now)) race(word, r, write, false, why);
        note_write(word, t, bytes);
    });
}

void read_only(const void* p, uint32_t size) {
    if (!checked || !arena_contains((uint64_t)p)) return;
    Touch t = touch(epochs());
    each_word((uint64_t)p, size, [&](uint64_t word, uint8_t bytes) {
        if (shadow.written[word].launch == t.launch && shadow.written_bytes[word] & bytes)
            fail("global memory: read through the read-only cache (__ldg) of what the same launch has written");
    });
}

void fence() {
    if (!checked) return;
    shadow.fences[epochs().thread]++;
    shadow.block_fences++;
}

void atomic_begin(const void* p) {
    if (!checked || !arena_contains((uint64_t)p)) return;
    shadow.in_atomic = true;
    auto& at = shadow.published[(uint64_t)p];
    for (auto& e : at)
        if (e.first != shadow.block) shadow.learnt[e.first] = {e.second, shadow.block_fences};
    auto& mine = shadow.mine;
    if (!mine || mine->block_epoch != epochs().block || shadow.mine_fences != shadow.block_fences) {
        mine = std::make_shared<Published>();
        mine->block_epoch = epochs().block;
        mine->fences.assign(shadow.fences, shadow.fences + shadow.n_threads);
        shadow.mine_fences = shadow.block_fences;
    }
    at[shadow.block] = mine;
}

void atomic_end() { shadow.in_atomic = false; }

} // namespace emu
