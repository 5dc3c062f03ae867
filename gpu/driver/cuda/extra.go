//go:build cuda

package cuda

// #cgo CFLAGS: -I${SRCDIR}/libcuda/include
// #include <stdlib.h>
// #include "extra.h"
import "C"
import (
	"reflect"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"gorgonia.org/cu"
)

// resultCode returns the CUDA result of an error of gorgonia.org/cu, whose type is unexported; −1 = not one.
func resultCode(err error) int {
	if v := reflect.ValueOf(err); v.Kind() == reflect.Int {
		return int(v.Int())
	}
	return -1
}

// wrap turns an error of gorgonia.org/cu into a driver.Error.
func wrap(err error, op, detail string) error {
	if err == nil {
		return nil
	}
	return codeError(resultCode(err), op, detail)
}

func codeError(code int, op, detail string) error {
	if code == 0 {
		return nil
	}
	e := &driver.Error{Op: "cuda: " + op, Detail: detail, Code: code}
	if code > 0 {
		e.Msg = C.GoString(C.ellm_error_string(C.int(code)))
	}
	switch code {
	case int(cu.OutOfMemory):
		e.Kind = driver.ErrOutOfMemory
	case int(cu.NoDevice), int(cu.InvalidDevice):
		e.Kind = driver.ErrNoDevice
	case int(cu.NoBinaryForGpu), int(cu.InvalidImage), int(cu.InvalidPtx), unsupportedPTXVersion:
		e.Kind = driver.ErrKernelImage
	}
	return e
}

// unsupportedPTXVersion is CUDA_ERROR_UNSUPPORTED_PTX_VERSION, newer than gorgonia.org/cu's list.
const unsupportedPTXVersion = 222

// hostBuffer is page-locked host memory, which copies to the device at full speed and without blocking.
type hostBuffer struct{ p unsafe.Pointer }

func newHostBuffer(n int) (hostBuffer, error) {
	var b hostBuffer
	r := C.ellm_host_alloc(&b.p, C.size_t(n))
	return b, codeError(int(r), "page-locked memory", "")
}

func (b hostBuffer) bytes(n int) []byte { return unsafe.Slice((*byte)(b.p), n) }

func (b hostBuffer) free() error {
	return codeError(int(C.ellm_host_free(b.p)), "free page-locked memory", "")
}

// ptxLog returns what the driver's compiler says about PTX that it refused.
func ptxLog(image string) string {
	cs := C.CString(image)
	defer C.free(unsafe.Pointer(cs))
	var log [2048]C.char
	C.ellm_ptx_log(unsafe.Pointer(cs), &log[0], C.size_t(len(log)-1))
	return C.GoString(&log[0])
}
