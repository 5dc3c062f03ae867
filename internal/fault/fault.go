// Package fault turns access to a mapped file that is gone (it shrank, its disk failed) into an error.
//
// The kernel answers such an access with a signal, which ends a Go program unless the goroutine asked for a panic
// (debug.SetPanicOnFault). Every goroutine that reads a mapping is a Guard's: at the top of the call for goroutines that return
// an error, in Capture for workers, whose caller raises the fault again.
package fault

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"unsafe"
)

// Error is an access to memory that is not there.
type Error struct {
	Addr uintptr // what was accessed
}

func (e *Error) Error() string {
	return fmt.Sprintf("memory at %#x cannot be read: an input file changed or shrank while it was read, or its disk failed", e.Addr)
}

// In reports whether the access was within b, and where.
func (e *Error) In(b []byte) (offset int64, ok bool) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if e.Addr < start || e.Addr-start >= uintptr(len(b)) {
		return 0, false
	}
	return int64(e.Addr - start), true
}

// Of returns the fault that a recovered value stands for, or nil if it is another panic.
func Of(v any) *Error {
	if e, ok := v.(*Error); ok {
		return e
	}
	if e, ok := v.(interface {
		runtime.Error
		Addr() uintptr
	}); ok {
		return &Error{Addr: e.Addr()}
	}
	return nil
}

// Guard calls f and returns its error, or an *Error if it accessed memory that is not there. Other panics pass.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			e := Of(v)
			if e == nil {
				panic(v)
			}
			err = e
		}
	}()
	return f()
}

// Capture calls f and returns the fault that ended it, or nil. A worker calls it so that its caller can Raise the fault.
func Capture(f func()) *Error {
	err := Guard(func() error { f(); return nil })
	e, _ := err.(*Error)
	return e
}

// Raise passes a fault on to the Guard of the calling goroutine. It does nothing if e is nil.
func Raise(e *Error) {
	if e != nil {
		panic(e)
	}
}
