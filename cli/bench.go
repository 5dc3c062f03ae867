package cli

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

func (p *program) benchCommand() *cli.Command {
	return &cli.Command{
		Name:      "bench",
		Usage:     "measure prefill and decode speed, with the tests and JSON fields of llama-bench",
		ArgsUsage: "MODEL.ellm",
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "n-prompt", Aliases: []string{"p"}, Value: 512, Usage: "tokens of the prefill test; 0 = leave it out"},
			&cli.IntFlag{Name: "n-gen", Aliases: []string{"n"}, Value: 128, Usage: "tokens of the decode test; 0 = leave it out"},
			&cli.IntFlag{Name: "repetitions", Aliases: []string{"r"}, Value: 3, Usage: "repetitions of each test"},
			&cli.StringFlag{Name: "n-parallel", Aliases: []string{"np"}, Value: "1",
				Usage: "decode this many sequences together, for example 1,2,4,8; tokens/s are the sum over all"},
			&cli.StringFlag{Name: "speculate", Usage: "instead of the tests: answer the prompt of -f plainly and with speculation, " +
				"ngram or draft"},
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "the prompt for --speculate"},
			draftFlag(),
			&cli.StringFlag{Name: "report", Usage: "also write the results to `FILE` (JSON), with the machine they were measured on"},
			profileFlag(), jsonFlag(),
		}, deviceFlags()...),
		Action: p.bench,
	}
}

// benchResult is one test; field names and units are llama-bench's.
type benchResult struct {
	ModelFilename string    `json:"model_filename"`
	ModelType     string    `json:"model_type"`
	ModelSize     int64     `json:"model_size"`
	Device        string    `json:"device"`
	Plan          string    `json:"plan"`
	MemoryBytes   int64     `json:"memory_bytes"`
	Threads       int       `json:"n_threads"`
	Prompt        int       `json:"n_prompt"`
	Gen           int       `json:"n_gen"`
	Parallel      int       `json:"n_parallel"` // sequences decoded together; avg_ts is the sum over them
	TestTime      string    `json:"test_time"`
	AvgNS         float64   `json:"avg_ns"`
	StddevNS      float64   `json:"stddev_ns"`
	AvgTS         float64   `json:"avg_ts"`
	StddevTS      float64   `json:"stddev_ts"`
	SamplesNS     []int64   `json:"samples_ns"`
	SamplesTS     []float64 `json:"samples_ts"`
	Build         string    `json:"build_commit"`

	Speculate   string                   `json:"speculate,omitempty"`
	Speculation *engine.SpeculationStats `json:"speculation,omitempty"` // of one repetition; with --speculate
}

