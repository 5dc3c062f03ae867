package gpu

import (
	"context"
	"fmt"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
)

// Launch is a kernel launch that a forward pass makes, with what it has to do.
type Launch struct {
	predict.Work
	For string // the tensor or step
}

// TensorForm tells how a tensor lies in device memory.
type TensorForm struct {
	Name       string
	Rows, Cols int
	Form       string // "vector", "raw", "coded", "decoded" or "5 bits": decoded and packed
	Bytes      int64
}

// Forecast is what loading and running a model on a device would be, found without the device.
type Forecast struct {
	Plan    engine.MemoryPlan
	Tensors []TensorForm
	Decode  []Launch // of one token
	Prefill []Launch // of a prompt
}

// ForecastRun plans for a device with the given properties and notes the launches of a prompt of n tokens and of the token that
// follows m tokens. It reads no weights. An error that unwraps to driver.ErrOutOfMemory comes with the plan, which does not fit.
func ForecastRun(info driver.Info, f *format.Reader, prog *model.Program, opt engine.LoadOptions, n, m int) (*Forecast, error) {
	lay, err := planLayout(info, f, prog, opt)
	if lay == nil {
		return nil, err
	}
	fc := &Forecast{Plan: lay.MemoryPlan}
	for _, w := range lay.weights {
		t := TensorForm{Name: w.Name, Rows: w.Rows, Cols: w.Cols, Form: w.formName(w.form)}
		for _, p := range w.parts(w.form) {
			t.Bytes += p.size
		}
		fc.Tensors = append(fc.Tensors, t)
	}
	if err != nil {
		return fc, err
	}
	tr := newTracer(info)
	if err := tr.prepare(f, prog, lay); err != nil {
		return fc, err
	}
	n, m = min(n, lay.nCtx), min(m, lay.nCtx-1)
	if fc.Prefill, err = tr.forward(n, 0); err != nil {
		return fc, err
	}
	fc.Decode, err = tr.forward(1, m)
	return fc, err
}

// formName names a form of w.
func (w *weight) formName(f form) string {
	if f == formPacked {
		return fmt.Sprintf("%d bits", w.packed.bits)
	}
	return [...]string{formVector: "vector", formRaw: "raw", formCoded: "coded", formPlane: "decoded"}[f]
}

// tracer is a device that executes nothing and notes what is launched. Its memory is addresses only.
type tracer struct {
	info     driver.Info
	l        *launcher
	pass     *pass
	next     driver.DevicePtr
	launches []Launch
}

func newTracer(info driver.Info) *tracer {
	return &tracer{info: info, next: arenaAlign}
}

// prepare sets up the forward pass of a layout.
func (t *tracer) prepare(f *format.Reader, prog *model.Program, lay *layout) error {
	var err error
	if t.l, err = newLauncher(t); err != nil {
		return err
	}
	t.l.mma = hasMMA(t.info)
	for _, w := range lay.weights {
		if w.use&useProduct != 0 {
			w.product = t.l.chooseProduct(w, max(t.info.SMs, 1))
		}
	}
	work, err := newArena(t, lay.Total()-lay.weightBytes)
	if err != nil {
		return err
	}
	t.pass, err = newPass(t.l, lay, f, prog, work, max(t.info.SMs, 1))
	return err
}

// forward returns the launches for n tokens behind `past` others, with the logits of the last.
func (t *tracer) forward(n, past int) ([]Launch, error) {
	t.launches = nil
	err := t.pass.run(context.Background(), make([]int32, n), past, 1, make([]float32, t.pass.prog.Config.NVocab))
	return t.launches, err
}

// product returns the launches of one product with w in a given form.
func (t *tracer) product(w *weight, as form) ([]Launch, error) {
	l, err := newLauncher(t)
	if err != nil {
		return nil, err
	}
	l.mma = hasMMA(t.info)
	t.l, t.launches = l, nil
	kept, keptProduct := w.form, w.product
	defer func() { w.form, w.product = kept, keptProduct }()
	w.form = as
	w.product = l.chooseProduct(w, max(t.info.SMs, 1))
	l.where = w.Name
	p := &pass{launcher: l, sms: max(t.info.SMs, 1), batch: 1}
	st := &step{Node: &model.Node{Op: model.OpMatMul, A: model.BufGate}, where: w.Name, weight: w}
	a := &productAction{steps: []*step{st}, weights: []*weight{w}, kernel: w.product.gemv, blocks: w.product.gemvGrid, shared: w.product.gemvShared}
	err = a.run(p, span{0, 1})
	return t.launches, err
}

// Launch implements driver.Device.
func (t *tracer) Launch(k driver.Kernel, c driver.LaunchConfig, args ...uint64) error {
	t.launches = append(t.launches, Launch{t.l.work(k.Name(), c, args), t.l.where})
	return nil
}

type tracedKernel string

func (k tracedKernel) Name() string { return string(k) }

type tracedStream struct{}

func (tracedStream) Synchronize() error      { return nil }
func (tracedStream) Destroy() error          { return nil }
func (tracedStream) Wait(driver.Event) error { return nil }

type tracedEvent struct{}

func (tracedEvent) Record(driver.Stream) error                { return nil }
func (tracedEvent) Since(driver.Event) (time.Duration, error) { return 0, nil }
func (tracedEvent) Synchronize() error                        { return nil }
func (tracedEvent) Destroy() error                            { return nil }

var _ driver.Device = (*tracer)(nil)

// The rest of driver.Device.
func (t *tracer) Do(f func() error) error    { return f() }
func (t *tracer) Info() (driver.Info, error) { return t.info, nil }
func (t *tracer) Alloc(n int64) (driver.DevicePtr, error) {
	p := t.next
	t.next += driver.DevicePtr(blockSpan(n))
	return p, nil
}
func (t *tracer) Reserve(n int64) (driver.DevicePtr, error)                { return t.Alloc(n) }
func (t *tracer) Allow(driver.DevicePtr, int64) error                      { return nil }
func (t *tracer) Forbid(driver.DevicePtr) error                            { return nil }
func (t *tracer) Free(driver.DevicePtr) error                              { return nil }
func (t *tracer) CopyHtoD(driver.DevicePtr, []byte) error                  { return nil }
func (t *tracer) CopyHtoDOn(driver.Stream, driver.DevicePtr, []byte) error { return nil }
func (t *tracer) HostFloats(n int) ([]float32, error)                      { return make([]float32, n), nil }
func (t *tracer) Capture(driver.Stream, func() error) (driver.Graph, error) {
	return nil, &driver.Error{Op: "forecast", Kind: driver.ErrNoGraphs}
}
func (t *tracer) CopyDtoH([]byte, driver.DevicePtr) error    { return nil }
func (t *tracer) Memset(driver.DevicePtr, byte, int64) error { return nil }
func (t *tracer) Kernel(name string, nargs int) (driver.Kernel, error) {
	return tracedKernel(name), nil
}
func (t *tracer) NewStream() (driver.Stream, error) { return tracedStream{}, nil }
func (t *tracer) NewEvent() (driver.Event, error)   { return tracedEvent{}, nil }
func (t *tracer) Synchronize() error                { return nil }
func (t *tracer) Close() error                      { return nil }
