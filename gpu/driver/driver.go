// Package driver is the seam between the GPU runtime and the executor of its kernels: a CUDA device
// (driver/cuda) or the emulator (driver/emu). It knows devices, memory, kernels, streams and events, not models.
package driver

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels that errors of this package unwrap to.
var (
	// ErrNoDevice: no driver, no device, or no device of that number.
	ErrNoDevice = errors.New("no CUDA device")
	// ErrNotBuilt: this program, or the emulator beside it, was built without what is asked for.
	ErrNotBuilt = errors.New("not built")
	// ErrOutOfMemory: the device cannot hold what was asked for.
	ErrOutOfMemory = errors.New("out of device memory")
	// ErrKernelImage: no embedded kernel image runs on the device.
	ErrKernelImage = errors.New("no kernel image for this device")
	// ErrNoGraphs: the driver cannot capture launches (before CUDA 10.1), or its graphs do not work.
	ErrNoGraphs = errors.New("the driver has no graphs")
)

// DevicePtr is an address in device memory; 0 is none.
type DevicePtr uint64

// Info describes a device.
type Info struct {
	Backend        string // "cuda" or "emu"
	Name           string
	CCMajor        int // compute capability
	CCMinor        int
	SMs            int    // streaming multiprocessors; of the emulator: threads
	ClockMHz       int    // highest clock rate; 0 = unknown
	MemTotal       int64  // bytes
	MemFree        int64  // bytes when Info was called
	MemReserve     int64  // bytes of the free ones that plans should leave alone
	SharedPerBlock int    // bytes of shared memory that a block may use
	Image          string // the kernel image in use: sm_NN.cubin or compute_NN.ptx; empty in the emulator
	Build          string // hash of that image
	Driver         string // version of CUDA that the driver is for
}

// Label names the device: backend, name, and what a GPU can do.
func (i Info) Label() string {
	s := fmt.Sprintf("%s: %s", i.Backend, i.Name)
	if i.CCMajor > 0 {
		s += fmt.Sprintf(", CC %d.%d, %d SM", i.CCMajor, i.CCMinor, i.SMs)
	}
	if i.ClockMHz > 0 {
		s += fmt.Sprintf(", %d MHz", i.ClockMHz)
	}
	return s
}

// String is the label and the memory.
func (i Info) String() string {
	return i.Label() + fmt.Sprintf(", %.1f of %.1f GiB free", float64(i.MemFree)/(1<<30), float64(i.MemTotal)/(1<<30))
}

// Dim is the extent of a grid (in blocks) or of a block (in threads).
type Dim struct{ X, Y, Z int }

// D1 returns a one-dimensional extent.
func D1(x int) Dim { return Dim{x, 1, 1} }

// D2 returns a two-dimensional extent.
func D2(x, y int) Dim { return Dim{x, y, 1} }

// LaunchConfig tells how a kernel is launched.
type LaunchConfig struct {
	Grid, Block Dim
	SharedBytes int    // dynamic shared memory
	Stream      Stream // nil = the default stream
}

// Kernel is a loaded kernel of one device.
type Kernel interface{ Name() string }

// Stream is a queue of work of one device: what is queued on a stream runs in order. Work of the default stream runs after all
// that was queued before, on any stream, and before all that is queued later.
type Stream interface {
	// Wait delays what is queued later until the latest Record of e has completed.
	Wait(e Event) error
	Synchronize() error
	Destroy() error
}

// Event marks a point in a stream.
type Event interface {
	Record(s Stream) error
	// Synchronize waits for what was recorded last; for nothing if there is none.
	Synchronize() error
	// Since returns the time from start, an event of the same device, to this event; it waits for both.
	Since(start Event) (time.Duration, error)
	Destroy() error
}

// Graph is a sequence of launches that is queued at once.
type Graph interface {
	Launch(s Stream) error
	Destroy() error
}

// Device executes kernels. Everything but Do, Info and Close must be called from a function that Do runs: a CUDA context belongs
// to one operating-system thread. Info can be called anywhere.
type Device interface {
	// Do runs f on the device's thread and returns its error. Calls are executed one after the other; f must not call Do.
	Do(f func() error) error
	Info() (Info, error)
	// Alloc reserves n bytes, aligned to 256.
	Alloc(n int64) (DevicePtr, error)
	// Reserve is Alloc for memory that the caller subdivides: kernels may touch only the blocks given to Allow.
	Reserve(n int64) (DevicePtr, error)
	// Allow lets kernels touch n bytes at p, 16-byte aligned and inside reserved memory. Only the emulator checks it.
	Allow(p DevicePtr, n int64) error
	// Forbid ends what Allow(p, …) began.
	Forbid(p DevicePtr) error
	// Free returns what Alloc or Reserve gave.
	Free(p DevicePtr) error
	// CopyHtoD copies src to the device. src may be reused when it returns.
	CopyHtoD(dst DevicePtr, src []byte) error
	// CopyHtoDOn is CopyHtoD on a stream.
	CopyHtoDOn(s Stream, dst DevicePtr, src []byte) error
	// HostFloats returns n floats of host memory to which copies from the device are fastest. They last until Close.
	HostFloats(n int) ([]float32, error)
	// CopyDtoH copies to dst, after all work of the default stream.
	CopyDtoH(dst []byte, src DevicePtr) error
	// Memset sets n bytes to b.
	Memset(dst DevicePtr, b byte, n int64) error
	// Kernel finds a kernel by name. nargs is the number of its arguments, checked where the device knows it.
	Kernel(name string, nargs int) (Kernel, error)
	// Launch queues a kernel. Every argument is a pointer or a scalar of at most 8 bytes, in the low bytes of its slot.
	Launch(k Kernel, c LaunchConfig, args ...uint64) error
	NewStream() (Stream, error)
	NewEvent() (Event, error)
	// Capture notes the launches that f queues on s, instead of queuing them. f may run twice. It must do nothing else with the
	// device. The arguments of launches are noted with them: what changes must be in device memory. The error unwraps to ErrNoGraphs
	// if the driver cannot.
	Capture(s Stream, f func() error) (Graph, error)
	// Synchronize waits for all work and reports errors of kernels.
	Synchronize() error
	Close() error
}

// Error tells which operation of a device failed.
type Error struct {
	Op     string // "launch", "alloc", …
	Detail string // kernel name and extents, byte count, …
	Code   int    // CUDA result; 0 = none
	Msg    string // the driver's or emulator's words
	Kind   error  // a sentinel, or nil
}

func (e *Error) Error() string {
	s := e.Op
	if e.Detail != "" {
		s += " " + e.Detail
	}
	if e.Kind != nil {
		s += ": " + e.Kind.Error()
	}
	if e.Msg != "" {
		s += ": " + e.Msg
	}
	if e.Code != 0 {
		s += fmt.Sprintf(" (CUDA result %d)", e.Code)
	}
	return s
}

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Kind }
