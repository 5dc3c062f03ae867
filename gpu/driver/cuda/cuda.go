//go:build cuda

// Package cuda runs kernels on a CUDA device through gorgonia.org/cu. One operating-system thread owns the device's context.
package cuda

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/cuda/libcuda"
	"gorgonia.org/cu"
)

// stagingBytes is the size of each of the two page-locked buffers that copies to the device go through.
const stagingBytes = 4 << 20

// Device is a CUDA device. It implements driver.Device.
type Device struct {
	work    chan func()
	stopped chan struct{}
	tid     int // of the thread that runs what Do is given
	dev     cu.Device
	ctx     cu.CUContext
	info    driver.Info
	unified bool // device memory is the machine's memory
	module  cu.Module
	staging [2]stage
	next    int // which staging buffer is used next
	host    []hostBuffer
}

// stage is a staging buffer; done is recorded behind the copy that reads it.
type stage struct {
	buf  hostBuffer
	done cu.Event
	used bool
}

// Count returns the number of devices. The error unwraps to driver.ErrNoDevice when there is no driver.
func Count() (int, error) {
	if r, msg := libcuda.Open(); r != 0 {
		return 0, &driver.Error{Op: "cuda: open the driver", Kind: driver.ErrNoDevice, Code: max(r, 0), Msg: explain(r, msg)}
	}
	n, err := cu.NumDevices()
	if err != nil {
		return 0, wrap(err, "count devices", "")
	}
	return n, nil
}

// explain adds what a user can do about a driver that does not start.
func explain(r int, msg string) string {
	const noDevice, unknown = 100, 999
	switch r {
	case -1:
		return msg + "; is the NVIDIA driver installed?"
	case noDevice:
		if runtime.GOARCH == "arm64" {
			return msg + "; on a Jetson, is the user in group video?"
		}
		return msg + "; the driver sees no NVIDIA GPU"
	case unknown:
		return msg + "; do kernel module and library have the same version?"
	}
	return msg
}

// Open opens device `ordinal`, loads the embedded kernels and runs the probe kernel. ELLM_KERNELS names a folder, itself called
// "kernels", whose images are loaded instead: kernels compiled on the machine that runs them.
func Open(ordinal int) (driver.Device, error) {
	dir := os.Getenv("ELLM_KERNELS")
	if dir == "" {
		return openWith(ordinal, images)
	}
	kernels, ok := os.DirFS(filepath.Dir(filepath.Clean(dir))).(fs.ReadDirFS)
	if !ok || filepath.Base(dir) != "kernels" {
		return nil, &driver.Error{Op: "cuda: open", Kind: driver.ErrKernelImage, Msg: "ELLM_KERNELS: expected a folder called kernels"}
	}
	return openWith(ordinal, kernels)
}

// openWith is Open with other kernels, for tests.
func openWith(ordinal int, kernels fs.ReadDirFS) (driver.Device, error) {
	n, err := Count()
	if err != nil {
		return nil, err
	}
	if ordinal < 0 || ordinal >= n {
		return nil, &driver.Error{Op: "cuda: open", Detail: fmt.Sprintf("device %d", ordinal), Kind: driver.ErrNoDevice,
			Msg: fmt.Sprintf("there are %d", n)}
	}
	d := &Device{work: make(chan func()), stopped: make(chan struct{})}
	go d.thread()
	if err := d.Do(func() error { return d.open(ordinal, kernels) }); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Device) thread() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the context's ties with it
	defer close(d.stopped)
	for f := range d.work {
		f()
	}
}

// Do implements driver.Device.
func (d *Device) Do(f func() error) error {
	done := make(chan error, 1)
	d.work <- func() { done <- f() }
	return <-done
}

func (d *Device) open(ordinal int, kernels fs.ReadDirFS) error {
	d.tid = syscall.Gettid()
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return wrap(err, "open", fmt.Sprintf("device %d", ordinal))
	}
	d.dev = dev
	if err := d.readInfo(); err != nil {
		return err
	}
	if d.ctx, err = dev.MakeContext(cu.SchedAuto); err != nil {
		return wrap(err, "create context", d.info.Name)
	}
	for i := range d.staging {
		s := &d.staging[i]
		if s.buf, err = newHostBuffer(stagingBytes); err != nil {
			return err
		}
		if s.done, err = cu.MakeEvent(cu.DefaultEvent); err != nil {
			return wrap(err, "create event", "")
		}
	}
	if d.module, err = loadKernels(kernels, d.info.CCMajor, d.info.CCMinor); err != nil {
		return err
	}
	return d.probe()
}

func (d *Device) readInfo() error {
	var err error
	if d.info.Name, err = d.dev.Name(); err != nil {
		return wrap(err, "device name", "")
	}
	if d.info.MemTotal, err = d.dev.TotalMem(); err != nil {
		return wrap(err, "device memory", "")
	}
	d.info.Backend = "cuda"
	var kHz, integrated int
	for _, a := range []struct {
		attr cu.DeviceAttribute
		dst  *int
	}{
		{cu.ComputeCapabilityMajor, &d.info.CCMajor}, {cu.ComputeCapabilityMinor, &d.info.CCMinor},
		{cu.MultiprocessorCount, &d.info.SMs}, {cu.ClockRate, &kHz}, {cu.Integrated, &integrated},
		{cu.MaxSharedMemoryPerBlock, &d.info.SharedPerBlock},
	} {
		if *a.dst, err = d.dev.Attribute(a.attr); err != nil {
			return wrap(err, "device attribute", fmt.Sprint(int(a.attr)))
		}
	}
	d.info.ClockMHz, d.unified = kHz/1000, integrated != 0
	return nil
}

