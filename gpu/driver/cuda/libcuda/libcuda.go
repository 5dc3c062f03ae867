//go:build cuda

// Package libcuda stands in for the CUDA driver library at link time and loads the real one when it is wanted.
//
// A program linked with libcuda.so.1 does not start where there is no driver; one linked against a newer
// libcuda does not start where the driver is older (CUDA 10.2 of JetPack lacks functions that gorgonia.org/cu names but
// this project never calls); and gorgonia.org/cu ends the program while it starts when cuInit fails. So every function is
// a forwarder here, filled in by Open, and cuInit is put off. The build uses the declarations in include/cuda.h and, for cgo's
// own check of gorgonia.org/cu, a libcuda.so to link with (stub.c); --as-needed drops it again.
package libcuda

// #cgo CFLAGS: -I${SRCDIR}/include
// #cgo LDFLAGS: -Wl,--as-needed -ldl
// #include "libcuda.h"
import "C"
import "unsafe"

// Open loads the driver. It returns 0, −1 when there is no driver library, or the result of cuInit, with an explanation.
func Open() (result int, msg string) {
	var buf [512]C.char
	r := C.ellm_libcuda_open(&buf[0], C.size_t(len(buf)))
	if r == 0 {
		return 0, ""
	}
	return int(r), C.GoString(&buf[0])
}

// Version returns the driver's, as CUDA numbers it (10020 = 10.2); 0 = unknown.
func Version() int { return int(C.ellm_driver_version()) }

// HasGraphs tells whether the driver can capture launches; only then may the functions below be called. Their results are CUDA's.
func HasGraphs() bool { return C.ellm_has_graphs() != 0 }

// BeginCapture makes a stream note what is queued on it.
func BeginCapture(stream unsafe.Pointer) int { return int(C.ellm_begin_capture(stream)) }

// EndCapture returns what was noted as an executable graph.
func EndCapture(stream unsafe.Pointer) (exec unsafe.Pointer, result int) {
	r := C.ellm_end_capture(stream, &exec)
	return exec, int(r)
}

// LaunchGraph queues an executable graph.
func LaunchGraph(exec, stream unsafe.Pointer) int { return int(C.ellm_launch_graph(exec, stream)) }

// DestroyGraph frees an executable graph.
func DestroyGraph(exec unsafe.Pointer) int { return int(C.ellm_destroy_graph(exec)) }
