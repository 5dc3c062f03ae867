//go:build cuda

package cuda

import (
	"errors"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/cuda/libcuda"
)

type graph struct{ exec unsafe.Pointer }

// Capture implements driver.Device.
func (d *Device) Capture(s driver.Stream, f func() error) (driver.Graph, error) {
	cs, ok := s.(*stream)
	if !ok {
		return nil, &driver.Error{Op: "cuda: capture", Msg: "needs a stream of this device"}
	}
	if !libcuda.HasGraphs() {
		return nil, &driver.Error{Op: "cuda: capture", Kind: driver.ErrNoGraphs}
	}
	on := unsafe.Pointer(cs.s.C())
	if err := codeError(libcuda.BeginCapture(on), "begin capture", ""); err != nil {
		return nil, err
	}
	err := f()
	exec, r := libcuda.EndCapture(on)
	if err = errors.Join(err, codeError(r, "end capture", "")); err != nil {
		if exec != nil {
			libcuda.DestroyGraph(exec)
		}
		return nil, err
	}
	return &graph{exec}, nil
}

func (g *graph) Launch(s driver.Stream) error {
	on, err := raw(s)
	if err != nil {
		return err
	}
	return codeError(libcuda.LaunchGraph(g.exec, unsafe.Pointer(on.C())), "launch graph", "")
}

func (g *graph) Destroy() error { return codeError(libcuda.DestroyGraph(g.exec), "destroy graph", "") }
