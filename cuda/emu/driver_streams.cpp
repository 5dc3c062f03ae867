// The emulated driver: memory, streams, events, launches, capture. Work of streams is put off until something waits for it, and
// then runs in an order that Options chooses, as far as events allow.
#include "driver.h"
#include <time.h>

namespace emu_driver {

namespace {

enum : uint64_t { BASE = 0x200000000000, ALIGNMENT = 256 };

double now_ms() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

emu::Machine& machine() {
    static emu::Machine m(1);
    return m;
}

// Runs what s has queued, up to an event that has not happened.
bool advance(Stream& s) {
    bool moved = false;
    while (!s.queue.empty() && !(s.queue.front().wait && s.queue.front().wait->done < s.queue.front().times)) {
        auto run = s.queue.front().run;
        s.queue.pop_front();
        moved = true;
        int r = run && !current->sticky ? run() : SUCCESS;
        if (r) current->sticky = r;
    }
    return moved;
}

bool covers(const std::map<uint64_t, uint64_t>& ranges, uint64_t p, size_t n) {
    auto after = ranges.upper_bound(p);
    if (after == ranges.begin()) return false;
    auto r = std::prev(after);
    return p - r->first <= r->second && n <= r->second - (p - r->first);
}

uint64_t used_memory() {
    uint64_t used = 0;
    for (Context* c : contexts)
        for (auto& m : c->memory) used += m.second;
    return used;
}

// First fit among the allocations of all contexts; 0 = none.
uint64_t find_room(uint64_t n) {
    std::map<uint64_t, uint64_t> taken;
    for (Context* c : contexts) taken.insert(c->memory.begin(), c->memory.end());
    uint64_t at = BASE;
    for (auto& t : taken) {
        if (at + n + ALIGNMENT <= t.first) break;
        at = (t.first + t.second + 2 * ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    }
    return at + n <= BASE + (16ull << 30) ? at : 0;
}

bool known(Stream* s) { return !s || std::find(current->streams.begin(), current->streams.end(), s) != current->streams.end(); }

} // namespace

bool capturing() {
    for (Stream* s : current->streams)
        if (s->capturing) return true;
    return false;
}

int flush() {
    for (;;) {
        bool left = false, moved = false;
        for (size_t i = 0, n = current->streams.size(); i < n; i++) {
            Stream* s = current->streams[options.order == "newest" ? n - 1 - i : i];
            moved = advance(*s) || moved;
            left = left || !s->queue.empty();
        }
        if (!left) return current->sticky;
        if (!moved) return complain(UNKNOWN, "streams wait for each other");
    }
}

int put(const char* name, Stream* s, Work w) {
    if (!known(s)) return complain(INVALID_HANDLE, std::string(name) + " on no stream of this context");
    if (!s && capturing()) {
        for (Stream* c : current->streams) c->invalid = c->invalid || c->capturing;
        return complain(CAPTURE_IMPLICIT, std::string(name) + " on the default stream while a stream is captured");
    }
    if (s && s->capturing) {
        s->invalid = true;
        return complain(CAPTURE_UNSUPPORTED, std::string(name) + " on a stream that is captured");
    }
    if (s) {
        s->queue.push_back(std::move(w));
        return options.order == "once" ? flush() : SUCCESS;
    }
    if (int r = flush()) return r;
    return current->sticky = w.run ? w.run() : SUCCESS;
}

int run_launch(const Launch& l) {
    const Flaw& flaw = l.function.module->flaw;
    if (flaw.launch || flaw.idle) return flaw.launch;
    std::string error = machine().launch({l.function.kernel, l.grid, l.block, l.shared_bytes, l.args.data()});
    return error.empty() ? SUCCESS : complain(LAUNCH_FAILED, error);
}

bool in_device(uint64_t p, size_t n) { return covers(current->memory, p, n); }
bool is_pinned(const void* p, size_t n) { return covers(current->pinned, (uint64_t)p, n); }

void release_memory(Context* c) {
    for (auto& m : c->memory) emu::arena_free(m.first);
    for (auto& p : c->pinned) free((void*)p.first);
}

} // namespace emu_driver

using namespace emu_driver;

CUDA_API cuMemGetInfo_v2(size_t* available, size_t* total) {
    ENTER("cuMemGetInfo_v2");
    *total = options.memory << 20;
    *available = *total - std::min<size_t>(*total, used_memory());
    return SUCCESS;
}
CUDA_API cuMemAlloc_v2(uint64_t* p, size_t n) {
    ENTER_UNSAFE("cuMemAlloc_v2");
    if (!n) return INVALID_VALUE;
    uint64_t limit = (options.memory << 20) / 100 * (uint64_t)(100 - options.slack), at = find_room(n);
    if (!at || used_memory() + n > limit) return OUT_OF_MEMORY;
    std::string error = emu::arena_alloc(at, (n + 15) & ~15ull);
    if (!error.empty()) return complain(UNKNOWN, error);
    current->memory[at] = n;
    memset((void*)at, 0xff, n); // NaN: what is read before it is written shows
    *p = at;
    return SUCCESS;
}
CUDA_API cuMemFree_v2(uint64_t p) {
    ENTER_UNSAFE("cuMemFree_v2");
    flush();
    if (!current->memory.erase(p)) return complain(INVALID_VALUE, "cuMemFree of no allocation");
    emu::arena_free(p);
    return SUCCESS;
}
CUDA_API cuMemHostAlloc(void** p, size_t n, unsigned) {
    ENTER_UNSAFE("cuMemHostAlloc");
    if (!n) return INVALID_VALUE;
    *p = aligned_alloc(4096, (n + 4095) & ~(size_t)4095);
    current->pinned[(uint64_t)*p] = n;
    return SUCCESS;
}
CUDA_API cuMemFreeHost(void* p) {
    ENTER_UNSAFE("cuMemFreeHost");
    flush();
    if (!current->pinned.erase((uint64_t)p)) return complain(INVALID_VALUE, "cuMemFreeHost of no page-locked memory");
    free(p);
    return SUCCESS;
}
CUDA_API cuMemcpyHtoDAsync_v2(uint64_t d, const void* s, size_t n, void* stream) {
    ENTER("cuMemcpyHtoDAsync_v2");
    if (!in_device(d, n)) return complain(INVALID_VALUE, "cuMemcpyHtoDAsync outside of every allocation");
    if (is_pinned(s, n)) // read when the copy runs: a buffer that is filled again too early shows
        return put("cuMemcpyHtoDAsync", (Stream*)stream, {[=] { return memcpy((void*)d, s, n), SUCCESS; }, nullptr, 0});
    std::string copy((const char*)s, n);
    return put("cuMemcpyHtoDAsync", (Stream*)stream, {[=] { return memcpy((void*)d, copy.data(), n), SUCCESS; }, nullptr, 0});
}
CUDA_API cuMemcpyDtoH_v2(void* d, uint64_t s, size_t n) {
    ENTER_UNSAFE("cuMemcpyDtoH_v2");
    if (!in_device(s, n)) return complain(INVALID_VALUE, "cuMemcpyDtoH outside of every allocation");
    return put("cuMemcpyDtoH", nullptr, {[=] { return memcpy(d, (void*)s, n), SUCCESS; }, nullptr, 0});
}
CUDA_API cuMemsetD8Async(uint64_t p, unsigned char b, size_t n, void* stream) {
    ENTER("cuMemsetD8Async");
    if (!in_device(p, n)) return complain(INVALID_VALUE, "cuMemsetD8Async outside of every allocation");
    return put("cuMemsetD8Async", (Stream*)stream, {[=] { return memset((void*)p, b, n), SUCCESS; }, nullptr, 0});
}

CUDA_API cuStreamCreate(void** s, unsigned) {
    ENTER("cuStreamCreate");
    *s = new Stream;
    current->streams.push_back((Stream*)*s);
    return SUCCESS;
}
CUDA_API cuStreamDestroy_v2(void* s) {
    ENTER("cuStreamDestroy_v2");
    if (!s || !known((Stream*)s)) return complain(INVALID_HANDLE, "cuStreamDestroy of no stream");
    flush();
    current->streams.erase(std::find(current->streams.begin(), current->streams.end(), (Stream*)s));
    delete (Stream*)s;
    return SUCCESS;
}
CUDA_API cuStreamSynchronize(void*) {
    ENTER_UNSAFE("cuStreamSynchronize");
    return flush();
}
CUDA_API cuStreamWaitEvent(void* s, void* e, unsigned) {
    ENTER("cuStreamWaitEvent");
    auto event = (Event*)e;
    if (!current->events.count(event)) return complain(INVALID_HANDLE, "cuStreamWaitEvent for no event");
    return put("cuStreamWaitEvent", (Stream*)s, {nullptr, event, event->recorded});
}
CUDA_API cuEventCreate(void** e, unsigned) {
    ENTER("cuEventCreate");
    *e = new Event;
    current->events.insert((Event*)*e);
    return SUCCESS;
}
CUDA_API cuEventDestroy_v2(void* e) {
    ENTER("cuEventDestroy_v2");
    if (!current->events.count((Event*)e)) return complain(INVALID_HANDLE, "cuEventDestroy of no event");
    flush();
    current->events.erase((Event*)e);
    delete (Event*)e;
    return SUCCESS;
}
CUDA_API cuEventRecord(void* e, void* s) {
    ENTER("cuEventRecord");
    auto event = (Event*)e;
    if (!current->events.count(event)) return complain(INVALID_HANDLE, "cuEventRecord of no event");
    event->recorded++;
    auto happen = [=] {
        event->done++;
        event->at = now_ms();
        return SUCCESS;
    };
    return put("cuEventRecord", (Stream*)s, {happen, nullptr, 0});
}
CUDA_API cuEventSynchronize(void* e) {
    ENTER_UNSAFE("cuEventSynchronize");
    return current->events.count((Event*)e) ? flush() : complain(INVALID_HANDLE, "cuEventSynchronize of no event");
}
CUDA_API cuEventElapsedTime(float* ms, void* a, void* b) {
    ENTER("cuEventElapsedTime");
    auto start = (Event*)a, end = (Event*)b;
    if (!current->events.count(start) || !current->events.count(end) || !start->recorded || !end->recorded) return INVALID_HANDLE;
    if (start->done < start->recorded || end->done < end->recorded) return NOT_READY;
    *ms = (float)(end->at - start->at);
    return SUCCESS;
}

CUDA_API cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, void* stream, void** params, void**) {
    ENTER("cuLaunchKernel");
    auto function = (Function*)f;
    if (!current->functions.count(function)) return complain(INVALID_HANDLE, "cuLaunchKernel of no function");
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || bx * by * bz == 0 || bx * by * bz > function->kernel->max_threads ||
        shared > emu::SHARED_LIMIT)
        return complain(INVALID_VALUE, std::string("cuLaunchKernel of ") + function->kernel->name +
            ": extents outside of the limits");
    Launch l{*function, {gx, gy, gz}, {bx, by, bz}, shared, {}};
    for (int i = 0; i < function->kernel->n_args; i++) l.args.push_back(*(uint64_t*)params[i]);
    auto s = (Stream*)stream;
    if (s && known(s) && s->capturing) {
        s->captured.push_back(l);
        return SUCCESS;
    }
    return put("cuLaunchKernel", s, {[=] { return run_launch(l); }, nullptr, 0});
}

