//go:build cuda

package cuda

import (
	"fmt"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"gorgonia.org/cu"
)

func at(p driver.DevicePtr, n int) string { return fmt.Sprintf("%d bytes at %#x", n, uint64(p)) }

// Alloc implements driver.Device.
func (d *Device) Alloc(n int64) (driver.DevicePtr, error) {
	p, err := cu.MemAlloc(n)
	if err != nil {
		return 0, wrap(err, "alloc", fmt.Sprintf("%d bytes", n))
	}
	return driver.DevicePtr(p), nil
}

// Free implements driver.Device.
func (d *Device) Free(p driver.DevicePtr) error {
	return wrap(cu.MemFree(cu.DevicePtr(p)), "free", fmt.Sprintf("%#x", uint64(p)))
}

// Reserve implements driver.Device.
func (d *Device) Reserve(n int64) (driver.DevicePtr, error) { return d.Alloc(n) }

// Allow implements driver.Device: CUDA checks no bounds inside an allocation.
func (d *Device) Allow(driver.DevicePtr, int64) error { return nil }

// Forbid implements driver.Device.
func (d *Device) Forbid(driver.DevicePtr) error { return nil }

// CopyHtoD implements driver.Device.
func (d *Device) CopyHtoD(dst driver.DevicePtr, src []byte) error { return d.CopyHtoDOn(nil, dst, src) }

// CopyHtoDOn implements driver.Device. It alternates between two page-locked buffers: one is filled from src (a file mapping,
// say) while the device reads the other.
func (d *Device) CopyHtoDOn(stream driver.Stream, dst driver.DevicePtr, src []byte) error {
	on, err := raw(stream)
	if err != nil {
		return err
	}
	for len(src) > 0 {
		s := &d.staging[d.next]
		d.next ^= 1
		if s.used {
			if err := s.done.Synchronize(); err != nil {
				return wrap(err, "copy to device", at(dst, len(src)))
			}
		}
		n := copy(s.buf.bytes(stagingBytes), src)
		if err := cu.MemcpyHtoDAsync(cu.DevicePtr(dst), s.buf.p, int64(n), on); err != nil {
			return wrap(err, "copy to device", at(dst, n))
		}
		if err := s.done.Record(on); err != nil {
			return wrap(err, "copy to device", at(dst, n))
		}
		s.used = true
		dst, src = dst+driver.DevicePtr(n), src[n:]
	}
	return nil
}

// HostFloats implements driver.Device. Where the GPU shares the machine's memory, page-locked memory is not faster to copy to,
// but slow to read, because it is not cached.
func (d *Device) HostFloats(n int) ([]float32, error) {
	if d.unified || n <= 0 {
		return make([]float32, max(n, 0)), nil
	}
	b, err := newHostBuffer(4 * n)
	if err != nil {
		return nil, err
	}
	d.host = append(d.host, b)
	return unsafe.Slice((*float32)(b.p), n), nil
}

// CopyDtoH implements driver.Device.
func (d *Device) CopyDtoH(dst []byte, src driver.DevicePtr) error {
	if len(dst) == 0 {
		return nil
	}
	err := cu.MemcpyDtoH(unsafe.Pointer(&dst[0]), cu.DevicePtr(src), int64(len(dst)))
	return wrap(err, "copy from device", at(src, len(dst)))
}

// Memset implements driver.Device.
func (d *Device) Memset(dst driver.DevicePtr, b byte, n int64) error {
	return wrap(cu.MemsetD8Async(cu.DevicePtr(dst), b, n, cu.Stream{}), "memset", at(dst, int(n)))
}
