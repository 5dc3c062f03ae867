package gpu

import (
	"errors"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
)

// stagingBuffer is memory on the device for what is uploaded for a launch and read by it.
type stagingBuffer struct {
	*arena
	uploaded, done driver.Event // its contents are there; they have been read
}

func newStagingBuffer(dev driver.Device, work *arena, size int64) (s stagingBuffer, err error) {
	if s.arena, err = work.carve(size); err != nil {
		return s, err
	}
	if s.uploaded, err = dev.NewEvent(); err != nil {
		return s, err
	}
	if s.done, err = dev.NewEvent(); err != nil {
		return stagingBuffer{}, errors.Join(err, s.free())
	}
	return s, nil
}

func (s *stagingBuffer) free() error {
	var err error
	if s.arena != nil {
		err = s.arena.reset()
	}
	return errors.Join(err, destroy(s.uploaded, s.done))
}

// staging are two buffers that take turns: while what is in one is read, the next is uploaded to the other.
type staging struct {
	*kernels.Launcher
	upload  driver.Stream
	buffers [2]stagingBuffer
	next    int
}

// staged waits until the buffer whose turn it is has been read, lets `fill` queue copies to it on the stream of uploads and then
// `use`, which reads them, on the launcher's.
func (s *staging) staged(fill func(a *arena) error, use func() error) error {
	b := &s.buffers[s.next]
	s.next ^= 1
	if err := errors.Join(b.done.Synchronize(), b.reset()); err != nil {
		return err
	}
	if err := fill(b.arena); err != nil {
		return err
	}
	if err := errors.Join(b.uploaded.Record(s.upload), s.Stream.Wait(b.uploaded)); err != nil {
		return err
	}
	if err := use(); err != nil {
		return err
	}
	return b.done.Record(s.Stream)
}
