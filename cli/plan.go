package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/predict"
	"github.com/ellm-gpu/ellm-gpu/internal/shapes"
)

func (p *program) planCommand() *cli.Command {
	return &cli.Command{
		Name:  "plan",
		Usage: "show the memory a model takes on a device under each plan, without loading it, and for GPUs the predicted speed",
		Description: "Besides the devices of this machine, --device takes the described ones: nano, orin-nano, rtx4060, " +
			"rtx4090, h200.\n" +
			"Their speeds are predicted from the compiled kernels' instructions and the device's rates, not measured.",
		ArgsUsage: "MODEL.ellm --device nano|…|cpu|emu|0",
		Flags: append([]cli.Flag{ctxFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "tensors", Usage: "list every tensor instead of adding up those of the same role"},
			&cli.StringFlag{Name: "shape", Usage: "instead of MODEL.ellm: random weights in the shapes of `NAME`: " +
				strings.Join(shapes.Names(), ", ")},
			&cli.IntFlag{Name: "parallel", Aliases: []string{"np"}, Value: 1,
				Usage: "sequences that are decoded together, each with a context of --ctx"},
			&cli.Float64Flag{Name: "bpw", Value: convert.DefaultBPW, Usage: "bits per weight of --shape, everything included"},
		}, deviceFlags()...),
		Action: p.plan,
	}
}

// planJSON is an element of what plan --json prints.
type planJSON struct {
	engine.MemoryPlan
	Total     int64           `json:"total"`
	Free      int64           `json:"free"` // what is left of the budget; negative = missing; 0 where the budget is unknown
	NCtx      int             `json:"n_ctx"`
	Fits      bool            `json:"fits"`
	Chosen    bool            `json:"chosen"`              // by --plan (auto unless given)
	Error     string          `json:"error,omitempty"`     // why it does not fit
	Predicted *gpu.Prediction `json:"predicted,omitempty"` // not measured
}

// The load that speeds are predicted for: llama-bench's pp512 and tg128.
const predictedPrompt, predictedPast = 512, 64

func (p *program) plan(c *cli.Context) error {
	opt, err := loadOptions(c)
	if err != nil {
		return err
	}
	f, prog, err := p.plannedModel(c)
	if err != nil {
		return err
	}
	defer f.Close()
	opt.NCtx = engine.ContextLength(&prog.Config, opt.NCtx)
	opt.Sequences = c.Int("parallel")
	pl, err := p.planner(c.String("device"))
	if err != nil {
		return err
	}
	rows, err := pl.rows(f, prog, opt)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(rows)
	}
	p.printPlans(rows, c.Bool("tensors"))
	return nil
}

