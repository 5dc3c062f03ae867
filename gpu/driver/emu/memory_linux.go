package emu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// memory is the emulated device's memory: an unnamed file that both processes map. Pages exist once they are touched.
type memory struct {
	file  *os.File
	bytes []byte
}

const pageBytes = 4096

func newMemory(size int64) (*memory, error) {
	if size <= 0 {
		var si unix.Sysinfo_t
		if err := unix.Sysinfo(&si); err != nil {
			return nil, fmt.Errorf("emulator: %w", err)
		}
		size = int64(uint64(si.Totalram) * uint64(si.Unit) / 2)
	}
	size = (size + pageBytes - 1) &^ (pageBytes - 1)
	fail := func(err error) error {
		return &driver.Error{Op: "emulator: shared memory", Detail: fmt.Sprintf("%d bytes", size), Kind: driver.ErrOutOfMemory,
			Msg: err.Error()}
	}
	fd, err := unix.MemfdCreate("ellm-emu", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fail(err)
	}
	f := os.NewFile(uintptr(fd), "ellm-emu")
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fail(err)
	}
	b, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		f.Close()
		return nil, fail(err)
	}
	return &memory{file: f, bytes: b}, nil
}

// drop gives the whole pages of a freed range back to the system.
func (m *memory) drop(off, n int64) {
	lo, hi := (off+pageBytes-1)&^(pageBytes-1), (off+n)&^(pageBytes-1)
	if lo < hi {
		unix.Madvise(m.bytes[lo:hi], unix.MADV_REMOVE) // only a hint: without it the pages stay taken until Close
	}
}

func (m *memory) close() error {
	if m.bytes == nil {
		return nil
	}
	err := unix.Munmap(m.bytes)
	m.bytes = nil
	if cerr := m.file.Close(); err == nil {
		err = cerr
	}
	return err
}
