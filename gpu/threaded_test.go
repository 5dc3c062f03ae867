package gpu

import (
	"time"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// threaded lets tests call a CUDA device from any thread, one call after the other: each goes through Do, unless Do runs already.
type threaded struct {
	driver.Device
	inside bool
}

func (d *threaded) Do(f func() error) error {
	return d.Device.Do(func() error {
		d.inside = true
		defer func() { d.inside = false }()
		return f()
	})
}

func (d *threaded) call(f func() error) error {
	if d.inside {
		return f()
	}
	return d.Do(f)
}

func (d *threaded) Alloc(n int64) (p driver.DevicePtr, err error) {
	err = d.call(func() error { p, err = d.Device.Alloc(n); return err })
	return p, err
}

func (d *threaded) Reserve(n int64) (p driver.DevicePtr, err error) {
	err = d.call(func() error { p, err = d.Device.Reserve(n); return err })
	return p, err
}

func (d *threaded) Free(p driver.DevicePtr) error {
	return d.call(func() error { return d.Device.Free(p) })
}

func (d *threaded) CopyHtoD(dst driver.DevicePtr, src []byte) error {
	return d.call(func() error { return d.Device.CopyHtoD(dst, src) })
}

func (d *threaded) CopyDtoH(dst []byte, src driver.DevicePtr) error {
	return d.call(func() error { return d.Device.CopyDtoH(dst, src) })
}

func (d *threaded) Memset(dst driver.DevicePtr, b byte, n int64) error {
	return d.call(func() error { return d.Device.Memset(dst, b, n) })
}

func (d *threaded) Kernel(name string, nargs int) (k driver.Kernel, err error) {
	err = d.call(func() error { k, err = d.Device.Kernel(name, nargs); return err })
	return k, err
}

func (d *threaded) Launch(k driver.Kernel, c driver.LaunchConfig, args ...uint64) error {
	return d.call(func() error { return d.Device.Launch(k, c, args...) })
}

func (d *threaded) NewStream() (s driver.Stream, err error) {
	err = d.call(func() error { s, err = d.Device.NewStream(); return err })
	return s, err
}

func (d *threaded) NewEvent() (driver.Event, error) {
	if d.inside {
		return d.Device.NewEvent()
	}
	e := &threadedEvent{d: d}
	err := d.call(func() (err error) { e.Event, err = d.Device.NewEvent(); return err })
	return e, err
}

func (d *threaded) CopyHtoDOn(s driver.Stream, dst driver.DevicePtr, src []byte) error {
	return d.call(func() error { return d.Device.CopyHtoDOn(s, dst, src) })
}

func (d *threaded) HostFloats(n int) (f []float32, err error) {
	err = d.call(func() error { f, err = d.Device.HostFloats(n); return err })
	return f, err
}

func (d *threaded) Synchronize() error { return d.call(d.Device.Synchronize) }

type threadedEvent struct {
	driver.Event
	d *threaded
}

func (e *threadedEvent) Record(s driver.Stream) error {
	return e.d.call(func() error { return e.Event.Record(s) })
}

func (e *threadedEvent) Since(start driver.Event) (t time.Duration, err error) {
	err = e.d.call(func() error { t, err = e.Event.Since(start.(*threadedEvent).Event); return err })
	return t, err
}

func (e *threadedEvent) Destroy() error { return e.d.call(e.Event.Destroy) }
