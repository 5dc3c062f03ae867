package cli

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/eval"
)

func (p *program) evalCommand() *cli.Command {
	return &cli.Command{
		Name:        "eval",
		Usage:       "measure the quality of a model",
		Subcommands: []*cli.Command{p.perplexityCommand(), p.kldCommand(), p.hellaSwagCommand(), p.gsm8kCommand()},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("eval: there is no measure %q (ppl, kld, hellaswag, gsm8k)", c.Args().First())
			}
			return usagef("eval: the measure is missing (usage: ellm-gpu eval ppl MODEL.ellm -f TEXT)")
		},
	}
}

func (p *program) perplexityCommand() *cli.Command {
	return &cli.Command{
		Name:      "ppl",
		Usage:     "perplexity on a text",
		ArgsUsage: "MODEL.ellm",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "the text; - = standard input"},
			chunkCtxFlag(),
			&cli.IntFlag{Name: "chunks", Usage: "score this many chunks only; 0 = all"},
			&cli.StringFlag{Name: "definition", Value: string(eval.LlamaCPP),
				Usage: "`WHICH` tokens are scored: llama.cpp (separate chunks, the second half of each), or sliding (a window moved by " +
					"--stride, every token)"},
			&cli.IntFlag{Name: "stride", Usage: "`TOKENS` from one sliding window to the next; 0 = half of --ctx"},
			saveLogitsFlag("save the model's predictions to `FILE`, for eval kld --logits or llama-perplexity --kl-divergence"),
			stateFlag(), jsonFlag(),
		}, deviceFlags()...),
		Action: p.perplexity,
	}
}

// perplexityJSON is what eval ppl --json prints.
type perplexityJSON struct {
	eval.PerplexityResult
	Definition eval.Definition `json:"definition"`
	NCtx       int             `json:"n_ctx"`
	Stride     int             `json:"stride,omitempty"`
	Device     string          `json:"device"`
	Plan       engine.Plan     `json:"plan"`
	Seconds    float64         `json:"seconds"`
}

func (p *program) perplexity(c *cli.Context) error {
	path, err := p.modelOperand(c)
	if err != nil {
		return err
	}
	opt, stride, err := perplexityOptions(c)
	if err != nil {
		return err
	}
	text, err := p.readFile(c.String("file"))
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	m, err := p.load(ctx, path, c.String("device"), opt)
	if err != nil {
		return err
	}
	defer m.close()
	o := eval.PerplexityOptions{Definition: eval.Definition(c.String("definition")), NCtx: opt.NCtx, Stride: stride,
		Chunks: c.Int("chunks"), Words: len(strings.Fields(text))}
	tokens := m.Tokenizer().Encode(text, true, false)
	if o.State, err = p.openState(c, perplexityState{evalState: stateOf("ppl", m), Definition: o.Definition, NCtx: o.NCtx,
		Stride: stride, Text: digest(tokens)}); err != nil {
		return err
	}
	defer o.State.Close()
	start := time.Now()
	bar := p.newProgress("perplexity")
	o.Progress = func(done, total int, ppl float64) {
		bar.updateNote(int64(done), int64(total), fmt.Sprintf("%.4f", ppl))
	}
	var r eval.PerplexityResult
	err = saveLogits(c.String("save-logits"), func(w *eval.LogitsWriter) (err error) {
		o.Save = w
		r, err = eval.Perplexity(ctx, m.Engine, tokens, o)
		return err
	})
	bar.finish()
	if err != nil {
		return err
	}
	if err := finite("perplexity", r.Perplexity); err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(perplexityJSON{r, o.Definition, opt.NCtx, stride, m.Device(), m.Memory().Plan, time.Since(start).Seconds()})
	}
	fmt.Fprintf(p.Out, "perplexity %.4f ± %.5f (%d chunks of %d tokens, %d tokens scored, %.0f s)\n", r.Perplexity, r.StdErr,
		r.Chunks, opt.NCtx, r.Tokens, time.Since(start).Seconds())
	if r.WordPerplexity != 0 {
		fmt.Fprintf(p.Out, "perplexity per word %.4f\n", r.WordPerplexity)
	}
	return nil
}

// perplexityState is on what a finished chunk of eval ppl depends.
type perplexityState struct {
	evalState
	Definition eval.Definition `json:"definition"`
	NCtx       int             `json:"n_ctx"`
	Stride     int             `json:"stride"`
	Text       string          `json:"text"`
}

// perplexityOptions checks the command line of eval ppl; stride is 0 where there is none.
func perplexityOptions(c *cli.Context) (opt engine.LoadOptions, stride int, err error) {
	if c.String("file") == "" {
		return opt, 0, usagef("eval ppl: the text is missing (-f FILE)")
	}
	if opt, err = loadOptions(c); err != nil {
		return opt, 0, err
	}
	stride = c.Int("stride")
	switch def := eval.Definition(c.String("definition")); {
	case def != eval.LlamaCPP && def != eval.Sliding:
		return opt, 0, usagef("--definition %s: expected %s or %s", def, eval.LlamaCPP, eval.Sliding)
	case def == eval.LlamaCPP && stride != 0:
		return opt, 0, usagef("--stride needs --definition %s", eval.Sliding)
	case def == eval.Sliding && (stride < 0 || stride > opt.NCtx):
		return opt, 0, usagef("--stride %d: expected 0 to --ctx, which is %d", stride, opt.NCtx)
	case c.String("save-logits") != "" && (def != eval.LlamaCPP || c.String("state") != ""):
		return opt, 0, usagef("--save-logits works with --definition %s and without --state only", eval.LlamaCPP)
	case def == eval.Sliding && stride == 0:
		stride = max(1, opt.NCtx/2)
	}
	return opt, stride, nil
}

// finite refuses a result that is no number: some token of the text has probability 0, or logits are NaN.
func finite(what string, v float64) error {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Errorf("%s is %v: the model gives a token of the text no probability (is it damaged? ellm-gpu verify)", what, v)
	}
	return nil
}
