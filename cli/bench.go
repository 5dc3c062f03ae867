package cli

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
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
	TestTime      string    `json:"test_time"`
	AvgNS         float64   `json:"avg_ns"`
	StddevNS      float64   `json:"stddev_ns"`
	AvgTS         float64   `json:"avg_ts"`
	StddevTS      float64   `json:"stddev_ts"`
	SamplesNS     []int64   `json:"samples_ns"`
	SamplesTS     []float64 `json:"samples_ts"`
	Build         string    `json:"build_commit"`
}

func (p *program) bench(c *cli.Context) error {
	path, err := operand(c, "model")
	if err != nil {
		return err
	}
	nPrompt, nGen, reps := c.Int("n-prompt"), c.Int("n-gen"), c.Int("repetitions")
	if nPrompt < 0 || nGen < 0 || nPrompt+nGen == 0 || nPrompt > maxCtx || nGen > maxCtx || reps < 1 || reps > 1000 {
		return usagef("bench: -p and -n: 0 to %d tokens, not both 0; -r: 1 to 1000", maxCtx)
	}
	opt, err := loadOptions(c)
	if err != nil {
		return err
	}
	opt.NCtx = max(nPrompt, nGen+1)
	ctx, stop := interruptible(c.Context)
	defer stop()
	m, err := p.load(ctx, path, c.String("device"), opt)
	if err != nil {
		return err
	}
	defer m.close()
	base := benchResult{
		ModelFilename: path, ModelType: m.file.Meta().Scheme, ModelSize: m.file.FileSize(), Device: m.Device(), Plan: string(m.Memory().Plan),
		MemoryBytes: m.Memory().Total(), Threads: opt.Threads, TestTime: time.Now().UTC().Format(time.RFC3339), Build: p.version,
	}
	var results []benchResult
	for _, test := range []benchResult{{Prompt: nPrompt}, {Gen: nGen}} {
		if test.Prompt+test.Gen == 0 {
			continue
		}
		r := base
		r.Prompt, r.Gen = test.Prompt, test.Gen
		if err := r.measure(ctx, m.Session, reps); err != nil {
			return err
		}
		results = append(results, r)
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

// measure repeats the test once more than reps: the first time warms caches and is not counted.
func (r *benchResult) measure(ctx context.Context, s *engine.Session, reps int) error {
	n := r.Prompt + r.Gen
	for i := range reps + 1 {
		d, err := r.once(ctx, s)
		if err != nil {
			return err
		}
		if i > 0 {
			r.SamplesNS = append(r.SamplesNS, d.Nanoseconds())
			r.SamplesTS = append(r.SamplesTS, float64(n)/d.Seconds())
		}
	}
	ns := make([]float64, len(r.SamplesNS))
	for i, v := range r.SamplesNS {
		ns[i] = float64(v)
	}
	r.AvgNS, r.StddevNS = meanStddev(ns)
	r.AvgTS, r.StddevTS = meanStddev(r.SamplesTS)
	return nil
}

func (r *benchResult) once(ctx context.Context, s *engine.Session) (time.Duration, error) {
	s.Reset()
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
func benchTokens(s *engine.Session, n int) []int32 {
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
		test := fmt.Sprintf("pp%d", r.Prompt)
		if r.Gen > 0 {
			test = fmt.Sprintf("tg%d", r.Gen)
		}
		fmt.Fprintf(p.Out, "| %s | %s | %s | %s | %s | %s | %.2f ± %.2f |\n", filepath.Base(r.ModelFilename), bytesText(r.ModelSize), r.Device, r.Plan, bytesText(r.MemoryBytes), test, r.AvgTS, r.StddevTS)
	}
}
