// Package kernels launches the kernels of cuda/ with typed arguments, and has the descriptors that they read. All but this file
// is generated from the kernels' sources.
package kernels

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

//go:generate go run ../internal/gen -cuda ../../cuda -o kernels_gen.go

// Observer is called in place of a launch, which it makes by calling launch once.
type Observer interface {
	Launch(k ID, c driver.LaunchConfig, launch func() error) error
}

// Launcher launches the kernels of one device. It is used by one goroutine at a time.
type Launcher struct {
	Dev      driver.Device
	Stream   driver.Stream // that launches are queued on; nil = the default stream
	Label    string        // what the launches are for ("blk.3.attn_q.weight"), told by errors
	Sync     bool          // wait for every launch, so that an error names the right one
	Observer Observer      // nil = none
	Launched int64         // launches so far
	kernels  [Count]driver.Kernel
}

// New finds all kernels on dev, so that none is missed in the middle of a text.
func New(dev driver.Device) (*Launcher, error) {
	l := &Launcher{Dev: dev}
	for i, k := range table {
		var err error
		if l.kernels[i], err = dev.Kernel(k.name, k.args); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Launcher) launch(id ID, grid driver.Dim, shared int, args ...uint64) error {
	c := driver.LaunchConfig{Grid: grid, Block: driver.D1(id.Block()), SharedBytes: shared, Stream: l.Stream}
	start := func() error { return l.Dev.Launch(l.kernels[id], c, args...) }
	var err error
	if l.Observer != nil {
		err = l.Observer.Launch(id, c, start)
	} else {
		err = start()
	}
	if err == nil && l.Sync {
		err = l.Dev.Synchronize()
	}
	l.Launched++
	if err != nil {
		return fmt.Errorf("%s: kernel %s: %w", l.Label, id, err)
	}
	return nil
}

// String returns the kernel's name.
func (k ID) String() string { return table[k].name }

// Block returns the threads of a block of the kernel.
func (k ID) Block() int { return table[k].block }

// Vectors returns the kernel that does what k does for t ≥ 1 vectors at a time, with t as near to n as there are kernels: the
// least that is enough, but at most `most`.
func (k ID) Vectors(n, most int) (id ID, t int) {
	id, t = k, 1
	for i, several := range vectors[k] {
		if size := 2 << i; t < n && several != 0 && size <= most {
			id, t = several, size
		}
	}
	return id, t
}

// Size returns how many vectors a block of k multiplies.
func (k ID) Size() int {
	for _, several := range vectors {
		for i, id := range several {
			if id == k && id != 0 {
				return 2 << i
			}
		}
	}
	return 1
}