// probe runs a trivial kernel, so that an image that loads but does not run is found here and not in the middle of a text.
func (d *Device) probe() error {
	k, err := d.Kernel("copy_words", 3)
	if err != nil {
		return err
	}
	const words = 64
	p, err := d.Alloc(2 * 4 * words)
	if err != nil {
		return err
	}
	defer d.Free(p)
	var want, got [4 * words]byte
	for i := range want {
		want[i] = byte(7*i + 1)
	}
	src, dst := p, p+4*words
	if err := d.CopyHtoD(src, want[:]); err != nil {
		return err
	}
	if err := d.Launch(k, driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(256)}, uint64(dst), uint64(src), words); err != nil {
		return err
	}
	if err := d.CopyDtoH(got[:], dst); err != nil {
		return err
	}
	if got != want {
		return &driver.Error{Op: "cuda: probe kernel", Kind: driver.ErrKernelImage, Msg: "it ran, but its result is wrong"}
	}
	return nil
}

// Info implements driver.Device.
func (d *Device) Info() (driver.Info, error) {
	info := d.info
	read := func() error {
		free, total, err := cu.MemInfo()
		info.MemFree, info.MemTotal = free, total
		return wrap(err, "free memory", "")
	}
	var err error
	if syscall.Gettid() == d.tid { // called from a function that Do runs
		err = read()
	} else {
		err = d.Do(read)
	}
	if d.unified { // the driver does not count the page cache as free, but the system gives it up
		info.MemFree = max(info.MemFree, min(memAvailable(), info.MemTotal))
	}
	return info, err
}

// memAvailable returns what Linux would give to a new program without swapping, in bytes; 0 = unknown.
func memAvailable() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		var kB int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kB); n == 1 {
			return kB << 10
		}
	}
	return 0
}

// Synchronize implements driver.Device.
func (d *Device) Synchronize() error { return wrap(cu.Synchronize(), "synchronize", "") }

// Close implements driver.Device.
func (d *Device) Close() error {
	if d.work == nil {
		return nil
	}
	err := d.Do(d.release)
	close(d.work)
	<-d.stopped
	d.work = nil
	return err
}

func (d *Device) release() error {
	if d.ctx == (cu.CUContext{}) {
		return nil
	}
	var errs []error
	for i := range d.staging {
		s := &d.staging[i]
		if s.done != (cu.Event{}) {
			errs = append(errs, wrap(cu.DestroyEvent(&s.done), "destroy event", ""))
		}
		if s.buf.p != nil {
			errs = append(errs, s.buf.free())
		}
	}
	for _, b := range d.host {
		errs = append(errs, b.free())
	}
	if d.module != (cu.Module{}) {
		errs = append(errs, wrap(d.module.Unload(), "unload kernels", ""))
	}
	errs = append(errs, wrap(d.ctx.Destroy(), "destroy context", ""))
	return errors.Join(errs...)
}

type stream struct{ s cu.Stream }

func (s *stream) Synchronize() error { return wrap(s.s.Synchronize(), "synchronize stream", "") }
func (s *stream) Destroy() error     { return wrap(s.s.Destroy(), "destroy stream", "") }

func (s *stream) Wait(e driver.Event) error {
	ev, ok := e.(*event)
	if !ok {
		return &driver.Error{Op: "cuda: event", Msg: "of another device"}
	}
	return wrap(s.s.Wait(ev.e, 0), "wait for event", "")
}

// raw returns CUDA's stream; nil is the default stream.
func raw(s driver.Stream) (cu.Stream, error) {
	if s == nil {
		return cu.Stream{}, nil
	}
	cs, ok := s.(*stream)
	if !ok {
		return cu.Stream{}, &driver.Error{Op: "cuda: stream", Msg: "of another device"}
	}
	return cs.s, nil
}

// NewStream implements driver.Device.
func (d *Device) NewStream() (driver.Stream, error) {
	s, err := cu.MakeStream(cu.DefaultStream)
	if err != nil {
		return nil, wrap(err, "create stream", "")
	}
	return &stream{s}, nil
}

type event struct{ e cu.Event }

// NewEvent implements driver.Device.
func (d *Device) NewEvent() (driver.Event, error) {
	e, err := cu.MakeEvent(cu.DefaultEvent)
	if err != nil {
		return nil, wrap(err, "create event", "")
	}
	return &event{e}, nil
}

func (e *event) Record(s driver.Stream) error {
	cs, err := raw(s)
	if err != nil {
		return err
	}
	return wrap(e.e.Record(cs), "record event", "")
}

func (e *event) Since(start driver.Event) (time.Duration, error) {
	s, ok := start.(*event)
	if !ok {
		return 0, &driver.Error{Op: "cuda: event", Msg: "of another device"}
	}
	if err := e.e.Synchronize(); err != nil {
		return 0, wrap(err, "synchronize event", "")
	}
	ms, err := s.e.Elapsed(e.e)
	return time.Duration(ms * float64(time.Millisecond)), wrap(err, "time between events", "")
}

func (e *event) Synchronize() error { return wrap(e.e.Synchronize(), "synchronize event", "") }

func (e *event) Destroy() error { return wrap(cu.DestroyEvent(&e.e), "destroy event", "") }
