package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "answer a prompt, or chat when no prompt is given",
		ArgsUsage: "MODEL.ellm",
		Flags: append(append([]cli.Flag{
			&cli.StringFlag{Name: "prompt", Aliases: []string{"p"}, Usage: "the prompt; without it: a chat on a terminal, or all of standard input as the prompt"},
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "read the prompt from a file"},
			&cli.StringFlag{Name: "system", Aliases: []string{"sys"}, Usage: "system message"},
			&cli.BoolFlag{Name: "raw", Usage: "continue the prompt as it is, without the model's chat template"},
			&cli.IntFlag{Name: "n", Aliases: []string{"predict", "n-predict"}, Value: -1, Usage: "generate at most this many tokens; -1: until the model ends"},
			&cli.StringSliceFlag{Name: "stop", Aliases: []string{"reverse-prompt", "r"}, Usage: "end before this text appears; may be repeated"},
			&cli.BoolFlag{Name: "ignore-eos", Usage: "go on when the model ends its text"},
			&cli.IntFlag{Name: "logprobs", Usage: "with --json: record this many best candidates of each step with their logits"},
			ctxFlag(), jsonFlag(), profileFlag(),
		}, samplingFlags()...), deviceFlags()...),
		Action: p.run,
	}
}

func samplingFlags() []cli.Flag {
	d := sample.DefaultOptions()
	return []cli.Flag{
		&cli.Float64Flag{Name: "temp", Aliases: []string{"temperature"}, Value: decimal(d.Temperature), Usage: "temperature; 0 = always the best token"},
		&cli.IntFlag{Name: "top-k", Value: d.TopK, Usage: "choose among this many best tokens; 0 = all"},
		&cli.Float64Flag{Name: "top-p", Value: decimal(d.TopP), Usage: "choose among the best tokens of this total probability"},
		&cli.Float64Flag{Name: "min-p", Value: decimal(d.MinP), Usage: "choose among tokens of at least this share of the best one's probability"},
		&cli.Float64Flag{Name: "repeat-penalty", Value: 1, Usage: "divide the logits of recent tokens by this; 1 = off"},
		&cli.IntFlag{Name: "repeat-last-n", Value: d.PenaltyWindow, Usage: "how many recent tokens --repeat-penalty looks at"},
		&cli.Int64Flag{Name: "seed", Aliases: []string{"s"}, Value: -1, Usage: "seed of the random choice; -1: a new one each time"},
	}
}

// decimal returns the short decimal number that v came from.
func decimal(v float32) float64 {
	d, err := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
	if err != nil {
		return float64(v)
	}
	return d
}

// runOptions are the options of run, checked.
type runOptions struct {
	prompt, system string
	havePrompt     bool
	raw, json      bool
	n              int
	stop           []string
	ignoreEnd      bool
	topLogits      int
	sampling       sample.Options
}

