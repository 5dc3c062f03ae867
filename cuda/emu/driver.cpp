// libcuda.so.1 with the kernel emulator behind it: devices, contexts, modules. It is strict where real drivers are forgiving, and
// says on standard error what a correct program never does. ELLM_EMU_DRIVER configures it (struct Options in driver.h).
#include "driver.h"
#include <sstream>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

namespace emu_driver {

std::recursive_mutex mutex;
Options options;
std::set<Context*> contexts;
thread_local Context* current;

namespace {

enum : uint64_t { BASE = 0x200000000000, ARENA = 16ull << 30 };
bool initialized;
long n_calls, n_named;

void set_fail(Options& o, const std::string& value) { // NAME:N[+][:RESULT]
    std::istringstream in(value);
    std::string n, result;
    std::getline(in, o.fail_name, ':');
    std::getline(in, n, ':');
    std::getline(in, result, ':');
    o.fail_call = atol(n.c_str());
    o.fail_later = !n.empty() && n.back() == '+';
    if (!result.empty()) o.fail_result = atoi(result.c_str());
}

bool set_option(Options& o, const std::string& key, const std::string& value) {
    const std::map<std::string, int*> numbers = {{"cc", &o.cc}, {"version", &o.version}, {"devices", &o.devices}, {"sms", &o.sms},
        {"unified", &o.unified}, {"clock", &o.clock_mhz}, {"slack", &o.slack},
        {"lazy_graphs", &o.lazy_graphs}};
    auto number = numbers.find(key);
    std::string kind = value.substr(0, value.find(':'));
    int result = atoi(value.c_str() + std::min(value.size(), kind.size() + 1));
    if (number != numbers.end()) *number->second = atoi(value.c_str());
    else if (key == "memory") o.memory = strtoull(value.c_str(), nullptr, 10);
    else if (key == "name") o.name = value;
    else if (key == "order") o.order = value;
    else if (key == "report") o.report = value;
    else if (key == "fail") set_fail(o, value);
    else if (key == "load") o.flaws[kind].load = result;
    else if (key == "launch") o.flaws[kind].launch = result;
    else if (key == "idle") o.flaws[kind].idle = true;
    else return false;
    return true;
}

// The newest PTX that a driver takes, × 10 (NVIDIA's "PTX ISA", release notes).
int newest_ptx(int version) {
    int major = version / 1000, minor = version % 1000 / 10;
    if (major < 11) return version >= 10020 ? 65 : 63;
    if (major == 11) return 70 + minor;
    if (major == 12) return minor <= 5 ? 80 + minor : 79 + minor;
    return 90;
}

bool tegra(int cc) { return cc == 53 || cc == 62 || cc == 72 || cc == 87 || cc == 101 || cc == 110; }

// Machine code runs on the same major and the same or a higher minor compute capability, and not across desktop and Tegra
// (NVIDIA's "CUDA Compiler Driver NVCC", binary compatibility).
int take_cubin(const std::string& image) {
    int arch = (uint8_t)image[48];
    return arch / 10 != options.cc / 10 || arch > options.cc || tegra(arch) != tegra(options.cc) ? NO_BINARY : SUCCESS;
}

int take_ptx(const std::string& image) {
    size_t version = image.find("\n.version "), target = image.find("\n.target sm_");
    int major = 0, minor = 0;
    if (version == std::string::npos || target == std::string::npos || sscanf(image.c_str() + version, "\n.version %d.%d",
        &major, &minor) != 2)
        return INVALID_PTX;
    if (major * 10 + minor > newest_ptx(options.version)) return UNSUPPORTED_PTX_VERSION;
    return atoi(image.c_str() + target + strlen("\n.target sm_")) > options.cc ? NO_BINARY : SUCCESS;
}

size_t elf_size(const char* image) {
    uint64_t sections;
    uint16_t each, n;
    memcpy(&sections, image + 40, 8);
    memcpy(&each, image + 58, 2);
    memcpy(&n, image + 60, 2);
    return std::max<size_t>(64, sections + (size_t)each * n);
}

int load(void** m, const void* data) {
    bool cubin = !memcmp(data, "\177ELF", 4);
    auto module = new Module{std::string((const char*)data, cubin ? elf_size((const char*)data) : strlen((const char*)data)), {}};
    auto flaw = options.flaws.find(cubin ? "cubin" : "ptx");
    if (flaw != options.flaws.end()) module->flaw = flaw->second;
    int r = cubin ? take_cubin(module->image) : take_ptx(module->image);
    if (!r) r = module->flaw.load;
    if (r) {
        delete module;
        return r;
    }
    current->modules.insert(module);
    *m = module;
    return SUCCESS;
}

void report(const Context& c) {
    if (options.report.empty()) return;
    FILE* f = fopen(options.report.c_str(), "a");
    if (!f) return;
    fprintf(f, "context %d: %zu allocations, %zu pinned, %zu streams, %zu events, %zu modules, %zu graphs left; %ld calls\n",
        c.id,
        c.memory.size(), c.pinned.size(), c.streams.size(), c.events.size(), c.modules.size(),
            c.graphs.size() + c.executables.size(), n_calls);
    fclose(f);
}

} // namespace

std::string read_options() {
    Options o;
    const char* s = getenv("ELLM_EMU_DRIVER");
    std::istringstream in(s ? s : "");
    for (std::string word; in >> word;) {
        size_t equals = word.find('=');
        if (equals == std::string::npos || !set_option(o, word.substr(0, equals), word.substr(equals + 1)))
            return "ELLM_EMU_DRIVER: " + word;
    }
    options = o;
    n_calls = n_named = 0;
    return "";
}

int complain(int result, const std::string& what) {
    fprintf(stderr, "emulated driver: %s (result %d)\n", what.c_str(), result);
    return result;
}

int count_call(const char* name) {
    n_calls++;
    bool any = options.fail_name == "any";
    if (!any && options.fail_name != name) return SUCCESS;
    long n = any ? n_calls : ++n_named;
    return n == options.fail_call || (options.fail_later && n > options.fail_call) ? options.fail_result : SUCCESS;
}

int enter(const char* name) {
    if (!initialized) return complain(NOT_INITIALIZED, std::string(name) + " before cuInit");
    if (int r = count_call(name)) return r;
    if (!current) return complain(INVALID_CONTEXT, std::string(name) + " on a thread without a context");
    return current->sticky;
}

int enter_unsafe(const char* name) {
    if (int r = enter(name)) return r;
    if (!capturing()) return SUCCESS;
    for (Stream* s : current->streams) s->invalid = s->invalid || s->capturing;
    return complain(CAPTURE_UNSUPPORTED, std::string(name) + " while a stream is captured");
}

} // namespace emu_driver