CUDA_API cuStreamBeginCapture_v2(void* stream, int) {
    ENTER("cuStreamBeginCapture_v2");
    auto s = (Stream*)stream;
    if (!s || !known(s) || s->capturing) return complain(CAPTURE_UNSUPPORTED, "cuStreamBeginCapture of no stream, or twice");
    s->capturing = true;
    s->invalid = false;
    s->captured.clear();
    return SUCCESS;
}
CUDA_API cuStreamEndCapture(void* stream, void** g) {
    ENTER("cuStreamEndCapture");
    auto s = (Stream*)stream;
    if (!s || !known(s) || !s->capturing) return complain(CAPTURE_UNSUPPORTED,
        "cuStreamEndCapture of a stream that is not captured");
    s->capturing = false;
    *g = nullptr;
    if (s->invalid) return CAPTURE_INVALIDATED;
    *g = new Graph(s->captured);
    current->graphs.insert((Graph*)*g);
    return SUCCESS;
}
static int instantiate(const char* name, int since, void** e, void* g) {
    ENTER_UNSAFE(name);
    if (options.version < since) return NOT_SUPPORTED;
    if (!current->graphs.count((Graph*)g)) return complain(INVALID_HANDLE, std::string(name) + " of no graph");
    *e = new Graph(*(Graph*)g);
    current->executables.insert((Graph*)*e);
    return SUCCESS;
}
CUDA_API cuGraphInstantiateWithFlags(void** e, void* g, unsigned long long) {
    return instantiate("cuGraphInstantiateWithFlags", 11040, e, g); }
