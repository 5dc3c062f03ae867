package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/engine"
)

// deviceFlags are the options of all commands that compute with a model.
func deviceFlags() []cli.Flag {
	return []cli.Flag{
		deviceFlag(),
		&cli.StringFlag{Name: "plan", Value: string(engine.PlanAuto),
			Usage: "where weights live: auto, resident (decoded once), fused (decoded in every product), hybrid"},
		&cli.IntFlag{Name: "threads", Aliases: []string{"t"}, Usage: "CPU threads; 0 = all cores"},
		&cli.StringFlag{Name: "kv-type", Value: engine.KVF16,
			Usage: "type of the KV cache's values: f16, or q8_0 (about half the memory)"},
		&cli.IntFlag{Name: "activations", Value: 16,
			Usage: "`BITS` of activations in products on the CPU: 16, or 8 (AVX2: half the multiplications, 1 to 2 % more divergence)"},
		&cli.StringFlag{Name: "memory", Aliases: []string{"memory-budget"},
			Usage: "memory that the model may take, for example 2GiB; default: what is free"},
	}
}

func deviceFlag() cli.Flag {
	return &cli.StringFlag{Name: "device", Aliases: []string{"d"}, Value: "auto",
		Usage: "`DEVICE` that computes: auto, cpu, emu (the GPU's kernels on the CPU), or the number of a GPU"}
}

func ctxFlag() cli.Flag {
	return &cli.IntFlag{Name: "ctx", Aliases: []string{"c", "ctx-size"},
		Usage: "`TOKENS` of prompt and answer together; 0 = the model's, at most 4096"}
}

func profileFlag() cli.Flag {
	return &cli.BoolFlag{Name: "profile", Usage: "show what took the time (the measuring costs some, too)"}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON"}
}

// loadOptions reads deviceFlags and ctxFlag.
func loadOptions(c *cli.Context) (engine.LoadOptions, error) {
	opt := engine.LoadOptions{Plan: engine.Plan(c.String("plan")), NCtx: c.Int("ctx"), Threads: c.Int("threads"),
		KVType: c.String("kv-type"), Profile: c.Bool("profile"), CacheDir: cacheDir()}
	// Times of the emulator say nothing of a GPU.
	trial := os.Getenv("ELLM_TRIAL")
	opt.Measure = trial != "0" && (c.String("device") != deviceEmu || trial == "1")
	switch opt.Plan {
	case engine.PlanAuto, engine.PlanResident, engine.PlanFused, engine.PlanHybrid:
	default:
		return opt, usagef("--plan %s: expected auto, resident, fused or hybrid", opt.Plan)
	}
	if opt.KVType != engine.KVF16 && opt.KVType != engine.KVQ8 {
		return opt, usagef("--kv-type %s: expected %s or %s", opt.KVType, engine.KVF16, engine.KVQ8)
	}
	if opt.Activations = c.Int("activations"); opt.Activations != 8 && opt.Activations != 16 {
		return opt, usagef("--activations %d: expected 8 or 16", opt.Activations)
	}
	if s := c.String("memory"); s != "" {
		n, err := parseBytes(s)
		if err != nil {
			return opt, usagef("--memory %s: %v", s, err)
		}
		opt.MemoryBudget = n
	}
	return opt, nil
}

// cacheDir is where results are kept that can be measured again; "" where there is no such place.
func cacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "ellm-gpu")
}

const (
	maxCtx     = 1 << 20
	maxThreads = 1024
)

// loaded is a session with what it stands on.
type loaded struct {
	*engine.Engine
	file    *format.Reader
	backend engine.Backend
	device  string      // as asked for
	draft   *draftModel // nil = none
}

// draftModel is what a draft model stands on.
type draftModel struct {
	file    *format.Reader
	backend engine.Backend
}

func (l *loaded) close() {
	if l.draft != nil {
		l.draft.backend.Close()
		l.draft.file.Close()
	}
	l.backend.Close()
	l.file.Close()
}

// load opens the model and brings it onto the chosen device, telling the user which one and with which plan.
func (p *program) load(ctx context.Context, path, device string, opt engine.LoadOptions) (*loaded, error) {
	f, err := openModel(path)
	if err != nil {
		return nil, err
	}
	b, err := p.openBackend(device)
	if err != nil {
		f.Close()
		return nil, err
	}
	bar := p.newProgress("loading")
	opt.Progress = bar.update
	opt.Announce = func(m engine.MemoryPlan) {
		p.notef("%s", planLine(m))
		limitHeap(m)
	}
	s, err := engine.New(ctx, f, b, opt)
	bar.finish()
	l := &loaded{Engine: s, file: f, backend: b, device: device}
	if err != nil {
		l.close()
		return nil, err
	}
	p.notef("device: %s", b.Describe())
	if trained := s.Config().NCtx; trained > 0 && s.NCtx() > trained {
		p.notef("warning: --ctx %d is more than the %d tokens the model was trained for: answers degrade beyond that", s.NCtx(),
			trained)
	}
	return l, nil
}

// limitHeap lets the garbage collector work harder before the program takes more than the plan's budget, which it does not do as
// long as there is room. GOMEMLIMIT in the environment, and budgets of other memory than this process's, are left alone.
func limitHeap(m engine.MemoryPlan) {
	if m.Budget > 0 && m.Device == deviceCPU && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(max(m.Budget, m.Total()+64<<20))
	}
}

// openModel opens a container; errors say what the file is instead.
func openModel(path string) (*format.Reader, error) {
	if err := checkInput(path); err != nil {
		return nil, err
	}
	return format.Open(path)
}

func planLine(m engine.MemoryPlan) string {
	cache := bytesText(m.KV)
	if m.Pages > 0 {
		cache += fmt.Sprintf(" (%d tokens)", m.Pages*engine.PageTokens)
	}
	line := fmt.Sprintf("memory plan %s on %s: weights %s + cache %s + scratch %s = %s", m.Plan, m.Device, bytesText(m.Weights),
		cache, bytesText(m.Scratch), bytesText(m.Total()))
	if m.Budget > 0 {
		line += " of " + bytesText(m.Budget)
	}
	if m.Limit != "" {
		line += ", the " + m.Limit
	}
	if m.Reason != "" {
		line += " (" + m.Reason + ")"
	}
	if len(m.Measured) > 0 {
		line += "; " + timesLine(m.Measured)
	}
	return line
}

// timesLine tells what products took on a device, and what was predicted.
func timesLine(times []engine.ProductTime) string {
	var parts []string
	for _, t := range times {
		s := fmt.Sprintf("%s %.1f µs, predicted %.1f", t.Kernel, t.MeasuredUS, t.PredictedUS)
		if t.Kept {
			s += ", at an earlier start"
		}
		parts = append(parts, s)
	}
	return "measured: " + strings.Join(parts, "; ")
}

// bytesText writes n with a binary unit.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[u])
}

// parseBytes reads a number with an optional unit: 500M, 2GiB, 1.5g (powers of 1024).
func parseBytes(s string) (int64, error) {
	var v float64
	var unit string
	if _, err := fmt.Sscanf(s, "%f%s", &v, &unit); err != nil && unit != "" || !(v > 0) {
		return 0, fmt.Errorf("expected a size such as 500M or 2GiB")
	}
	unit = strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(unit), "B"), "I")
	shift := map[string]int{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
	n, ok := shift[unit]
	if size := v * float64(int64(1)<<n); !ok || !(size >= 1 && size <= 1<<60) {
		return 0, fmt.Errorf("expected a size such as 500M or 2GiB")
	}
	return int64(v * float64(int64(1)<<n)), nil
}
