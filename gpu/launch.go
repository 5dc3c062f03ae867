package gpu

import (
	"fmt"
	"sort"
	"time"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
)

//go:generate go run ./internal/gen -cuda ../cuda -o kernels_gen.go

// launcher launches the kernels of one device. Its typed methods are in kernels_gen.go: grid in blocks, shared in bytes, then
// the kernel's arguments.
type launcher struct {
	dev     driver.Device
	kernels [numKernels]driver.Kernel
	where   string    // what the launches are for ("blk.3.attn_q.weight"), told by errors
	with    []*weight // the matrices that they work on
	count   int64     // launches so far
	timed   bool      // synchronize and time every launch
	times   [numKernels]KernelTime
}

// KernelTime is what a kernel took, summed over its launches (ELLM_GPU_SYNC=1).
type KernelTime struct {
	Kernel   string
	Launches int64
	Total    time.Duration
}

// newLauncher finds all kernels, so that none is missed in the middle of a text.
func newLauncher(dev driver.Device, timed bool) (*launcher, error) {
	l := &launcher{dev: dev, timed: timed}
	for i, k := range kernelTable {
		var err error
		if l.kernels[i], err = dev.Kernel(k.name, k.nargs); err != nil {
			return nil, err
		}
		l.times[i].Kernel = k.name
	}
	return l, nil
}

func (l *launcher) launch(id kernelID, grid driver.Dim, block, shared int, args ...uint64) error {
	c := driver.LaunchConfig{Grid: grid, Block: driver.D1(block), SharedBytes: shared}
	start := time.Now()
	err := l.dev.Launch(l.kernels[id], c, args...)
	if err == nil && l.timed {
		err = l.dev.Synchronize()
	}
	l.count++
	if l.timed {
		l.times[id].Launches++
		l.times[id].Total += time.Since(start)
	}
	if err != nil {
		return fmt.Errorf("%s: kernel %s: %w", l.where, kernelTable[id].name, err)
	}
	return nil
}

// profile returns the kernels that ran, the most expensive first.
func (l *launcher) profile() []KernelTime {
	var p []KernelTime
	for _, t := range l.times {
		if t.Launches > 0 {
			p = append(p, t)
		}
	}
	sort.SliceStable(p, func(i, j int) bool { return p[i].Total > p[j].Total })
	return p
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