using namespace emu_driver;

CUDA_API cuInit(unsigned) {
    LOCKED;
    if (initialized) return SUCCESS;
    std::string error = read_options();
    if (!error.empty()) return complain(UNKNOWN, error);
    if (options.fail_name == "cuInit") return options.fail_result;
    int fd = memfd_create("emulated GPU", 0);
    if (fd < 0 || ftruncate(fd, ARENA)) return complain(UNKNOWN, "no memory file");
    error = emu::map_arena(("/proc/self/fd/" + std::to_string(fd)).c_str(), ARENA, BASE);
    close(fd);
    if (!error.empty()) return complain(UNKNOWN, error);
    initialized = true;
    return SUCCESS;
}
CUDA_API cuDriverGetVersion(int* v) {
    LOCKED;
    *v = options.version;
    return SUCCESS;
}
CUDA_API cuDeviceGetCount(int* n) {
    LOCKED;
    if (contexts.empty()) {
        std::string error = read_options();
        if (!error.empty()) return complain(UNKNOWN, error);
    }
    if (int r = count_call("cuDeviceGetCount")) return r;
    *n = options.devices;
    return SUCCESS;
}
CUDA_API cuDeviceGet(int* d, int ordinal) {
    LOCKED;
    *d = ordinal;
    return ordinal < options.devices ? count_call("cuDeviceGet") : INVALID_DEVICE;
}
CUDA_API cuDeviceGetName(char* s, int n, int d) {
    LOCKED;
    snprintf(s, (size_t)n, "%s%s", options.name.c_str(), d ? (" " + std::to_string(d)).c_str() : "");
    return count_call("cuDeviceGetName");
}
CUDA_API cuDeviceTotalMem_v2(size_t* n, int) {
    LOCKED;
    *n = options.memory << 20;
    return count_call("cuDeviceTotalMem_v2");
}
CUDA_API cuDeviceGetAttribute(int* v, int attribute, int) {
    enum { SHARED_PER_BLOCK = 8, CLOCK_KHZ = 13, MULTIPROCESSORS = 16, INTEGRATED = 18, CC_MAJOR = 75, CC_MINOR = 76 };
    LOCKED;
    switch (attribute) {
    case SHARED_PER_BLOCK: *v = emu::SHARED_LIMIT; break;
    case CLOCK_KHZ: *v = options.clock_mhz * 1000; break;
    case MULTIPROCESSORS: *v = options.sms; break;
    case INTEGRATED: *v = options.unified; break;
    case CC_MAJOR: *v = options.cc / 10; break;
    case CC_MINOR: *v = options.cc % 10; break;
    default: return complain(INVALID_VALUE, "cuDeviceGetAttribute: attribute " + std::to_string(attribute) + " is not emulated");
    }
    return count_call("cuDeviceGetAttribute");
}