func (p *program) bench(c *cli.Context) error {
	path, err := p.modelOperand(c)
	if err != nil {
		return err
	}
	o, err := p.benchOptions(c)
	if err != nil {
		return err
	}
	opt, err := loadOptions(c)
	if err != nil {
		return err
	}
	opt.NCtx, opt.Sequences = max(o.nPrompt, o.gen+1), slices.Max(o.parallel)
	if o.speculate != "" {
		opt.NCtx = 0
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	m, err := p.load(ctx, path, c.String("device"), opt)
	if err != nil {
		return err
	}
	defer m.close()
	base := benchResult{
		ModelFilename: path, ModelType: m.file.Meta().Scheme, ModelSize: m.file.FileSize(), Device: m.Device(),
		Plan:        string(m.Memory().Plan),
		MemoryBytes: m.Memory().Total(), Threads: opt.Threads, TestTime: time.Now().UTC().Format(time.RFC3339), Build: p.version,
	}
	results, err := p.benchAll(ctx, m, base, o)
	if err != nil {
		return err
	}
	if path := c.String("report"); path != "" {
		if err := p.writeReport(path, m, results); err != nil {
			return err
		}
	}
	profile := ""
	if entries := m.profile(); entries != nil {
		profile = profileTable(entries) + "\n" + memoryLine(m.Memory(), ownStatus)
	}
	if c.Bool("json") {
		if profile != "" {
			p.notef("%s", profile)
		}
		return p.printJSON(results)
	}
	p.printBench(results)
	if profile != "" {
		fmt.Fprintf(p.Out, "\n%s\n", profile)
	}
	return nil
}

// benchOptions are the options of bench, checked.
type benchOptions struct {
	nPrompt, gen, reps int
	parallel           []int
	speculate          engine.Speculation
	prompt             string // for speculation
	draft              string // path of a model
}

func (p *program) benchOptions(c *cli.Context) (benchOptions, error) {
	o := benchOptions{
		nPrompt: c.Int("n-prompt"), gen: c.Int("n-gen"), reps: c.Int("repetitions"), draft: c.String("draft"),
	}
	if o.nPrompt+o.gen == 0 {
		return o, usagef("bench: -p and -n are both 0")
	}
	var err error
	if o.parallel, err = counts("n-parallel", c.String("n-parallel")); err != nil {
		return o, err
	}
	if o.speculate, err = speculation(c.String("speculate"), o.draft); err != nil || o.speculate == engine.SpeculateOff {
		return o, err
	}
	if !c.IsSet("file") || o.gen == 0 {
		return o, usagef("bench: --speculate needs a prompt (-f FILE) and tokens to generate (-n)")
	}
	o.prompt, err = p.readFile(c.String("file"))
	return o, err
}

// benchAll runs the tests that the options ask for.
func (p *program) benchAll(ctx context.Context, m *loaded, base benchResult, o benchOptions) (results []benchResult, err error) {
	if o.speculate != engine.SpeculateOff {
		base.Parallel = 1
		if err := p.useDraft(ctx, m, o.draft); err != nil {
			return nil, err
		}
		return p.speculated(ctx, m, base, o)
	}
	tests := []benchResult{{Prompt: o.nPrompt, Parallel: 1}}
	for _, n := range o.parallel {
		tests = append(tests, benchResult{Gen: o.gen, Parallel: n})
	}
	for _, test := range tests {
		if test.Prompt+test.Gen == 0 {
			continue
		}
		r := base
		r.Prompt, r.Gen, r.Parallel = test.Prompt, test.Gen, test.Parallel
		if err := r.measure(ctx, m.Engine, o.reps); err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// measure repeats the test once more than reps: the first time warms caches and is not counted.
func (r *benchResult) measure(ctx context.Context, s *engine.Engine, reps int) error {
	for i := range reps + 1 {
		d, err := r.once(ctx, s)
		if err != nil {
			return err
		}
		if i > 0 {
			r.add(d, (r.Prompt+r.Gen)*r.Parallel)
		}
	}
	r.summarize()
	return nil
}

// add notes a repetition with n tokens.
func (r *benchResult) add(d time.Duration, n int) {
	r.SamplesNS = append(r.SamplesNS, d.Nanoseconds())
	r.SamplesTS = append(r.SamplesTS, float64(n)/max(d.Seconds(), 1e-9))
}

func (r *benchResult) summarize() {
	ns := make([]float64, len(r.SamplesNS))
	for i, v := range r.SamplesNS {
		ns[i] = float64(v)
	}
	r.AvgNS, r.StddevNS = meanStddev(ns)
	r.AvgTS, r.StddevTS = meanStddev(r.SamplesTS)
}

func (r *benchResult) once(ctx context.Context, s *engine.Engine) (time.Duration, error) {
	s.Reset()
	if r.Parallel > 1 {
		return r.together(ctx, s)
	}
	if r.Prompt > 0 {
		start := time.Now()
		err := s.Evaluate(ctx, benchTokens(s, r.Prompt), r.Prompt-1, func(int, []float32) error { return nil })
		return time.Since(start), err
	}
	req := engine.Request{Prompt: benchTokens(s, 1), MaxTokens: r.Gen + 1, IgnoreEnd: true, Sampler: sample.New(sample.Options{})}
	res, err := s.Generate(ctx, req)
	if err != nil {
		return 0, err
	}
	if res.StopReason == engine.StopCancelled {
		return 0, context.Canceled
	}
	return res.DecodeTime, nil
}

// benchTokens returns n different-looking tokens; their values do not change the work.
func benchTokens(s *engine.Engine, n int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32((i*7919 + 13) % s.NVocab())
	}
	return tokens
}

func meanStddev(v []float64) (mean, stddev float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	if len(v) < 2 {
		return mean, 0
	}
	for _, x := range v {
		stddev += (x - mean) * (x - mean)
	}
	return mean, math.Sqrt(stddev / float64(len(v)-1))
}

func (p *program) printBench(results []benchResult) {
	fmt.Fprintln(p.Out, "| model | size | device | plan | memory | test | t/s |")
	fmt.Fprintln(p.Out, "|---|---|---|---|---|---|---|")
	for _, r := range results {
		fmt.Fprintf(p.Out, "| %s | %s | %s | %s | %s | %s | %.2f ± %.2f |\n", filepath.Base(r.ModelFilename),
			bytesText(r.ModelSize), r.Device, r.Plan, bytesText(r.MemoryBytes), r.testName(), r.AvgTS, r.StddevTS)
	}
}
