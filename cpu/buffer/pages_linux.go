package buffer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// largePages allocates memory that is read as a whole for every token, in large pages if the system has them: fewer page faults
// while loading, fewer misses in the table of pages later.
func largePages(n int) []byte {
	b := make([]byte, n)
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if from := -start & (hugePage - 1); n >= 2*hugePage && int(from) < n {
		inner := b[from:]
		unix.Madvise(inner[:len(inner)&^(hugePage-1)], unix.MADV_HUGEPAGE) // advice: without it everything works
	}
	return b
}