// plannedModel opens the model that the command line names, or makes the stand-in that it describes.
func (p *program) plannedModel(c *cli.Context) (*format.Reader, *model.Program, error) {
	if name := c.String("shape"); name != "" {
		if c.Args().Present() {
			return nil, nil, usagef("--shape %s takes the place of a model file", name)
		}
		return shapes.Model(name, c.Float64("bpw"))
	}
	if c.IsSet("bpw") {
		return nil, nil, usagef("--bpw goes with --shape: a file has the bits that it has")
	}
	path, err := p.modelOperand(c)
	if err != nil {
		return nil, nil, err
	}
	f, err := openModel(path)
	if err != nil {
		return nil, nil, err
	}
	prog, _, err := engine.Describe(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, prog, nil
}

// planner tells what loading a model on a device would allocate.
type planner struct {
	kinds []engine.Plan
	// plan returns the plan, and a prediction if there is one. An error together with a plan means that it does not fit.
	plan func(*format.Reader, *model.Program, engine.LoadOptions) (engine.MemoryPlan, *gpu.Prediction, error)
}

// planner returns the planner of a device, which need not be there if it is described.
func (p *program) planner(device string) (*planner, error) {
	if d, err := predict.Find(device); err == nil {
		return gpuPlanner(driver.Info{Backend: "described", Name: d.Title, CCMajor: d.CCMajor, CCMinor: d.CCMinor, SMs: d.SMs,
			ClockMHz: int(d.ClockMHz),
			MemTotal: d.MemTotal, MemFree: d.MemUsable, SharedPerBlock: d.SharedPerBlock}, d), nil
	}
	if device == deviceAuto {
		if list := gpus(); !list[0].Available {
			p.notef("no GPU is used: %s", list[0].Reason)
			device = deviceCPU
		} else {
			device = list[0].Device
		}
	}
	if device == deviceCPU {
		return &planner{kinds: []engine.Plan{engine.PlanResident, engine.PlanFused, engine.PlanHybrid},
			plan: func(f *format.Reader, prog *model.Program, opt engine.LoadOptions) (engine.MemoryPlan, *gpu.Prediction, error) {
				m, err := cpu.PlanMemory(f, prog, opt)
				return m, nil, err
			}}, nil
	}
	dev, err := p.openDevice(device)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	info, err := dev.Info()
	if err != nil || device == deviceEmu {
		return gpuPlanner(info, nil), err
	}
	d, exact, err := predict.Nearest(info.Name, info.CCMajor, info.CCMinor, info.SMs, info.ClockMHz)
	if err == nil && !exact {
		p.notef("there is no description of %s: predictions are scaled from %s", info.Name, d.Title)
	}
	return gpuPlanner(info, d), err
}

// gpuPlanner plans for a GPU and predicts its speed if it is described.
func gpuPlanner(info driver.Info, d *predict.Device) *planner {
	return &planner{kinds: []engine.Plan{engine.PlanResident, engine.PlanFused, engine.PlanHybrid},
		plan: func(f *format.Reader, prog *model.Program, opt engine.LoadOptions) (engine.MemoryPlan, *gpu.Prediction, error) {
			if d == nil {
				m, err := gpu.PlanMemory(info, f, prog, opt)
				return m, nil, err
			}
			n, past := min(predictedPrompt, opt.NCtx), min(predictedPast, opt.NCtx-1)
			fc, err := gpu.ForecastRun(info, f, prog, opt, n, past)
			switch {
			case fc != nil && errors.Is(err, driver.ErrOutOfMemory):
				return fc.Plan, nil, err
			case err != nil:
				return engine.MemoryPlan{}, nil, err
			}
			pr, err := fc.Predict(d, n, past)
			return fc.Plan, pr, err
		}}
}

// rows asks for each plan, and marks the one that opt chooses.
func (pl *planner) rows(f *format.Reader, prog *model.Program, opt engine.LoadOptions) ([]planJSON, error) {
	chosen, _, err := pl.plan(f, prog, opt)
	if chosen.Total() == 0 && err != nil {
		return nil, err
	}
	var rows []planJSON
	for _, kind := range pl.kinds {
		o := opt
		o.Plan = kind
		m, predicted, err := pl.plan(f, prog, o)
		if m.Total() == 0 && err != nil {
			return nil, err
		}
		if m.Plan != kind { // hybrid without room for anything decoded is fused
			continue
		}
		row := planJSON{MemoryPlan: m, Total: m.Total(), NCtx: opt.NCtx, Fits: err == nil, Chosen: m.Plan == chosen.Plan,
			Predicted: predicted}
		if m.Budget > 0 {
			row.Free = m.Budget - m.Total()
		}
		if row.Chosen {
			row.Reason = chosen.Reason
		}
		if err != nil {
			row.Error = err.Error()
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (p *program) printPlans(rows []planJSON, tensors bool) {
	fmt.Fprintf(p.Out, "device: %s\ncontext: %d tokens\n", rows[0].Device, rows[0].NCtx)
	if b := rows[0].Budget; b > 0 {
		fmt.Fprintf(p.Out, "available: %s\n", bytesText(b))
	}
	predicted := false
	for _, r := range rows {
		predicted = predicted || r.Predicted != nil
	}
	head := ""
	if predicted {
		head = fmt.Sprintf(" %18s %18s", "predicted decode", "predicted prefill")
	}
	fmt.Fprintf(p.Out, "\n%-10s %12s %12s %12s %12s %12s%s\n", "plan", "weights", "cache", "scratch", "total", "free", head)
	for i := range rows {
		p.printPlan(&rows[i], predicted)
	}
	for i := range rows {
		if r := &rows[i]; r.Chosen && r.Predicted != nil {
			p.printPrediction(r, tensors)
		}
		if r := &rows[i]; r.Chosen && !r.Fits {
			fmt.Fprintf(p.Out, "\n%s\n", r.Error)
		}
	}
}

func (p *program) printPlan(r *planJSON, predicted bool) {
	note, free, rates := "", "", ""
	switch {
	case !r.Fits:
		note = "does not fit"
	case r.Chosen:
		note = "chosen: " + r.Reason
	}
	if r.Budget > 0 && r.Free >= 0 {
		free = bytesText(r.Free)
	} else if r.Budget > 0 {
		free = "-" + bytesText(-r.Free)
	}
	if r.Predicted != nil {
		rates = fmt.Sprintf(" %14.1f t/s %14.0f t/s", r.Predicted.DecodeTS, r.Predicted.PrefillTS)
	} else if predicted {
		rates = strings.Repeat(" ", 38)
	}
	fmt.Fprintf(p.Out, "%-10s %12s %12s %12s %12s %12s%s  %s\n", r.Plan, bytesText(r.Weights), bytesText(r.KV),
		bytesText(r.Scratch), bytesText(r.Total), free, rates, note)
}

// printPrediction prints where weights go and where the time of a token is expected to go, by role or by tensor.
func (p *program) printPrediction(r *planJSON, tensors bool) {
	pr := r.Predicted
	fmt.Fprintf(p.Out, "\nplan %s, predicted (not measured) for %s: a token after %d others, %d kernel launches\n", r.Plan,
		pr.Described, pr.Past, pr.Launches)
	fmt.Fprintf(p.Out, "%-28s %-8s %5s %12s %10s %7s  %s\n", "tensors or kernel", "form", "count", "bytes", "ms/token", "Gw/s",
		"kernel, what limits it")
	list := pr.Kinds
	if tensors {
		list = pr.Tensors
	}
	total := 0.0
	for _, k := range list {
		total += k.TokenMS
		count, size, rate, limit := "", "", "", ""
		if k.Count > 0 {
			count, size = fmt.Sprint(k.Count), bytesText(k.Bytes)
		}
		if k.Weights > 0 && k.Count > 0 {
			rate = fmt.Sprintf("%.1f", k.Weights)
		}
		if k.Kernel != "" {
			limit = k.Kernel + ", " + k.Bound
		}
		fmt.Fprintf(p.Out, "%-28s %-8s %5s %12s %10.3f %7s  %s\n", k.Kind, k.Form, count, size, k.TokenMS, rate, limit)
	}
	fmt.Fprintf(p.Out, "%-28s %-8s %5s %12s %10.3f\n", "all kernels", "", "", "", total)
	fmt.Fprintf(p.Out, "%-28s %-8s %5s %12s %10.3f\n", "host", "", "", "", pr.HostMS)
	p.printPrefill(pr)
}

// printPrefill prints what the kernels of a prompt are expected to take.
func (p *program) printPrefill(pr *gpu.Prediction) {
	fmt.Fprintf(p.Out, "\nprefill of %d tokens, predicted (not measured)\n%-28s %8s %10s  %s\n", pr.PrefillTokens,
		"kernel", "launches", "ms", "what limits it")
	for _, k := range pr.Prefill {
		fmt.Fprintf(p.Out, "%-28s %8d %10.3f  %s\n", k.Kernel, k.Launches, k.MS, k.Bound)
	}
}
