// A driver library without a device, for testing what talks to it. Device memory is host memory, and copies to it wait in
// a queue until something synchronizes, as they may on a device: a buffer that is reused too early shows.
//
// FAKE_DEVICES   number of devices (default 1)
// FAKE_VERSION   version of CUDA (default 11080)
// An image is text: "result N" makes loading fail with N, anything else loads and holds the kernel copy_words.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t ptr;
enum { OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719, MEMORY = 64 << 20 };

static struct { void* dst; const void* src; size_t n; } queue[64];
static int queued;
static size_t used;

static int flush(void) {
    for (int i = 0; i < queued; i++) memcpy(queue[i].dst, queue[i].src, queue[i].n);
    queued = 0;
    return 0;
}

int cuInit(unsigned flags) { return flags != 0; }
int cuDeviceGetCount(int* n) { const char* s = getenv("FAKE_DEVICES"); *n = s ? atoi(s) : 1; return 0; }
int cuDeviceGet(int* d, int ordinal) { *d = ordinal; return 0; }
int cuDeviceGetName(char* s, int n, int d) { snprintf(s, (size_t)n, "Fake %d", d); return 0; }
int cuDeviceTotalMem_v2(size_t* n, int d) { (void)d; *n = MEMORY; return 0; }
int cuDeviceGetAttribute(int* v, int attribute, int d) {
    (void)d;
    switch (attribute) {
    case 75: *v = 5; break;      // compute capability, major
    case 76: *v = 3; break;      // minor
    case 16: *v = 1; break;      // multiprocessors
    case 13: *v = 921600; break; // clock, kHz
    case 8: *v = 49152; break;   // shared memory per block
    default: *v = 0;
    }
    return 0;
}
int cuCtxCreate_v2(void** c, unsigned f, int d) { (void)f, (void)d; *c = malloc(1); return 0; }
int cuCtxDestroy_v2(void* c) { free(c); return 0; }
int cuCtxSynchronize(void) { return flush(); }
int cuMemGetInfo_v2(size_t* available, size_t* total) { *total = MEMORY; *available = MEMORY - used; return 0; }
int cuMemAlloc_v2(ptr* p, size_t n) {
    if (n > MEMORY - used) return OUT_OF_MEMORY;
    used += n;
    *p = (ptr)(uintptr_t)aligned_alloc(256, (n + 255) / 256 * 256);
    return 0;
}
int cuMemFree_v2(ptr p) { flush(); free((void*)(uintptr_t)p); return 0; }
int cuMemHostAlloc(void** p, size_t n, unsigned f) { (void)f; *p = malloc(n); return 0; }
int cuMemFreeHost(void* p) { flush(); free(p); return 0; }
int cuMemcpyHtoDAsync_v2(ptr dst, const void* src, size_t n, void* stream) {
    (void)stream;
    queue[queued].dst = (void*)(uintptr_t)dst;
    queue[queued].src = src;
    queue[queued].n = n;
    if (++queued == 64) flush();
    return 0;
}
int cuMemcpyDtoH_v2(void* dst, ptr src, size_t n) { flush(); memcpy(dst, (void*)(uintptr_t)src, n); return 0; }
int cuMemsetD8Async(ptr p, unsigned char b, size_t n, void* stream) { (void)stream; flush(); memset((void*)(uintptr_t)p, b, n); return 0; }
int cuEventCreate(void** e, unsigned f) { (void)f; *e = malloc(1); return 0; }
int cuEventDestroy_v2(void* e) { free(e); return 0; }
int cuEventRecord(void* e, void* s) { (void)e, (void)s; return 0; }
int cuEventSynchronize(void* e) { (void)e; return flush(); }
int cuEventElapsedTime(float* ms, void* a, void* b) { (void)a, (void)b; *ms = 1.5f; return 0; }
int cuStreamCreate(void** s, unsigned f) { (void)f; *s = malloc(1); return 0; }
int cuStreamDestroy_v2(void* s) { free(s); return 0; }
int cuStreamSynchronize(void* s) { (void)s; return flush(); }
int cuModuleLoadData(void** m, const void* image) {
    int result = 0;
    if (sscanf(image, "result %d", &result) == 1) return result;
    *m = malloc(1);
    return 0;
}
int cuModuleLoadDataEx(void** m, const void* image, unsigned n, int* options, void** values) {
    (void)options;
    if (n > 1) snprintf(values[0], (size_t)values[1], "the compiler's words");
    return cuModuleLoadData(m, image);
}
int cuModuleUnload(void* m) { free(m); return 0; }
int cuModuleGetFunction(void** f, void* m, const char* name) {
    *f = m;
    return strcmp(name, "copy_words") ? NOT_FOUND : 0;
}
// A graph is a list of launches of copy_words.
typedef struct { ptr dst, src; size_t n; } copy;
static struct { void* stream; int n; copy list[64]; } capture;

int cuDriverGetVersion(int* v) { const char* s = getenv("FAKE_VERSION"); *v = s ? atoi(s) : 11080; return 0; }
int cuStreamBeginCapture_v2(void* s, int mode) { capture.stream = s; capture.n = 0; return mode != 1; }
int cuStreamEndCapture(void* s, void** graph) {
    if (s != capture.stream) return 900;
    *graph = malloc(sizeof capture);
    memcpy(*graph, &capture, sizeof capture);
    capture.stream = NULL;
    return 0;
}
int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
    *exec = malloc(sizeof capture);
    memcpy(*exec, graph, sizeof capture);
    return flags != 0;
}
int cuGraphDestroy(void* g) { free(g); return 0; }
int cuGraphExecDestroy(void* g) { free(g); return 0; }
int cuGraphLaunch(void* exec, void* s) {
    (void)s;
    flush();
    const copy* c = (const copy*)((const char*)exec + ((const char*)capture.list - (const char*)&capture));
    for (int i = 0; i < *(int*)((char*)exec + sizeof(void*)); i++) memcpy((void*)(uintptr_t)c[i].dst, (void*)(uintptr_t)c[i].src, 4 * c[i].n);
    return 0;
}
int cuStreamWaitEvent(void* s, void* e, unsigned f) { (void)s, (void)e; return f != 0; }
int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** params, void** extra) {
    (void)f, (void)extra;
    if (capture.stream == stream && stream != NULL) {
        copy c = {*(ptr*)params[0], *(ptr*)params[1], *(size_t*)params[2]};
        capture.list[capture.n++] = c;
        return 0;
    }
    flush();
    if (gx * gy * gz == 0 || bx * by * bz != 256 || shared != 0) return LAUNCH_FAILED;
    memcpy((void*)(uintptr_t) * (ptr*)params[0], (void*)(uintptr_t) * (ptr*)params[1], 4 * *(size_t*)params[2]);
    return 0;
}
int cuGetErrorString(int result, const char** s) { *s = result == LAUNCH_FAILED ? "launch failed" : "some error"; return 0; }
