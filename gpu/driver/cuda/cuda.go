//go:build cuda

// Package cuda runs kernels on a CUDA device through gorgonia.org/cu. One operating-system thread owns the device's context.
package cuda

import (
	"runtime"
	"syscall"
	"time"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/cuda/libcuda"
	"github.com/ellm-gpu/ellm-gpu/internal/memory"
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
	modules *modules
	staging [2]stagingBuffer
	next    int // which staging buffer is used next
	host    []hostBuffer
	// Launches only compile their kernels: Capture runs what it captures once before.
	rehearsing bool
	// Whether graphs have been tried, and worked.
	graphsTried, graphsFine bool
}

// stagingBuffer is page-locked memory; done is recorded after the copy that reads it.
type stagingBuffer struct {
	buf  hostBuffer
	done cu.Event
	used bool
}

// Count returns the number of devices. The error unwraps to driver.ErrNoDevice when there is no driver, or none.
func Count() (int, error) {
	if r, msg := libcuda.Open(); r != 0 {
		return 0, &driver.Error{Op: "cuda: open the driver", Kind: driver.ErrNoDevice, Code: max(r, 0), Msg: explain(r, msg)}
	}
	n, err := cu.NumDevices()
	if err != nil {
		return 0, wrap(err, "count devices", "")
	}
	if n == 0 {
		return 0, &driver.Error{Op: "cuda: count devices", Kind: driver.ErrNoDevice, Msg: "the driver sees none"}
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
		info.MemFree = max(info.MemFree, min(memory.Available().Bytes, info.MemTotal))
	}
	return info, err
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

// release gives back all that belongs to the context, and the context. After a kernel's fault every call fails: the first error
// is kept.
func (d *Device) release() error {
	if d.ctx == (cu.CUContext{}) {
		return nil
	}
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	for i := range d.staging {
		s := &d.staging[i]
		if s.done != (cu.Event{}) {
			keep(wrap(cu.DestroyEvent(&s.done), "destroy event", ""))
		}
		if s.buf.p != nil {
			keep(s.buf.free())
		}
	}
	for _, b := range d.host {
		keep(b.free())
	}
	if d.modules != nil {
		keep(d.modules.unload())
	}
	keep(wrap(d.ctx.Destroy(), "destroy context", ""))
	d.staging, d.host, d.modules, d.ctx, d.next = [2]stagingBuffer{}, nil, nil, cu.CUContext{}, 0
	return first
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
