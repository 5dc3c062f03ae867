package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/cpu"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func (p *program) planCommand() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "show the memory a model takes on a device under each plan, without loading it",
		ArgsUsage: "MODEL.ellm --device cpu|emu|0",
		Flags:     append([]cli.Flag{ctxFlag(), jsonFlag()}, deviceFlags()...),
		Action:    p.plan,
	}
}

// planJSON is an element of what plan --json prints.
type planJSON struct {
	engine.MemoryPlan
	Total  int64  `json:"total"`
	NCtx   int    `json:"n_ctx"`
	Fits   bool   `json:"fits"`
	Chosen bool   `json:"chosen"`          // by --plan (auto unless given)
	Error  string `json:"error,omitempty"` // why it does not fit
}

func (p *program) plan(c *cli.Context) error {
	path, err := operand(c, "model")
	if err != nil {
		return err
	}
	opt, err := loadOptions(c)
	if err != nil {
		return err
	}
	if c.String("device") == "nano" {
		return usagef("plan --device nano: planning for a described device is not there yet; cpu, emu and the number of a GPU in this machine are")
	}
	f, err := openModel(path)
	if err != nil {
		return err
	}
	defer f.Close()
	prog, _, err := engine.Describe(f)
	if err != nil {
		return err
	}
	opt.NCtx = engine.ContextLength(&prog.Config, opt.NCtx)
	planner, done, err := p.planner(c.String("device"))
	if err != nil {
		return err
	}
	defer done()
	rows, err := planRows(planner, f, prog, opt)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(rows)
	}
	p.printPlans(rows)
	return nil
}

// memoryPlanner tells what a backend's Load would allocate. An error together with a plan means that it does not fit.
type memoryPlanner func(*format.Reader, *model.Program, engine.LoadOptions) (engine.MemoryPlan, error)

// planner returns the planner of a device; done closes the device.
func (p *program) planner(device string) (plan memoryPlanner, done func(), err error) {
	if device == deviceAuto {
		if list := gpus(); !list[0].Available {
			p.notef("no GPU is used: %s", list[0].Reason)
			device = deviceCPU
		} else {
			device = list[0].Device
		}
	}
	if device == deviceCPU {
		return cpu.PlanMemory, func() {}, nil
	}
	dev, err := openDevice(device)
	if err != nil {
		return nil, nil, err
	}
	info, err := dev.Info()
	if err != nil {
		dev.Close()
		return nil, nil, err
	}
	plan = func(f *format.Reader, prog *model.Program, opt engine.LoadOptions) (engine.MemoryPlan, error) {
		return gpu.PlanMemory(info, f, prog, opt)
	}
	return plan, func() { dev.Close() }, nil
}

// planRows asks for each plan, and marks the one that opt chooses.
func planRows(plan memoryPlanner, f *format.Reader, prog *model.Program, opt engine.LoadOptions) ([]planJSON, error) {
	chosen, _ := plan(f, prog, opt)
	var rows []planJSON
	for _, kind := range []engine.Plan{engine.PlanResident, engine.PlanFused} {
		o := opt
		o.Plan = kind
		m, err := plan(f, prog, o)
		if m.Total() == 0 && err != nil {
			return nil, err
		}
		row := planJSON{MemoryPlan: m, Total: m.Total(), NCtx: opt.NCtx, Fits: err == nil, Chosen: m.Plan == chosen.Plan}
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

func (p *program) printPlans(rows []planJSON) {
	fmt.Fprintf(p.Out, "device: %s\ncontext: %d tokens\n", rows[0].Device, rows[0].NCtx)
	if b := rows[0].Budget; b > 0 {
		fmt.Fprintf(p.Out, "available: %s\n", bytesText(b))
	}
	fmt.Fprintf(p.Out, "\n%-10s %12s %12s %12s %12s\n", "plan", "weights", "cache", "scratch", "total")
	for _, r := range rows {
		note := ""
		switch {
		case !r.Fits:
			note = "does not fit"
		case r.Chosen:
			note = "chosen: " + r.Reason
		}
		fmt.Fprintf(p.Out, "%-10s %12s %12s %12s %12s  %s\n", r.Plan, bytesText(r.Weights), bytesText(r.KV), bytesText(r.Scratch), bytesText(r.Total), note)
	}
}
