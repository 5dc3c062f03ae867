package gpu

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

const (
	arenaAlign = 256 // of every allocation: what cuMemAlloc promises, and more than any vector load needs
	arenaGuard = 256 // least gap between two allocations, which kernels may not touch
	wordBytes  = 4   // an allocation's length is rounded up to whole words, as kernels read
)

// arena divides one device allocation into smaller ones, one after the other. Kernels may touch only these: the gaps catch
// overruns in the emulator.
type arena struct {
	dev         driver.Device
	base        driver.DevicePtr
	size        int64
	used        int64
	allocations []driver.DevicePtr
}

// allocationBytes returns the bytes of the arena that an allocation of n bytes takes.
func allocationBytes(n int64) int64 {
	return (n + arenaGuard + arenaAlign - 1) / arenaAlign * arenaAlign
}

// newArena allocates size bytes.
func newArena(dev driver.Device, size int64) (*arena, error) {
	size = max(size, arenaAlign)
	base, err := dev.Reserve(size)
	if err != nil {
		return nil, err
	}
	return &arena{dev: dev, base: base, size: size}, nil
}

// carve takes n bytes as an arena of their own, which manages its own allocations.
func (a *arena) carve(n int64) (*arena, error) {
	if n < 0 || n > a.size-a.used {
		return nil, fmt.Errorf("gpu arena: %d bytes do not fit the %d planned, of which %d are used", n, a.size, a.used)
	}
	c := &arena{dev: a.dev, base: a.base + driver.DevicePtr(a.used), size: n}
	a.used += n
	return c, nil
}

// split divides an unused arena into one of n bytes and one of the rest. Only the whole is to be freed.
func (a *arena) split(n int64) (front, back *arena) {
	return &arena{dev: a.dev, base: a.base, size: n}, &arena{dev: a.dev, base: a.base + driver.DevicePtr(n), size: a.size - n}
}

// take allocates n bytes. Its contents are whatever was there.
func (a *arena) take(n int64) (driver.DevicePtr, error) {
	if n <= 0 {
		return 0, fmt.Errorf("gpu arena: allocation of %d bytes", n)
	}
	total := allocationBytes(n)
	if total > a.size-a.used {
		return 0, fmt.Errorf("gpu arena: %d bytes do not fit the %d planned, of which %d are used", n, a.size, a.used)
	}
	p := a.base + driver.DevicePtr(a.used)
	if err := a.dev.Allow(p, (n+wordBytes-1)/wordBytes*wordBytes); err != nil {
		return 0, err
	}
	a.used += total
	a.allocations = append(a.allocations, p)
	return p, nil
}

// put allocates memory for b and fills it.
func (a *arena) put(b []byte) (driver.DevicePtr, error) {
	p, err := a.take(int64(len(b)))
	if err != nil {
		return 0, err
	}
	return p, a.dev.CopyHtoD(p, b)
}

// reset gives all allocations back.
func (a *arena) reset() error {
	for _, p := range a.allocations {
		if err := a.dev.Forbid(p); err != nil {
			return err
		}
	}
	a.allocations, a.used = a.allocations[:0], 0
	return nil
}

func (a *arena) free() error { return a.dev.Free(a.base) }
