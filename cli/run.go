package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/grammar"
	"github.com/ellm-gpu/ellm-gpu/internal/sample"
)

func (p *program) runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "answer a prompt, or chat when no prompt is given",
		ArgsUsage: "MODEL.ellm or NAME",
		Flags: append(append([]cli.Flag{
			&cli.StringFlag{Name: "prompt", Aliases: []string{"p"},
				Usage: "the prompt; without it: a chat on a terminal, or all of standard input as the prompt"},
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "read the prompt from a file"},
			&cli.StringFlag{Name: "system", Aliases: []string{"sys"}, Usage: "system message"},
			&cli.BoolFlag{Name: "raw", Usage: "continue the prompt as it is, without the model's chat template"},
			&cli.IntFlag{Name: "n", Aliases: []string{"predict", "n-predict"}, Value: -1,
				Usage: "generate at most this many tokens; -1: until the model ends"},
			&cli.StringSliceFlag{Name: "stop", Aliases: []string{"reverse-prompt", "r"}, KeepSpace: true,
				Usage: "end before this text appears; may be repeated"},
			&cli.StringFlag{Name: "session", Usage: "go on with the conversation in `FILE`, and save it there with its cache"},
			&cli.BoolFlag{Name: "ignore-eos", Usage: "go on when the model ends its text"},
			&cli.IntFlag{Name: "logprobs", Usage: "with --json: record this many best candidates of each step with their logits"},
			&cli.BoolFlag{Name: "offline", Usage: "do not pull a model that is not in the store"},
			ctxFlag(), jsonFlag(), profileFlag(),
		}, append(generationFlags(), samplingFlags()...)...), deviceFlags()...),
		Action: p.run,
	}
}

// runOptions are the options of run, checked.
type runOptions struct {
	prompt, system string
	havePrompt     bool
	raw, json      bool
	n              int
	stop           []string
	session        string // path of a conversation file
	ignoreEnd      bool
	topLogits      int
	speculate      engine.Speculation
	draft          string // path of a model
	shift          bool   // the context, when it is full
	keep           int    // tokens then; −1: the system message
	sampling       sample.Options
	grammar        *grammar.Grammar // nil: none
	constraint     *grammar.Constraint
}

func (p *program) run(c *cli.Context) error {
	ctx, stop := interruptible(c.Context)
	defer stop()
	path, err := p.pulledOperand(ctx, c)
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
	model, err := p.load(ctx, path, c.String("device"), load)
	if err != nil {
		return err
	}
	defer model.close()
	if err := p.useDraft(ctx, model, opt.draft); err != nil {
		return err
	}
	if err := opt.prepare(model); err != nil {
		return err
	}
	if opt.speculate == speculateAuto {
		opt.speculate = engine.SpeculateOff
		if model.Memory().Device == "cpu" {
			opt.speculate = engine.SpeculateNgram
		}
	}
	talk := &conversation{p: p, model: model, opt: opt}
	if opt.session != "" {
		if err := talk.resume(opt.session); err != nil {
			return err
		}
	}
	if opt.shift {
		talk.opt.keep = keepTokens(ctx, model, &talk.opt)
	}
	if !opt.havePrompt {
		stop() // the chat has its own way with Ctrl-C
		return talk.chat(c.Context)
	}
	return p.answer(ctx, talk)
}

