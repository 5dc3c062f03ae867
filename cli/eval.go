package cli

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/eval"
)

func (p *program) evalCommand() *cli.Command {
	return &cli.Command{
		Name:        "eval",
		Usage:       "measure the quality of a model",
		Subcommands: []*cli.Command{p.perplexityCommand()},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("eval: there is no measure %q (ppl)", c.Args().First())
			}
			return usagef("eval: the measure is missing (usage: ellm-gpu eval ppl MODEL.ellm -f TEXT)")
		},
	}
}

func (p *program) perplexityCommand() *cli.Command {
	return &cli.Command{
		Name:      "ppl",
		Usage:     "perplexity on a text, as llama-perplexity defines it",
		ArgsUsage: "MODEL.ellm",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "the text; - = standard input"},
			&cli.IntFlag{Name: "ctx", Aliases: []string{"c", "ctx-size"}, Value: 512, Usage: "tokens per chunk"},
			&cli.IntFlag{Name: "chunks", Usage: "score this many chunks only; 0 = all"},
			jsonFlag(),
		}, deviceFlags()...),
		Action: p.perplexity,
	}
}

// perplexityJSON is what eval ppl --json prints.
type perplexityJSON struct {
	eval.PerplexityResult
	NCtx    int         `json:"n_ctx"`
	Device  string      `json:"device"`
	Plan    engine.Plan `json:"plan"`
	Seconds float64     `json:"seconds"`
}

func (p *program) perplexity(c *cli.Context) error {
	path, err := operand(c, "model")
	if err != nil {
		return err
	}
	if c.String("file") == "" {
		return usagef("eval ppl: the text is missing (-f FILE)")
	}
	if c.Int("chunks") < 0 {
		return usagef("--chunks %d: expected 0 or more", c.Int("chunks"))
	}
	opt, err := loadOptions(c)
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
	start := time.Now()
	bar := p.newProgress("perplexity")
	r, err := eval.Perplexity(ctx, m.Session, m.Tokenizer().Encode(text, true, false), eval.PerplexityOptions{
		NCtx: opt.NCtx, Chunks: c.Int("chunks"),
		Progress: func(done, total int, ppl float64) {
			bar.updateNote(int64(done), int64(total), fmt.Sprintf("%.4f", ppl))
		},
	})
	bar.finish()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(perplexityJSON{r, opt.NCtx, m.Device(), m.Memory().Plan, time.Since(start).Seconds()})
	}
	fmt.Fprintf(p.Out, "perplexity %.4f ± %.5f (%d chunks of %d tokens, %d tokens scored, %.0f s)\n", r.Perplexity, r.StdErr, r.Chunks, opt.NCtx, r.Tokens, time.Since(start).Seconds())
	return nil
}
