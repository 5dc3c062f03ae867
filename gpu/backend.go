// Package gpu runs models on a GPU: it plans device memory, streams coded weights onto the device, and executes the forward
// pass of internal/model as launches of the kernels in cuda/. Package driver has what executes them.
package gpu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// Backend runs one model on one device. It implements engine.Backend.
type Backend struct {
	dev    driver.Device
	l      *kernels.Launcher
	plan   *devicePlan
	arena  *arena
	pass   *pass
	times  *profile // nil = launches are not timed
	logits []float32
}

var (
	_ engine.Backend  = (*Backend)(nil)
	_ engine.Profiler = (*Backend)(nil)
)

// New returns a backend without a model. It takes over dev and closes it with Close.
func New(dev driver.Device) *Backend { return &Backend{dev: dev} }

// Load implements engine.Backend. Its error unwraps to driver.ErrOutOfMemory when the model does not fit.
func (b *Backend) Load(ctx context.Context, f *format.Reader, prog *model.Program, opt engine.LoadOptions) error {
	if b.plan != nil {
		return errors.New("gpu: a model is already loaded")
	}
	info, err := b.dev.Info()
	if err != nil {
		return err
	}
	times, err := b.measure(info, f, prog, opt)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		plan, err := planDevice(info, f, prog, opt, times)
		if plan != nil && opt.Announce != nil {
			opt.Announce(plan.MemoryPlan)
		}
		if err != nil {
			return err
		}
		b.plan = plan
		if err = b.dev.Do(b.reserve); err == nil {
			break
		}
		// What a driver reports as free it may still refuse: plan again with less.
		const tries, less = 3, 20
		if try+1 == tries || !errors.Is(err, driver.ErrOutOfMemory) {
			return err
		}
		opt.MemoryBudget = plan.Total() - plan.Total()/less
	}
	return b.dev.Do(func() error { return f.Guard(func() error { return b.load(ctx, f, prog, info, opt) }) })
}

// measure returns the times that plan auto goes by: measured, if it may, or kept of an earlier start.
func (b *Backend) measure(info driver.Info, f *format.Reader, prog *model.Program,
	opt engine.LoadOptions) ([]engine.ProductTime, error) {
	if opt.Plan != engine.PlanAuto && opt.Plan != "" {
		return nil, nil
	}
	times := KeptTimes(info, opt.CacheDir)
	if !opt.Measure {
		return times, nil
	}
	times, err := tryProducts(b.dev, info, f, prog, opt, times)
	switch {
	case errors.Is(err, driver.ErrOutOfMemory): // the plan says what fits
		return times, nil
	case err != nil:
		return nil, fmt.Errorf("gpu: timing a product: %w", err)
	}
	keepTimes(info, opt.CacheDir, times)
	return times, nil
}

// reserve takes the memory that the plan needs.
func (b *Backend) reserve() error {
	var err error
	if b.l, err = kernels.New(b.dev); err != nil {
		return err
	}
	b.l.Sync = os.Getenv("ELLM_GPU_SYNC") == "1"
	b.arena, err = newArena(b.dev, b.plan.Total())
	return err
}

func (b *Backend) load(ctx context.Context, f *format.Reader, prog *model.Program, info driver.Info,
	opt engine.LoadOptions) error {
	on := processorOf(info)
	weights, work := b.arena.split(b.plan.weightBytes)
	ld, err := newLoader(b.l, f, weights, work, b.plan.load, on)
	if err != nil {
		return err
	}
	if err := errors.Join(ld.load(ctx, b.plan.weights, opt.Progress), ld.close(), work.reset()); err != nil {
		return err
	}
	if b.pass, err = openPass(b.l, b.plan, f, prog, work, on.sms); err != nil {
		return err
	}
	if opt.Profile { // of the forward pass, not of loading
		if b.times, err = newProfile(b.dev, info); err == nil {
			b.pass.observer, b.l.Observer = b.times, b.times
		}
	}
	return err
}

// Forward implements engine.Backend.
func (b *Backend) Forward(ctx context.Context, batch engine.Batch) ([]float32, error) {
	if b.pass == nil {
		return nil, errors.New("gpu: no model is loaded")
	}
	vocab := b.pass.prog.Config.NVocab
	limits := engine.BatchLimits{Tokens: b.plan.batch, Context: b.plan.nCtx, Sequences: b.plan.sequences, Pages: b.plan.Pages,
		Vocab: vocab, States: b.plan.States}
	if err := batch.Check(limits); err != nil {
		return nil, fmt.Errorf("gpu: %w", err)
	}
	rows := batch.Rows()
	logits := b.pass.row
	if rows != 1 {
		b.logits = slices.Grow(b.logits[:0], rows*vocab)[:rows*vocab]
		logits = b.logits
	}
	if err := b.dev.Do(func() error { return b.pass.run(ctx, batch, logits) }); err != nil {
		return nil, err
	}
	return logits, nil
}

// Memory implements engine.Backend.
func (b *Backend) Memory() engine.MemoryPlan {
	if b.plan == nil {
		return engine.MemoryPlan{}
	}
	return b.plan.MemoryPlan
}

// Describe names the device and how many kernels it has executed.
func (b *Backend) Describe() string {
	info, err := b.dev.Info()
	if err != nil {
		return "gpu: " + err.Error()
	}
	s := info.Label()
	if b.l != nil {
		s += fmt.Sprintf(", %d kernel launches", b.l.Launched)
	}
	return s
}

// Profile implements engine.Profiler.
func (b *Backend) Profile() []engine.ProfileEntry {
	if b.times == nil {
		return nil
	}
	return b.times.list()
}

// ResetProfile implements engine.Profiler.
func (b *Backend) ResetProfile() {
	if b.times != nil {
		clear(b.times.entries[:])
	}
}

// Close frees the model's memory and closes the device.
func (b *Backend) Close() error {
	var err error
	if b.l != nil {
		err = b.dev.Do(b.free)
		b.l = nil
	}
	return errors.Join(err, b.dev.Close())
}

// free gives back what load took.
func (b *Backend) free() error {
	var errs []error
	if b.times != nil {
		errs = append(errs, b.times.free())
	}
	if b.pass != nil {
		errs = append(errs, b.pass.free())
		b.pass = nil
	}
	if b.arena != nil {
		errs = append(errs, b.arena.free())
		b.arena = nil
	}
	return errors.Join(errs...)
}
