package gpu

import (
	"errors"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
)

// planeRing are two planes that pieces of coded matrices are decoded to in turn, on a stream of its own: while one piece is
// multiplied, the next is decoded, also across matrices and layers.
type planeRing struct {
	stream   driver.Stream
	planes   [2]driver.DevicePtr
	decoded  [2]driver.Event // the plane is ready
	consumed [2]driver.Event // its products are done
	next     int
}

func newPlaneRing(dev driver.Device, planes [2]driver.DevicePtr) (*planeRing, error) {
	r := &planeRing{planes: planes}
	var err error
	if r.stream, err = dev.NewStream(); err != nil {
		return nil, err
	}
	for i := range r.planes {
		if r.decoded[i], err = dev.NewEvent(); err != nil {
			return nil, errors.Join(err, r.free())
		}
		if r.consumed[i], err = dev.NewEvent(); err != nil {
			return nil, errors.Join(err, r.free())
		}
	}
	return r, nil
}

// overlap runs decode, which fills a plane, on the ring's stream, and multiply, which reads it, on the launcher's.
func (r *planeRing) overlap(l *kernels.Launcher, decode, multiply func(plane driver.DevicePtr) error) error {
	i := r.next
	r.next ^= 1
	if err := r.stream.Wait(r.consumed[i]); err != nil {
		return err
	}
	stream := l.Stream
	l.Stream = r.stream
	err := decode(r.planes[i])
	l.Stream = stream
	if err != nil {
		return err
	}
	if err := errors.Join(r.decoded[i].Record(r.stream), stream.Wait(r.decoded[i])); err != nil {
		return err
	}
	if err := multiply(r.planes[i]); err != nil {
		return err
	}
	return r.consumed[i].Record(stream)
}

func (r *planeRing) free() error {
	return destroy(r.decoded[0], r.consumed[0], r.decoded[1], r.consumed[1], r.stream)
}

// destroy gives back streams and events; nil ones were never made.
func destroy(all ...interface{ Destroy() error }) error {
	var errs []error
	for _, d := range all {
		if d != nil {
			errs = append(errs, d.Destroy())
		}
	}
	return errors.Join(errs...)
}