func (p *program) runOptions(c *cli.Context) (runOptions, error) {
	o := runOptions{
		prompt: c.String("prompt"), system: c.String("system"), havePrompt: true, raw: c.Bool("raw"), json: c.Bool("json"),
		n: max(c.Int("n"), -1), stop: c.StringSlice("stop"), ignoreEnd: c.Bool("ignore-eos"), topLogits: c.Int("logprobs"),
	}
	o.session = c.String("session")
	o.draft, o.shift, o.keep = c.String("draft"), c.Bool("context-shift"), c.Int("keep")
	var err error
	if o.speculate, err = speculation(c.String("speculate"), o.draft); err != nil {
		return o, err
	}
	if o.raw && o.system != "" {
		return o, usagef("--system needs the chat template: leave out --raw")
	}
	if o.sampling, err = samplingOptions(c); err != nil {
		return o, err
	}
	if o.grammar, err = p.grammarOption(c); err != nil {
		return o, err
	}
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
func (p *program) answer(ctx context.Context, c *conversation) error {
	m, opt := c.model, c.opt
	prompt, said, err := c.prompt(ctx, opt.prompt)
	if err != nil {
		return err
	}
	req := request(opt, prompt)
	if !opt.json {
		req.OnText = func(s string) { io.WriteString(p.text, s) }
	}
	res, err := m.Generate(ctx, req)
	if err != nil {
		return err
	}
	c.remember(said, prompt, res)
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
	if err == nil && opt.session != "" {
		err = c.save(opt.session, true)
	}
	if err == nil && res.StopReason == engine.StopCancelled {
		err = context.Canceled
	}
	return err
}

// prepare checks what needs the model's vocabulary.
func (o *runOptions) prepare(m *loaded) error {
	for id := range o.sampling.Bias {
		if int(id) >= m.NVocab() {
			return usagef("--logit-bias %d: the model has tokens 0 to %d", id, m.NVocab()-1)
		}
	}
	for _, w := range []*int{&o.sampling.PenaltyWindow, &o.sampling.DRY.Window} {
		if *w < 0 || *w > m.NCtx() {
			*w = m.NCtx()
		}
	}
	o.sampling.DRY.Piece = m.Tokenizer().Piece
	if o.grammar != nil {
		o.constraint = grammar.NewConstraint(o.grammar, grammar.VocabularyOf(m.Tokenizer()))
	}
	return nil
}

func request(opt runOptions, prompt []int32) engine.Request {
	req := engine.Request{
		Prompt: prompt, MaxTokens: opt.n, Sampler: sample.New(opt.sampling), Stop: opt.stop, IgnoreEnd: opt.ignoreEnd,
		TopLogits: opt.topLogits, Speculate: opt.speculate, Shift: opt.shift, Keep: opt.keep,
	}
	if opt.constraint != nil {
		req.Mask = grammar.NewMask(opt.constraint)
	}
	return req
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
	ContextShifts  int               `json:"context_shifts"`
	Steps          []engine.Step     `json:"steps,omitempty"`

	Speculation engine.SpeculationStats `json:"speculation"`
	Measured    []engine.ProductTime    `json:"measured,omitempty"` // products that plan auto was chosen by
}

func (p *program) printResult(m *loaded, opt runOptions, r *engine.Result) error {
	out := resultJSON{
		Text: r.Text, Tokens: r.Tokens, PromptTokens: r.PromptTokens, StopReason: r.StopReason,
		Device: m.Device(), Plan: m.Memory().Plan, PrefillTPS: r.PrefillTPS(), DecodeTPS: r.DecodeTPS(),
		LoadSeconds: m.LoadTime().Seconds(), PrefillSeconds: r.PrefillTime.Seconds(), DecodeSeconds: r.DecodeTime.Seconds(),
		Seed: opt.sampling.Seed, NCtx: m.NCtx(), MemoryBytes: m.Memory().Total(), Steps: r.Steps,
		ContextShifts: r.Shifts, Speculation: r.Speculation, Measured: m.Memory().Measured,
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
	err := e.Encode(v)
	if infinite := new(json.UnsupportedValueError); errors.As(err, &infinite) {
		return fmt.Errorf("the result has a number that is %s, which JSON cannot hold", infinite.Str)
	}
	return err
}

func ratesLine(r *engine.Result) string {
	parts := []string{fmt.Sprintf("prefill: %d tokens, %.1f tokens/s", r.PromptTokens-r.CachedTokens, r.PrefillTPS())}
	if r.CachedTokens > 0 {
		parts[0] += fmt.Sprintf(" (%d more from the cache)", r.CachedTokens)
	}
	parts = append(parts, fmt.Sprintf("decode: %d tokens, %.1f tokens/s", len(r.Tokens), r.DecodeTPS()))
	if s := r.Speculation; s.Proposed > 0 {
		parts = append(parts, fmt.Sprintf("speculation: %d of %d accepted, %.2f tokens per pass", s.Accepted, s.Proposed,
			float64(len(r.Tokens))/float64(max(s.Passes, 1))))
	}
	return strings.Join(parts, " · ")
}