func (p *program) run(c *cli.Context) error {
	path, err := operand(c, "model")
	if err != nil {
		return err
	}
	if err := checkInput(path); err != nil { // before standard input is read as a prompt
		return err
	}
	opt, err := p.runOptions(c)
	if err != nil {
		return err
	}
	load, err := loadOptions(c)
	if err != nil {
		return err
	}
	if !opt.havePrompt && opt.json {
		return usagef("run: --json needs a prompt (-p TEXT, -f FILE or standard input)")
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	model, err := p.load(ctx, path, c.String("device"), load)
	if err != nil {
		return err
	}
	defer model.close()
	if !opt.havePrompt {
		stop() // the chat has its own way with Ctrl-C
		return p.chat(c.Context, model, opt)
	}
	return p.answer(ctx, model, opt)
}

func (p *program) runOptions(c *cli.Context) (runOptions, error) {
	o := runOptions{
		prompt: c.String("prompt"), system: c.String("system"), havePrompt: true, raw: c.Bool("raw"), json: c.Bool("json"),
		n: c.Int("n"), stop: c.StringSlice("stop"), ignoreEnd: c.Bool("ignore-eos"), topLogits: c.Int("logprobs"),
	}
	if o.topLogits < 0 || o.topLogits > 1000 {
		return o, usagef("--logprobs %d: expected 0 to 1000", o.topLogits)
	}
	if o.raw && o.system != "" {
		return o, usagef("--system needs the chat template: leave out --raw")
	}
	o.sampling = sample.Options{
		Temperature: float32(c.Float64("temp")), TopK: c.Int("top-k"), TopP: float32(c.Float64("top-p")), MinP: float32(c.Float64("min-p")),
		RepeatPenalty: float32(c.Float64("repeat-penalty")), PenaltyWindow: c.Int("repeat-last-n"), Seed: uint64(c.Int64("seed")),
	}
	if c.Int64("seed") < 0 {
		o.sampling.Seed = rand.Uint64() >> 12 // exact in a JSON number
	}
	var err error
	switch {
	case c.IsSet("prompt") && c.IsSet("file"):
		return o, usagef("-p and -f exclude each other")
	case c.IsSet("prompt"):
	case c.IsSet("file"):
		o.prompt, err = p.readFile(c.String("file"))
	case isTerminal(p.In):
		o.havePrompt = false
	default:
		o.prompt, err = readText(p.In, "standard input")
	}
	if err == nil && o.havePrompt && o.prompt == "" {
		err = usagef("the prompt is empty (-p TEXT, -f FILE or standard input)")
	}
	return o, err
}

// answer generates once and prints the result.
func (p *program) answer(ctx context.Context, m *loaded, opt runOptions) error {
	prompt, err := p.promptTokens(m, opt)
	if err != nil {
		return err
	}
	req := request(m, opt, prompt)
	if !opt.json {
		req.OnText = func(s string) { io.WriteString(p.Out, s) }
	}
	res, err := m.Generate(ctx, req)
	if err != nil {
		return err
	}
	if opt.json {
		err = p.printResult(m, opt, res)
	} else {
		fmt.Fprintln(p.Out)
		p.notef("%s", ratesLine(res))
		if res.StopReason == engine.StopContext {
			p.notef("stopped: the context of %d tokens is full (use a larger --ctx)", m.NCtx())
		}
	}
	if c := m.profile(); err == nil && c != nil {
		p.notef("%s\n%s", profileTable(c), memoryLine(m.Memory(), ownStatus))
	}
	if err == nil && res.StopReason == engine.StopCancelled {
		err = context.Canceled
	}
	return err
}

// promptTokens applies the chat template, unless the prompt is raw.
func (p *program) promptTokens(m *loaded, opt runOptions) ([]int32, error) {
	if opt.raw {
		return m.RawTokens(opt.prompt), nil
	}
	return m.ChatTokens(messages(opt.system, opt.prompt))
}

func request(m *loaded, opt runOptions, prompt []int32) engine.Request {
	return engine.Request{
		Prompt: prompt, MaxTokens: opt.n, Sampler: sample.New(opt.sampling), Stop: opt.stop, IgnoreEnd: opt.ignoreEnd, TopLogits: opt.topLogits,
	}
}

// resultJSON is what run --json prints.
type resultJSON struct {
	Text           string            `json:"text"`
	Tokens         []int32           `json:"tokens"`
	PromptTokens   int               `json:"prompt_tokens"`
	StopReason     engine.StopReason `json:"stop_reason"`
	Device         string            `json:"device"`
	Plan           engine.Plan       `json:"plan"`
	PrefillTPS     float64           `json:"prefill_tps"`
	DecodeTPS      float64           `json:"decode_tps"`
	LoadSeconds    float64           `json:"load_seconds"`
	PrefillSeconds float64           `json:"prefill_seconds"`
	DecodeSeconds  float64           `json:"decode_seconds"`
	Seed           uint64            `json:"seed"`
	NCtx           int               `json:"n_ctx"`
	MemoryBytes    int64             `json:"memory_bytes"`
	Steps          []engine.Step     `json:"steps,omitempty"`
}

func (p *program) printResult(m *loaded, opt runOptions, r *engine.Result) error {
	out := resultJSON{
		Text: r.Text, Tokens: r.Tokens, PromptTokens: r.PromptTokens, StopReason: r.StopReason,
		Device: m.Device(), Plan: m.Memory().Plan, PrefillTPS: r.PrefillTPS(), DecodeTPS: r.DecodeTPS(),
		LoadSeconds: m.LoadTime().Seconds(), PrefillSeconds: r.PrefillTime.Seconds(), DecodeSeconds: r.DecodeTime.Seconds(),
		Seed: opt.sampling.Seed, NCtx: m.NCtx(), MemoryBytes: m.Memory().Total(), Steps: r.Steps,
	}
	if out.Tokens == nil {
		out.Tokens = []int32{}
	}
	return p.printJSON(out)
}

// printJSON writes one JSON value and a line end to standard output.
func (p *program) printJSON(v any) error {
	e := json.NewEncoder(p.Out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func ratesLine(r *engine.Result) string {
	parts := []string{fmt.Sprintf("prefill: %d tokens, %.1f tokens/s", r.PromptTokens-r.CachedTokens, r.PrefillTPS())}
	if r.CachedTokens > 0 {
		parts[0] += fmt.Sprintf(" (%d more from the cache)", r.CachedTokens)
	}
	parts = append(parts, fmt.Sprintf("decode: %d tokens, %.1f tokens/s", len(r.Tokens), r.DecodeTPS()))
	return strings.Join(parts, " · ")
}