CUDA_API cuGraphInstantiate_v2(void** e, void* g, void**, char*, size_t) {
    return instantiate("cuGraphInstantiate_v2", 11000, e, g); }
CUDA_API cuGraphInstantiate(void** e, void* g, void**, char*, size_t) { return instantiate("cuGraphInstantiate", 10000, e, g); }
CUDA_API cuGraphDestroy(void* g) {
    ENTER("cuGraphDestroy");
    if (!current->graphs.erase((Graph*)g)) return complain(INVALID_HANDLE, "cuGraphDestroy of no graph");
    delete (Graph*)g;
    return SUCCESS;
}
CUDA_API cuGraphExecDestroy(void* e) {
    ENTER("cuGraphExecDestroy");
    flush();
    if (!current->executables.erase((Graph*)e)) return complain(INVALID_HANDLE, "cuGraphExecDestroy of no graph");
    delete (Graph*)e;
    return SUCCESS;
}
CUDA_API cuGraphLaunch(void* e, void* s) {
    ENTER("cuGraphLaunch");
    if (!current->executables.count((Graph*)e)) return complain(INVALID_HANDLE, "cuGraphLaunch of no graph");
    Graph list = *(Graph*)e;
    if (options.lazy_graphs) list.resize(std::min<size_t>(list.size(), 1));
    auto run = [=] {
        for (const Launch& l : list)
            if (int r = run_launch(l)) return r;
        return (int)SUCCESS;
    };
    return put("cuGraphLaunch", (Stream*)s, {run, nullptr, 0});
}
