package gpu

import (
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
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
	Plan      engine.MemoryPlan
	Tensors   []TensorForm
	Sequences int      // decoded together
	Decode    []Launch // of one token of each sequence
	Prefill   []Launch // of a prompt
}

// ForecastRun plans for a device with the given properties and notes the launches of a prompt of n tokens and of the token that
// follows m tokens, of opt.Sequences sequences together. It reads no weights. An error that unwraps to driver.ErrOutOfMemory
// comes with the plan, which does not fit.
func ForecastRun(info driver.Info, f *format.Reader, prog *model.Program, opt engine.LoadOptions, n, m int) (*Forecast, error) {
	plan, err := planDevice(info, f, prog, opt, KeptTimes(info, opt.CacheDir))
	if plan == nil {
		return nil, err
	}
	fc := &Forecast{Plan: plan.MemoryPlan}
	for _, w := range plan.weights {
		t := TensorForm{Name: w.Name, Rows: w.Rows, Cols: w.Cols, Form: w.formName(w.form)}
		for _, p := range w.blocks(w.form) {
			t.Bytes += p.size
		}
		fc.Tensors = append(fc.Tensors, t)
	}
	if err != nil {
		return fc, err
	}
	p, err := forecastPass(plan, prog, processorOf(info))
	if err != nil {
		return fc, err
	}
	n, m = min(n, plan.nCtx), min(m, plan.nCtx-1)
	fc.Sequences = max(opt.Sequences, 1)
	fc.Prefill, fc.Decode = p.forecast(1, n, 0), p.forecast(fc.Sequences, 1, m)
	return fc, nil
}

// forecastPass is the pass of a plan on a device that is not there: its memory is addresses only.
func forecastPass(plan *devicePlan, prog *model.Program, on processor) (*pass, error) {
	next := driver.DevicePtr(arenaAlign)
	p, _, err := newPass(&kernels.Launcher{}, plan, prog, on.sms, func(n int64) (driver.DevicePtr, error) {
		at := next
		next += driver.DevicePtr(allocationBytes(n))
		return at, nil
	})
	return p, err
}

// forecast returns the launches for the next n tokens of each of some sequences, after `past` others, with the logits of the last
// of each.
func (p *pass) forecast(sequences, n, past int) (all []Launch) {
	for start := 0; start < n; start += max(1, p.batch/sequences) {
		run := engine.Run{Pos: past + start, N: min(max(1, p.batch/sequences), n-start)}
		p.setRuns(slices.Repeat([]engine.Run{run}, sequences))
		wanted := tokenRange{p.n, 0}
		if start+run.N == n {
			wanted = tokenRange{p.n - sequences, sequences}
		}
		for _, a := range p.actions {
			for _, w := range costOf(a, p, a.tokens(p, wanted)) {
				all = append(all, Launch{w, a.label()})
			}
		}
	}
	return all
}
