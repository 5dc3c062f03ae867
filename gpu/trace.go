package gpu

import (
	"context"
	"fmt"
	"strings"
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
	For   string  // the tensor or step
	Parts []Share // the matrices that it works on
	// Prepares tells that its last block prepares the input of the next product.
	Prepares bool
}

// Share is a matrix's part in a launch.
type Share struct {
	Tensor   string
	Products float64
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
	tokens   int // of the pass being noted
	past     int
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
	t.launches, t.tokens, t.past = nil, n, past
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
	t.l, t.launches, t.tokens = l, nil, 1
	kept, keptProduct := w.form, w.product
	defer func() { w.form, w.product = kept, keptProduct }()
	w.form = as
	w.product = l.chooseProduct(w, max(t.info.SMs, 1))
	l.where = w.Name
	p := &pass{launcher: l, sms: max(t.info.SMs, 1), batch: 1}
	st := &step{Node: &model.Node{Op: model.OpMatMul, A: model.BufGate}, where: w.Name, weight: w}
	a := &productAction{steps: []*step{st}, weights: []*weight{w}, blocks: w.product.gemvGrid, shared: w.product.gemvShared}
	err = a.run(p, span{0, 1})
	return t.launches, err
}

// Launch implements driver.Device.
func (t *tracer) Launch(k driver.Kernel, c driver.LaunchConfig, args ...uint64) error {
	l := Launch{For: t.l.where, Work: predict.Work{Kernel: k.Name(), Blocks: c.Grid.X * c.Grid.Y * max(c.Grid.Z, 1), Threads: c.Block.X, Shared: c.SharedBytes}}
	if strings.HasPrefix(l.Kernel, "gemv_") || strings.HasPrefix(l.Kernel, "attention_") {
		l.Prepares = args[len(args)-1] != 0
	}
	t.measure(&l, c.Grid, args)
	t.launches = append(t.launches, l)
	return nil
}

// measure fills in products and bytes. Activations are left out: they stay in the cache.
func (t *tracer) measure(l *Launch, grid driver.Dim, args []uint64) {
	if strings.HasPrefix(l.Kernel, "attention_") && t.pass != nil {
		cfg := &t.pass.prog.Config
		tokens, past := float64(args[3]), float64(t.past)+float64(t.tokens+1)/2
		l.Products = 2 * tokens * float64(cfg.NHeads*cfg.HeadDim) * past
		l.Bytes = t.l.reads
		return
	}
	for _, w := range t.l.with {
		n, bytes := w.work(l.Kernel, grid, args, t.tokens)
		l.Products += n
		l.Bytes += bytes
		l.Parts = append(l.Parts, Share{w.Name, n})
	}
}

// work returns the products and bytes of w in a launch.
func (w *weight) work(kernel string, grid driver.Dim, args []uint64, tokens int) (products, bytes float64) {
	all := float64(w.Rows) * float64(w.Cols)
	switch {
	case strings.HasPrefix(kernel, "gemv_"):
		return all * float64(grid.Y), w.readBytes(w.form) * float64(grid.Y)
	case strings.HasPrefix(kernel, "gemm_") && len(args) > 7: // arguments: matrix, data, first row, rows, x, prepared x, its stride, tokens
		// Whole tiles are computed, as far as tokens of a warp are wanted.
		unit := w.product.gemmUnit
		rows, tokens := grid.X*w.product.gemmRows, ceilDiv(int(args[7]), unit)*unit
		return float64(rows) * float64(w.Cols) * float64(tokens), float64(w.planeBytes(1)) * float64(args[3]) * float64(grid.Y)
	case strings.HasPrefix(kernel, "unpack_codes_") && len(args) > 2: // arguments: matrix, first quad, quads
		rows := min(int(args[2])*quadRows, w.Rows)
		share := float64(rows) / float64(w.Rows)
		return all * share, w.readBytes(formPacked)*share + float64(w.planeBytes(rows))
	case strings.HasPrefix(kernel, "decode_chunks_") && len(args) > 2: // arguments: matrix, first group, groups
		rows := min(int(args[2])*w.Coded.Coding.RowsPerGroup, w.Rows)
		share := float64(rows) / float64(w.Rows)
		return all * share, w.readBytes(formCoded)*share + float64(w.planeBytes(rows))
	}
	return 0, 0
}

// readBytes returns what a product reads of w in a form.
func (w *weight) readBytes(f form) float64 {
	n := int64(0)
	for _, p := range w.parts(f) {
		if p.dst != &w.desc.RowPosition { // for embeddings only
			n += p.size
		}
	}
	return float64(n)
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
