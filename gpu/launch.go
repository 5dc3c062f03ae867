package gpu

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

//go:generate go run ./internal/gen -cuda ../cuda -o kernels_gen.go

// launcher launches the kernels of one device. Its typed methods are in kernels_gen.go: grid in blocks, shared in bytes, then
// the kernel's arguments.
type launcher struct {
	dev     driver.Device
	kernels [numKernels]driver.Kernel
	mma     bool          // the device has tensor cores that gemm_mma_* use
	stream  driver.Stream // that launches are queued on; nil = the default stream
	where   string        // what the launches are for ("blk.3.attn_q.weight"), told by errors
	hint
	count   int64    // launches so far
	sync    bool     // wait for every launch, so that an error names the right one (ELLM_GPU_SYNC=1)
	profile *profile // nil = launches are not timed
}

// hint tells what the next launches have to do, for forecasts and the profile.
type hint struct {
	with     []*weight // the matrices that they work on
	products float64   // other than with those
	reads    float64   // bytes, likewise
	rounds   float64   // loads that a block makes one after the other
	tail     float64   // likewise, of the block that prepares the next product's input
}

// work describes a launch for predictions.
func (l *launcher) work(kernel string, c driver.LaunchConfig, args []uint64) predict.Work {
	w := predict.Work{Kernel: kernel, Blocks: c.Grid.X * c.Grid.Y * max(c.Grid.Z, 1), Threads: c.Block.X, Shared: c.SharedBytes, Rounds: l.rounds, Tail: l.tail}
	for _, m := range l.with {
		w.Tasks = append(w.Tasks, m.task(kernel, c.Grid, args))
	}
	if l.products+l.reads > 0 {
		w.Tasks = append(w.Tasks, predict.Task{Products: l.products, Bytes: l.reads})
	}
	return w
}

// newLauncher finds all kernels, so that none is missed in the middle of a text.
func newLauncher(dev driver.Device) (*launcher, error) {
	l := &launcher{dev: dev}
	for i, k := range kernelTable {
		var err error
		if l.kernels[i], err = dev.Kernel(k.name, k.nargs); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *launcher) launch(id kernelID, grid driver.Dim, block, shared int, args ...uint64) error {
	c := driver.LaunchConfig{Grid: grid, Block: driver.D1(block), SharedBytes: shared, Stream: l.stream}
	start := func() error { return l.dev.Launch(l.kernels[id], c, args...) }
	var err error
	if l.profile != nil {
		err = l.profile.measure(l, id, c, args, start)
	} else {
		err = start()
	}
	if err == nil && l.sync {
		err = l.dev.Synchronize()
	}
	l.count++
	if err != nil {
		return fmt.Errorf("%s: kernel %s: %w", l.where, kernelTable[id].name, err)
	}
	return nil
}

// hasMMA tells whether a device has the tensor-core products that gemm_mma_* use.
func hasMMA(i driver.Info) bool { return i.CCMajor > 7 || i.CCMajor == 7 && i.CCMinor >= 5 }

func ceilDiv(a, b int) int { return (a + b - 1) / b }
