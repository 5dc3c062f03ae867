package emu

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// Alloc implements driver.Device.
func (d *Device) Alloc(n int64) (driver.DevicePtr, error) {
	p, err := d.Reserve(n)
	if err != nil {
		return 0, err
	}
	return p, d.Allow(p, n)
}

// Reserve implements driver.Device.
func (d *Device) Reserve(n int64) (driver.DevicePtr, error) {
	off, err := d.space.take(n)
	if err != nil {
		return 0, err
	}
	return driver.DevicePtr(base + off), nil
}

// Allow implements driver.Device.
func (d *Device) Allow(p driver.DevicePtr, n int64) error {
	v, err := d.view("allow", p, n)
	if err != nil {
		return err
	}
	detail := fmt.Sprintf("%x %d", uint64(p), n)
	if _, err := d.command("allow", detail, "alloc "+detail); err != nil {
		return err
	}
	d.allowed[p] = true
	if d.poison {
		fill(v, 0xff)
	}
	return nil
}

// Forbid implements driver.Device.
func (d *Device) Forbid(p driver.DevicePtr) error {
	detail := fmt.Sprintf("%x", uint64(p))
	if _, err := d.command("forbid", detail, "free "+detail); err != nil {
		return err
	}
	delete(d.allowed, p)
	return nil
}

// Free implements driver.Device.
func (d *Device) Free(p driver.DevicePtr) error {
	off := int64(p) - base
	n, ok := d.space.give(off)
	if !ok {
		return &driver.Error{Op: "emulator: free", Detail: fmt.Sprintf("%#x", uint64(p)), Msg: "not allocated"}
	}
	for q := range d.allowed {
		if q >= p && q < p+driver.DevicePtr(n) {
			if err := d.Forbid(q); err != nil {
				return err
			}
		}
	}
	d.mem.drop(off, n)
	return nil
}

// view returns the host's view of n bytes at p.
func (d *Device) view(op string, p driver.DevicePtr, n int64) ([]byte, error) {
	off := int64(p) - base
	if size := int64(len(d.mem.bytes)); off < 0 || n < 0 || off > size || n > size-off {
		return nil, &driver.Error{Op: "emulator: " + op, Detail: fmt.Sprintf("%d bytes at %#x", n, uint64(p)),
			Msg: "outside of device memory"}
	}
	return d.mem.bytes[off : off+n], nil
}

// CopyHtoD implements driver.Device.
func (d *Device) CopyHtoD(dst driver.DevicePtr, src []byte) error { return d.CopyHtoDOn(nil, dst, src) }

// CopyHtoDOn implements driver.Device.
func (d *Device) CopyHtoDOn(s driver.Stream, dst driver.DevicePtr, src []byte) error {
	own, err := d.on(s)
	if err != nil {
		return err
	}
	v, err := d.view("copy to device", dst, int64(len(src)))
	if err != nil {
		return err
	}
	if own != nil && d.order != AtOnce {
		src = bytes.Clone(src) // the caller's may change before the copy runs
	}
	return d.submit(own, queued{run: func() error {
		copy(v, src)
		return nil
	}})
}

// HostFloats implements driver.Device.
func (d *Device) HostFloats(n int) ([]float32, error) { return make([]float32, n), nil }

// CopyDtoH implements driver.Device.
func (d *Device) CopyDtoH(dst []byte, src driver.DevicePtr) error {
	v, err := d.view("copy from device", src, int64(len(dst)))
	if err == nil {
		err = d.flush()
	}
	if err == nil {
		copy(dst, v)
	}
	return err
}

// Memset implements driver.Device.
func (d *Device) Memset(dst driver.DevicePtr, b byte, n int64) error {
	v, err := d.view("memset", dst, n)
	if err != nil {
		return err
	}
	return d.submit(nil, queued{run: func() error {
		fill(v, b)
		return nil
	}})
}

func fill(p []byte, b byte) {
	if b == 0 {
		clear(p)
		return
	}
	for i := range p {
		p[i] = b
	}
}

type kernel struct {
	name  string
	nargs int
}

func (k *kernel) Name() string { return k.name }

// Kernel implements driver.Device.
func (d *Device) Kernel(name string, nargs int) (driver.Kernel, error) {
	have, ok := d.kernels[name]
	if !ok || have != nargs {
		msg := fmt.Sprintf("the emulator's has %d arguments, this program's %d", have, nargs)
		if !ok {
			msg = "the emulator lacks it"
		}
		return nil, &driver.Error{Op: "emulator: kernel", Detail: name, Kind: driver.ErrKernelImage, Msg: msg + "; run `make emu`"}
	}
	return &kernel{name, nargs}, nil
}

// Launch implements driver.Device. Errors of a kernel come when it runs.
func (d *Device) Launch(k driver.Kernel, c driver.LaunchConfig, args ...uint64) error {
	kn, ok := k.(*kernel)
	if !ok || kn.nargs != len(args) {
		return &driver.Error{Op: "emulator: launch", Msg: fmt.Sprintf("%d arguments for a kernel of another device or signature",
			len(args))}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "launch %s %d %d %d %d %d %d %d %d", kn.name, c.Grid.X, c.Grid.Y, c.Grid.Z,
		c.Block.X, c.Block.Y, c.Block.Z, c.SharedBytes, len(args))
	for _, a := range args {
		b.WriteByte(' ')
		b.WriteString(strconv.FormatUint(a, 16))
	}
	own, err := d.on(c.Stream)
	if err != nil {
		return err
	}
	detail, command := fmt.Sprintf("%s grid %v block %v", kn.name, c.Grid, c.Block), b.String()
	run := func() error {
		_, err := d.command("launch", detail, command)
		return err
	}
	if g := d.capture; g != nil && g.on == own {
		g.launches = append(g.launches, run)
		return nil
	}
	return d.submit(own, queued{run: run})
}
