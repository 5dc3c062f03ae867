package gpu

import (
	"errors"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// planeRing are two planes that pieces of coded matrices are decoded to in turn, on a stream of its own: while one piece is multiplied, the
// next is decoded, also across matrices and layers.
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
			return nil, err
		}
		if r.consumed[i], err = dev.NewEvent(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// use runs decode, which fills a plane, on the ring's stream, and multiply, which reads it, on the launcher's.
func (r *planeRing) use(l *launcher, decode, multiply func(plane driver.DevicePtr) error) error {
	i := r.next
	r.next ^= 1
	if err := r.stream.Wait(r.consumed[i]); err != nil {
		return err
	}
	stream := l.stream
	l.stream = r.stream
	err := decode(r.planes[i])
	l.stream = stream
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
	var errs []error
	for i := range r.planes {
		errs = append(errs, r.decoded[i].Destroy(), r.consumed[i].Destroy())
	}
	return errors.Join(append(errs, r.stream.Destroy())...)
}