CUDA_API cuCtxCreate_v2(void** c, unsigned, int) {
    LOCKED;
    static int ids;
    if (int r = count_call("cuCtxCreate_v2")) return r;
    current = new Context{++ids, 0, {}, {}, {}, {}, {}, {}, {}, {}};
    contexts.insert(current);
    *c = current;
    return SUCCESS;
}
CUDA_API cuCtxDestroy_v2(void* handle) {
    LOCKED;
    if (int r = count_call("cuCtxDestroy_v2")) return r;
    auto c = (Context*)handle;
    if (!contexts.count(c)) return complain(INVALID_CONTEXT, "cuCtxDestroy of no context");
    Context* before = current;
    current = c;
    flush();
    report(*c);
    release_memory(c);
    for (Stream* s : c->streams) delete s;
    for (Event* e : c->events) delete e;
    for (Function* f : c->functions) delete f;
    for (Module* m : c->modules) delete m;
    for (Graph* g : c->graphs) delete g;
    for (Graph* g : c->executables) delete g;
    contexts.erase(c);
    delete c;
    current = before == c ? nullptr : before;
    return SUCCESS;
}
CUDA_API cuCtxGetCurrent(void** c) {
    *c = current;
    return SUCCESS;
}
CUDA_API cuCtxSetCurrent(void* c) {
    LOCKED;
    if (c && !contexts.count((Context*)c)) return complain(INVALID_CONTEXT, "cuCtxSetCurrent of no context");
    current = (Context*)c;
    return SUCCESS;
}
CUDA_API cuCtxSynchronize() {
    ENTER_UNSAFE("cuCtxSynchronize");
    return flush();
}

CUDA_API cuModuleLoadData(void** m, const void* image) {
    ENTER_UNSAFE("cuModuleLoadData");
    return load(m, image);
}
CUDA_API cuModuleLoadDataEx(void** m, const void* image, unsigned n, int* names, void** values) {
    enum { ERROR_LOG = 5, ERROR_LOG_BYTES = 6 };
    ENTER_UNSAFE("cuModuleLoadDataEx");
    int r = load(m, image);
    if (r && n > 1 && names[0] == ERROR_LOG && names[1] == ERROR_LOG_BYTES)
        snprintf((char*)values[0], (size_t)values[1], "the compiler's words about result %d", r);
    return r;
}
CUDA_API cuModuleUnload(void* m) {
    ENTER_UNSAFE("cuModuleUnload");
    if (!current->modules.count((Module*)m)) return complain(INVALID_HANDLE, "cuModuleUnload of no module");
    flush();
    current->modules.erase((Module*)m);
    for (auto f = current->functions.begin(); f != current->functions.end();) {
        Function* gone = (*f)->module == m ? *f : nullptr;
        f = gone ? current->functions.erase(f) : std::next(f);
        delete gone;
    }
    delete (Module*)m;
    return SUCCESS;
}
CUDA_API cuModuleGetFunction(void** f, void* m, const char* name) {
    ENTER("cuModuleGetFunction");
    auto module = (Module*)m;
    if (!current->modules.count(module)) return complain(INVALID_HANDLE, "cuModuleGetFunction of no module");
    if (module->image.find(name) == std::string::npos) return NOT_FOUND;
    for (int i = 0; i < emu::n_kernels; i++) {
        if (strcmp(name, emu::kernels[i].name)) continue;
        auto function = new Function{module, &emu::kernels[i]};
        current->functions.insert(function);
        *f = function;
        return SUCCESS;
    }
    return NOT_FOUND;
}

CUDA_API cuGetErrorString(int r, const char** s) {
    static const std::map<int, const char*> words = {{INVALID_VALUE, "invalid argument"}, {OUT_OF_MEMORY, "out of memory"},
        {NOT_INITIALIZED, "initialization error"}, {NO_DEVICE, "no CUDA-capable device is detected"},
            {INVALID_IMAGE, "device kernel image is invalid"},
        {INVALID_CONTEXT, "invalid device context"}, {NO_BINARY, "no kernel image is available for execution on the device"},
        {INVALID_PTX, "a PTX JIT compilation failed"},
            {UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain."},
        {NOT_FOUND, "named symbol not found"}, {LAUNCH_FAILED, "unspecified launch failure"}, {UNKNOWN, "unknown error"}};
    auto w = words.find(r);
    *s = w == words.end() ? "an error of the emulated driver" : w->second;
    return SUCCESS;
}
