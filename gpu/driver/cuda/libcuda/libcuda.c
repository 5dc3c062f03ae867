//go:build cuda

// Forwarders for the CUDA driver API. Each function of functions.h is a jump through a slot that holds
// `unavailable` until ellm_libcuda_open has found the library. Hidden, so that libcuda.so.1 itself never
// binds to them when it is opened.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>

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

static int open_library(char* message, size_t size) {
    static void* library;
    if (library != NULL) return 0;
    void* lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) {
        snprintf(message, size, "%s", dlerror());
        return -1;
    }
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(lib, "cuInit");
    int result = init != NULL ? init(0) : NOT_FOUND;
    if (result != 0) {
        snprintf(message, size, "cuInit failed");
        dlclose(lib);
        return result;
    }
#define F(name) \
    ellm_slot_##name = dlsym(lib, #name); \
    if (ellm_slot_##name == NULL) ellm_slot_##name = (void*)missing;
#include "functions.h"
#undef F
    library = lib;
    return 0;
}

int ellm_libcuda_open(char* message, size_t size) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    int result = open_library(message, size);
    pthread_mutex_unlock(&mutex);
    return result;
}
