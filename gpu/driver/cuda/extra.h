// The few functions of the driver API that gorgonia.org/cu lacks. All but the last return a CUresult.
#include <cuda.h>
#include <stddef.h>

static inline int ellm_host_alloc(void** p, size_t n) { return cuMemHostAlloc(p, n, 0); }
static inline int ellm_host_free(void* p) { return cuMemFreeHost(p); }

// Compiles NUL-terminated PTX only for the compiler's complaints, which go to log.
static inline int ellm_ptx_log(const void* image, char* log, size_t size) {
    CUjit_option options[2] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void* values[2] = {log, (void*)size};
    CUmodule module;
    CUresult r = cuModuleLoadDataEx(&module, image, 2, options, values);
    if (r == CUDA_SUCCESS) cuModuleUnload(module);
    return r;
}

static inline const char* ellm_error_string(int result) {
    const char* s = NULL;
    return cuGetErrorString((CUresult)result, &s) == CUDA_SUCCESS && s != NULL ? s : "unknown error";
}
