// Package gpu runs models on a GPU: it plans device memory, streams coded weights onto the device, and executes the forward
// pass of internal/model as launches of the kernels in cuda/. What executes them is behind package driver.
package gpu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// Backend runs one model on one device. It implements engine.Backend.
type Backend struct {
	dev    driver.Device
	l      *launcher
	lay    *layout
	arena  *arena
	pass   *pass
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
	if b.lay != nil {
		return errors.New("gpu: a model is already loaded")
	}
	info, err := b.dev.Info()
	if err != nil {
		return err
	}
	lay, err := planLayout(info, f, prog, opt)
	if lay != nil && opt.Announce != nil {
		opt.Announce(lay.MemoryPlan)
	}
	if err != nil {
		return err
	}
	b.lay = lay
	return b.dev.Do(func() error { return b.load(ctx, f, prog, info, opt) })
}

func (b *Backend) load(ctx context.Context, f *format.Reader, prog *model.Program, info driver.Info, opt engine.LoadOptions) error {
	sms := max(info.SMs, 1)
	var err error
	if b.l, err = newLauncher(b.dev); err != nil {
		return err
	}
	b.l.sync = os.Getenv("ELLM_GPU_SYNC") == "1"
	b.l.mma = hasMMA(info)
	if b.arena, err = newArena(b.dev, b.lay.Total()); err != nil {
		return err
	}
	weights, work := b.arena.split(b.lay.weightBytes)
	ld, err := newLoader(b.l, f, weights, work, b.lay.load, sms)
	if err != nil {
		return err
	}
	if err := errors.Join(ld.load(ctx, b.lay.weights, opt.Progress), ld.close(), work.reset()); err != nil {
		return err
	}
	if b.pass, err = newPass(b.l, b.lay, f, prog, work, sms); err != nil {
		return err
	}
	if opt.Profile { // of the forward pass, not of loading
		b.l.profile, err = newProfile(b.dev, info)
	}
	return err
}

// Forward implements engine.Backend.
func (b *Backend) Forward(ctx context.Context, tokens []int32, pos, rows int) ([]float32, error) {
	if b.pass == nil {
		return nil, errors.New("gpu: no model is loaded")
	}
	n := len(tokens)
	if n == 0 || pos < 0 || rows < 0 || rows > n || pos > b.lay.nCtx-n {
		return nil, fmt.Errorf("gpu: %d tokens at position %d with logits of %d, in a context of %d", n, pos, rows, b.lay.nCtx)
	}
	vocab := b.pass.prog.Config.NVocab
	for i, t := range tokens {
		if t < 0 || int(t) >= vocab {
			return nil, fmt.Errorf("gpu: token %d is %d, the vocabulary has %d", i, t, vocab)
		}
	}
	logits := b.pass.row
	if rows != 1 {
		b.logits = slices.Grow(b.logits[:0], rows*vocab)[:rows*vocab]
		logits = b.logits
	}
	err := b.dev.Do(func() error { return b.pass.run(ctx, tokens, pos, rows, logits) })
	if err != nil {
		return nil, err
	}
	return logits, nil
}

// Memory implements engine.Backend.
func (b *Backend) Memory() engine.MemoryPlan {
	if b.lay == nil {
		return engine.MemoryPlan{}
	}
	return b.lay.MemoryPlan
}

// Describe names the device and how many kernels it has executed.
func (b *Backend) Describe() string {
	info, err := b.dev.Info()
	if err != nil {
		return "gpu: " + err.Error()
	}
	s := info.Label()
	if b.l != nil {
		s += fmt.Sprintf(", %d kernel launches", b.l.count)
	}
	return s
}

// Profile implements engine.Profiler.
func (b *Backend) Profile() []engine.ProfileEntry {
	if b.l == nil || b.l.profile == nil {
		return nil
	}
	return b.l.profile.list()
}

// ResetProfile implements engine.Profiler.
func (b *Backend) ResetProfile() {
	if b.l != nil && b.l.profile != nil {
		clear(b.l.profile.entries[:])
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
	if b.l != nil && b.l.profile != nil {
		errs = append(errs, b.l.profile.free())
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
