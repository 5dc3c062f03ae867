package outfile

import (
	"fmt"
	"os"
	"syscall"
)

// Faulty is a Disk for tests whose n-th call fails, or all from then on.
type Faulty struct {
	Disk
	Fail  int  // the call that fails, counted from 1; 0: none
	Stays bool // calls after it fail too
	Calls int  // so far
	Call  string
}

// next counts a call and returns its error. Removing never fails once something else has: what would be left then is not the
// program's doing.
func (d *Faulty) next(what string) error {
	d.Calls++
	if d.Calls == d.Fail || d.Stays && d.Fail > 0 && d.Calls > d.Fail {
		if d.Calls == d.Fail {
			d.Call = what
		}
		return fmt.Errorf("%s: %w", what, syscall.ENOSPC)
	}
	return nil
}

// Create implements Disk.
func (d *Faulty) Create(name string, mode os.FileMode) (Handle, error) {
	if err := d.next("create"); err != nil {
		return nil, err
	}
	h, err := d.Disk.Create(name, mode)
	if err != nil {
		return nil, err
	}
	return &faultyHandle{h, d}, nil
}

// Rename implements Disk.
func (d *Faulty) Rename(from, to string) error {
	if err := d.next("rename"); err != nil {
		return err
	}
	return d.Disk.Rename(from, to)
}

type faultyHandle struct {
	Handle
	d *Faulty
}

// Write writes half of b if the call fails, as a full disk does.
func (h *faultyHandle) Write(b []byte) (int, error) {
	if err := h.d.next("write"); err != nil {
		n, _ := h.Handle.Write(b[:len(b)/2])
		return n, err
	}
	return h.Handle.Write(b)
}

func (h *faultyHandle) WriteAt(b []byte, offset int64) (int, error) {
	if err := h.d.next("write at"); err != nil {
		return 0, err
	}
	return h.Handle.WriteAt(b, offset)
}

func (h *faultyHandle) Chmod(mode os.FileMode) error {
	if err := h.d.next("chmod"); err != nil {
		return err
	}
	return h.Handle.Chmod(mode)
}

func (h *faultyHandle) Sync() error {
	if err := h.d.next("sync"); err != nil {
		return err
	}
	return h.Handle.Sync()
}

func (h *faultyHandle) Close() error {
	err := h.d.next("close")
	if e := h.Handle.Close(); err == nil {
		err = e
	}
	return err
}
