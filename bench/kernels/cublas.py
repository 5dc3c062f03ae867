#!/usr/bin/env python3
"""cublas.py DEVICE OUT.json: times of bf16 products of one vector in cuBLAS, in the shapes of bench/kernels, with nothing of the matrix in the caches.

Loads libcuda and libcublas where they are installed; exits with 3 and writes nothing where they are not. Python 3.6 or later.
"""
import ctypes
import json
import sys

SHAPES = [(576, 576), (1536, 576), (576, 1536), (2048, 2048), (8192, 2048), (2048, 8192), (3072, 3072), (8192, 3072), (3072, 8192),
          (4096, 4096), (14336, 4096), (4096, 14336)]
REPETITIONS, FLUSH = 11, 256 << 20
CUDA_R_32F, CUDA_R_16BF, COMPUTE_32F, OP_N, OP_T = 0, 14, 68, 0, 1
# In cuBLAS 10 the last argument but one is a data type, and bf16 is missing: it refuses, and there is nothing to compare with.


def load(names):
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    print("none of %s is here" % ", ".join(names))
    sys.exit(3)


def check(code, what):
    if code:
        print("%s failed with %d" % (what, code))
        sys.exit(3)


def main(device, out):
    cu = load(["libcuda.so.1"])
    blas = load(["libcublas.so.%d" % v for v in (13, 12, 11)] + ["libcublas.so"])
    check(cu.cuInit(0), "cuInit")
    dev, ctx, handle, pointers = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p(), []
    check(cu.cuDeviceGet(ctypes.byref(dev), device), "cuDeviceGet")
    check(cu.cuDevicePrimaryCtxRetain(ctypes.byref(ctx), dev), "cuDevicePrimaryCtxRetain")
    check(cu.cuCtxSetCurrent(ctx), "cuCtxSetCurrent")
    check(blas.cublasCreate_v2(ctypes.byref(handle)), "cublasCreate")
    most = max(r * c for r, c in SHAPES)
    for size in (2 * most, 2 * 14336, 2 * 14336, FLUSH):
        p = ctypes.c_uint64()
        check(cu.cuMemAlloc_v2(ctypes.byref(p), ctypes.c_size_t(size)), "cuMemAlloc")
        check(cu.cuMemsetD8_v2(p, ctypes.c_ubyte(0), ctypes.c_size_t(size)), "cuMemset")
        pointers.append(p)
    w, x, y, flush = pointers
    start, end = ctypes.c_void_p(), ctypes.c_void_p()
    for e in (start, end):
        check(cu.cuEventCreate(ctypes.byref(e), 0), "cuEventCreate")
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    results = []
    for rows, cols in SHAPES:
        times = []
        for i in range(REPETITIONS + 1):
            check(cu.cuMemsetD8_v2(flush, ctypes.c_ubyte(i), ctypes.c_size_t(FLUSH)), "cuMemset")
            check(cu.cuCtxSynchronize(), "cuCtxSynchronize")
            check(cu.cuEventRecord(start, None), "cuEventRecord")
            check(blas.cublasGemmEx(handle, OP_T, OP_N, rows, 1, cols, ctypes.byref(one), w, CUDA_R_16BF, cols, x, CUDA_R_16BF, cols,
                                    ctypes.byref(zero), y, CUDA_R_16BF, rows, COMPUTE_32F, -1), "cublasGemmEx")
            check(cu.cuEventRecord(end, None), "cuEventRecord")
            check(cu.cuEventSynchronize(end), "cuEventSynchronize")
            ms = ctypes.c_float()
            check(cu.cuEventElapsedTime(ctypes.byref(ms), start, end), "cuEventElapsedTime")
            times.append(1e3 * ms.value)
        results.append({"rows": rows, "cols": cols, "measured_us": sorted(times[1:])[REPETITIONS // 2]})  # the first one loads the kernel
    with open(out, "w") as f:
        json.dump(results, f, indent=1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
