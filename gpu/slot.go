package gpu

import (
	"errors"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

// slot is staging memory on the device: what is uploaded for a launch and read by it.
type slot struct {
	*arena
	uploaded, done driver.Event // its contents are there; they have been read
}

func newSlot(dev driver.Device, work *arena, size int64) (s slot, err error) {
	if s.arena, err = work.carve(size); err != nil {
		return s, err
	}
	if s.uploaded, err = dev.NewEvent(); err != nil {
		return s, err
	}
	s.done, err = dev.NewEvent()
	return s, err
}

func (s *slot) free() error {
	return errors.Join(s.arena.reset(), s.uploaded.Destroy(), s.done.Destroy())
}

// inSlot waits until the slot whose turn it is has been read, lets `fill` queue copies to it on the stream of uploads, and behind them `use`, which
// reads them, on the launcher's.
func (l *loader) inSlot(fill func(a *arena) error, use func() error) error {
	s := &l.slots[l.next]
	l.next ^= 1
	if err := errors.Join(s.done.Synchronize(), s.reset()); err != nil {
		return err
	}
	if err := fill(s.arena); err != nil {
		return err
	}
	if err := errors.Join(s.uploaded.Record(l.upload), l.stream.Wait(s.uploaded)); err != nil {
		return err
	}
	if err := use(); err != nil {
		return err
	}
	return s.done.Record(l.stream)
}
