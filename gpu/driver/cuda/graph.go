//go:build cuda

package cuda

import (
	"errors"
	"slices"
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
	if !libcuda.HasGraphs() || !d.graphsWork() {
		return nil, &driver.Error{Op: "cuda: capture", Kind: driver.ErrNoGraphs}
	}
	return d.capture(cs, f)
}

// capture is Capture where the driver has graphs.
func (d *Device) capture(cs *stream, f func() error) (*graph, error) {
	// Modules must not be loaded during a capture.
	d.rehearsing = true
	err := f()
	d.rehearsing = false
	if err != nil {
		return nil, err
	}
	on := unsafe.Pointer(cs.s.C())
	if err := codeError(libcuda.BeginCapture(on), "begin capture", ""); err != nil {
		return nil, err
	}
	err = f()
	exec, r := libcuda.EndCapture(on)
	if err = errors.Join(err, codeError(r, "end capture", "")); err != nil {
		if exec != nil {
			libcuda.DestroyGraph(exec)
		}
		return nil, err
	}
	return &graph{exec}, nil
}

// trustedGraphs is the first version of CUDA whose graphs are used without a trial. Before it they were new, and nobody has seen
// them on a Jetson board yet.
const trustedGraphs = 11000

// graphsWork tells whether a graph of launches that depend on each other does what it should. It is tried once, and only on old
// drivers; whatever goes wrong means no.
func (d *Device) graphsWork() bool {
	if libcuda.Version() >= trustedGraphs {
		return true
	}
	if !d.graphsTried {
		d.graphsTried = true
		d.graphsFine = d.tryGraph() == nil
	}
	return d.graphsFine
}

// tryGraph captures three launches, each of which copies a word to the next place, and runs them twice.
func (d *Device) tryGraph() (err error) {
	const launches, bytes = 3, 64
	k, err := d.Kernel("copy_words", 3)
	if err != nil {
		return err
	}
	p, err := d.Alloc(bytes)
	if err != nil {
		return err
	}
	s, err := d.NewStream()
	if err != nil {
		return errors.Join(err, d.Free(p))
	}
	defer func() { err = errors.Join(err, s.Destroy(), d.Free(p)) }()
	g, err := d.capture(s.(*stream), func() error {
		for i := range launches {
			at := uint64(p) + uint64(4*i)
			c := driver.LaunchConfig{Grid: driver.D1(1), Block: driver.D1(256), Stream: s}
			if err := d.Launch(k, c, at+4, at, 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Destroy()) }()
	for _, first := range []byte{7, 9} {
		word := []byte{first, 2, 3, 4}
		got := make([]byte, 4*(launches+1))
		if err := errors.Join(d.CopyHtoD(p, append(word, make([]byte, 4*launches)...)), g.Launch(s), s.Synchronize(),
			d.CopyDtoH(got, p)); err != nil {
			return err
		}
		for i := range launches + 1 {
			if !slices.Equal(got[4*i:4*i+4], word) {
				return &driver.Error{Op: "cuda: graph", Msg: "it ran, but its result is wrong"}
			}
		}
	}
	return nil
}

func (g *graph) Launch(s driver.Stream) error {
	on, err := raw(s)
	if err != nil {
		return err
	}
	return codeError(libcuda.LaunchGraph(g.exec, unsafe.Pointer(on.C())), "launch graph", "")
}

func (g *graph) Destroy() error { return codeError(libcuda.DestroyGraph(g.exec), "destroy graph", "") }
