// The state of the emulated driver library (driver*.cpp): contexts and what belongs to them. One lock guards all of it.
#pragma once
#include "runtime.h"
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>

namespace emu_driver {

// Results, as CUDA numbers them.
enum Result {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
        INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_PTX = 218, UNSUPPORTED_PTX_VERSION = 222, INVALID_HANDLE = 400,
        NOT_FOUND = 500,
    NOT_READY = 600, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
    CAPTURE_IMPLICIT = 906, UNKNOWN = 999
};

// How an image misbehaves.
struct Flaw {
    int load = 0;     // result of loading it
    int launch = 0;   // result of running its kernels
    bool idle = false; // its kernels run, but do nothing
};

// What ELLM_EMU_DRIVER says, words KEY=VALUE with blanks between; read when devices are counted and no context exists.
struct Options {
    int cc = 90;            // compute capability × 10
    int version = 12080;    // of the driver, as CUDA numbers it: 10020 = 10.2
    int devices = 1, sms = 4, unified = 0, clock_mhz = 1500;
    uint64_t memory = 2048; // MiB
    int lazy_graphs = 0;    // 1: of a graph only the first launch runs
    int slack = 0;          // percent of the memory that is reported as free but refused
    // newest, oldest: which stream's work runs first; once: when it is queued
    std::string name = "Emulated GPU", order = "oldest";
    // "cubin" or "ptx" → what is wrong with such images: load=cubin:209 launch=cubin:719 idle=ptx
    std::map<std::string, Flaw> flaws;
    // fail=NAME:N:RESULT, or N+ for that and all later calls. NAME is a function's, or any.
    std::string fail_name;
    long fail_call = 0;
    int fail_result = UNKNOWN;
    bool fail_later = false;
    std::string report; // a file to which every context's end is written: what was left in it, and how many calls there were
};

struct Event {
    long recorded = 0, done = 0; // how often it was recorded, and has happened
    double at = 0;               // ms
};
struct Work {
    std::function<int()> run;
    Event* wait = nullptr; // holds up the stream until it has happened `times` times
    long times = 0;
};
struct Module {
    std::string image;
    Flaw flaw;
};
struct Function {
    Module* module;
    const emu::Kernel* kernel;
};
struct Launch {
    Function function;
    dim3 grid, block;
    uint32_t shared_bytes;
    std::vector<uint64_t> args;
};
using Graph = std::vector<Launch>;
struct Stream {
    std::deque<Work> queue;
    bool capturing = false, invalid = false;
    Graph captured;
};
struct Context {
    int id, sticky = 0; // sticky: what every call returns after a kernel has failed
    std::map<uint64_t, uint64_t> memory, pinned; // address → bytes
    std::vector<Stream*> streams;
    std::set<Event*> events;
    std::set<Module*> modules;
    std::set<Function*> functions;
    std::set<Graph*> graphs, executables;
};

extern std::recursive_mutex mutex;
extern Options options;
extern std::set<Context*> contexts;
extern thread_local Context* current;

std::string read_options();
// Begins a call: counts it, and returns the result that is to be injected.
int count_call(const char* name);
// Likewise for calls that need a context; also returns the context's error. Says on standard error what a correct program never
// does.
int enter(const char* name);
// As enter, for calls that must not come while a stream is captured: they invalidate the capture.
int enter_unsafe(const char* name);
int complain(int result, const std::string& what);
bool capturing();
// Runs all that is queued in the current context.
int flush();
// Queues work on a stream (null = the default stream, which waits for all others).
int put(const char* name, Stream* s, Work w);
int run_launch(const Launch& l);
// Whether [p, p + n) lies in an allocation of the current context.
bool in_device(uint64_t p, size_t n);
bool is_pinned(const void* p, size_t n);
void release_memory(Context* c);

} // namespace emu_driver

#define CUDA_API extern "C" __attribute__((visibility("default"))) int
#define LOCKED std::lock_guard<std::recursive_mutex> lock(emu_driver::mutex)
#define ENTER(name)  \
    LOCKED;          \
    if (int failed = emu_driver::enter(name)) return failed
#define ENTER_UNSAFE(name) \
    LOCKED;                \
    if (int failed = emu_driver::enter_unsafe(name)) return failed
