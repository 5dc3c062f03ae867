//go:build cuda

// Forwarders for the CUDA driver API. Each function of functions.h is a jump through a slot that holds
// `unavailable` until ellm_libcuda_open has found the library. Hidden, so that libcuda.so.1 itself never
// binds to them when it is opened.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "libcuda.h"

enum { NOT_INITIALIZED = 3, NOT_FOUND = 500 };

static int unavailable(void) { return NOT_INITIALIZED; }
static int missing(void) { return NOT_FOUND; } // the installed driver is older than the function

#if defined(__x86_64__)
#define JUMP(name) "jmp *ellm_slot_" #name "(%rip)\n"
#elif defined(__aarch64__)
#define JUMP(name) "adrp x16, ellm_slot_" #name "\n" \
                   "ldr x16, [x16, :lo12:ellm_slot_" #name "]\n" \
                   "br x16\n"
#else
#error "forwarders exist for x86-64 and aarch64"
#endif

#define F(name) \
    __attribute__((visibility("hidden"))) void* ellm_slot_##name = (void*)unavailable; \
    __asm__(".text\n.p2align 4\n.globl " #name "\n.hidden " #name "\n.type " #name ", %function\n" \
            #name ":\n" JUMP(name) ".size " #name ", .-" #name "\n");
#include "functions.h"
#undef F

// The Go binding calls cuInit while the program starts and exits when it fails. Starting the driver is
// put off to ellm_libcuda_open, whose failure can be reported.
__attribute__((visibility("hidden"))) int cuInit(unsigned flags) {
    (void)flags;
    return 0;
}

static struct {
    int (*begin)(void*, int);
    int (*end)(void*, void**);
    int (*instantiate)(void**, void*, unsigned long long); // CUDA 11.4
    int (*instantiate_11)(void**, void*, void**, char*, size_t); // CUDA 11.0
    int (*instantiate_10)(void**, void*, void**, char*, size_t); // CUDA 10.0
    int (*launch)(void*, void*);
    int (*destroy)(void*);
    int (*destroy_exec)(void*);
} graphs;

static int (*driver_version)(int*);

static void find_graphs(void* lib) {
    graphs.begin = (int (*)(void*, int))dlsym(lib, "cuStreamBeginCapture_v2");
    graphs.end = (int (*)(void*, void**))dlsym(lib, "cuStreamEndCapture");
    graphs.instantiate = (int (*)(void**, void*, unsigned long long))dlsym(lib, "cuGraphInstantiateWithFlags");
    graphs.instantiate_11 = (int (*)(void**, void*, void**, char*, size_t))dlsym(lib, "cuGraphInstantiate_v2");
    graphs.instantiate_10 = (int (*)(void**, void*, void**, char*, size_t))dlsym(lib, "cuGraphInstantiate");
    graphs.launch = (int (*)(void*, void*))dlsym(lib, "cuGraphLaunch");
    graphs.destroy = (int (*)(void*))dlsym(lib, "cuGraphDestroy");
    graphs.destroy_exec = (int (*)(void*))dlsym(lib, "cuGraphExecDestroy");
    driver_version = (int (*)(int*))dlsym(lib, "cuDriverGetVersion");
}

int ellm_driver_version(void) {
    int version = 0;
    return driver_version != NULL && driver_version(&version) == 0 ? version : 0;
}

int ellm_has_graphs(void) {
    enum { CUDA_10_1 = 10010 }; // which brought cuStreamBeginCapture_v2
    return ellm_driver_version() >= CUDA_10_1 && graphs.begin && graphs.end && (graphs.instantiate || graphs.instantiate_11 || graphs.instantiate_10) &&
           graphs.launch && graphs.destroy && graphs.destroy_exec;
}

int ellm_begin_capture(void* stream) {
    enum { THREAD_LOCAL = 1 };
    return graphs.begin(stream, THREAD_LOCAL);
}

int ellm_end_capture(void* stream, void** exec) {
    void* graph = NULL;
    *exec = NULL;
    int r = graphs.end(stream, &graph);
    if (r != 0 || graph == NULL) return r != 0 ? r : NOT_FOUND;
    enum { CUDA_11 = 11000, CUDA_11_4 = 11040 };
    int version = ellm_driver_version();
    if (version >= CUDA_11_4 && graphs.instantiate)
        r = graphs.instantiate(exec, graph, 0);
    else if (version >= CUDA_11 && graphs.instantiate_11)
        r = graphs.instantiate_11(exec, graph, NULL, NULL, 0);
    else
        r = graphs.instantiate_10 ? graphs.instantiate_10(exec, graph, NULL, NULL, 0) : NOT_FOUND;
    graphs.destroy(graph);
    return r;
}

int ellm_launch_graph(void* exec, void* stream) { return graphs.launch(exec, stream); }
int ellm_destroy_graph(void* exec) { return graphs.destroy_exec(exec); }

// Where drivers put their library: known to the loader; in containers for Jetson boards; in WSL; on NixOS.
static const char* const places[] = {
    "libcuda.so.1", "libcuda.so", "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1", "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so",
    "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1.1", "/usr/lib/wsl/lib/libcuda.so.1", "/run/opengl-driver/lib/libcuda.so.1",
};

// Opens a library and starts the driver. A library stays open even if that fails: drivers leave threads and exit handlers.
static int start(const char* name, void** lib, char* message, size_t size) {
    *lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (*lib == NULL) {
        snprintf(message, size, "%s", dlerror());
        return -1;
    }
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(*lib, "cuInit");
    int result = init != NULL ? init(0) : NOT_FOUND;
    if (result != 0) snprintf(message, size, "cuInit failed");
    return result;
}

// Starts the library that ELLM_LIBCUDA names, or the first that works. Otherwise the message is the first library's, or, if there
// is none, about the usual name.
static int find_library(void** lib, char* message, size_t size) {
    const char* named = getenv("ELLM_LIBCUDA");
    if (named != NULL && *named) return start(named, lib, message, size);
    int result = start(places[0], lib, message, size);
    for (size_t i = 1; i < sizeof places / sizeof places[0] && result != 0; i++) {
        char why[512];
        int r = start(places[i], lib, why, sizeof why);
        if (r == 0 || (result == -1 && r > 0)) {
            result = r;
            snprintf(message, size, "%s", why);
        }
    }
    return result;
}

static int open_library(char* message, size_t size) {
    static int ready;
    if (ready) return 0;
    void* lib;
    int result = find_library(&lib, message, size);
    if (result != 0) return result;
#define F(name) \
    ellm_slot_##name = dlsym(lib, #name); \
    if (ellm_slot_##name == NULL) ellm_slot_##name = (void*)missing;
#include "functions.h"
#undef F
    find_graphs(lib);
    ready = 1;
    return 0;
}

int ellm_libcuda_open(char* message, size_t size) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    int result = open_library(message, size);
    pthread_mutex_unlock(&mutex);
    return result;
}
