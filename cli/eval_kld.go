package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/engine"
	"github.com/ellm-gpu/ellm-gpu/internal/eval"
)

func (p *program) kldCommand() *cli.Command {
	return &cli.Command{
		Name:      "kld",
		Usage:     "KL divergence of a model's predictions from a reference's",
		ArgsUsage: "MODEL.ellm",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "reference", Aliases: []string{"r"}, Usage: "the reference `MODEL.ellm`"},
			&cli.StringFlag{Name: "logits", Usage: "the reference's saved predictions: a `FILE` made with --save-logits or " +
				"llama-perplexity --kl-divergence-base"},
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "the text; - = standard input; may be left out with --logits, " +
				"which holds its tokens"},
			chunkCtxFlag(),
			&cli.IntFlag{Name: "chunks", Usage: "compare this many chunks only; 0 = all"},
			saveLogitsFlag("save the predictions of --reference to `FILE`, for the next comparison's --logits"),
			stateFlag(), jsonFlag(),
		}, deviceFlags()...),
		Action: p.kld,
	}
}

// kldJSON is what eval kld --json prints.
type kldJSON struct {
	eval.KLDResult
	NCtx    int         `json:"n_ctx"`
	Device  string      `json:"device"`
	Plan    engine.Plan `json:"plan"`
	Seconds float64     `json:"seconds"`
}

// kldState is on what a finished chunk of eval kld depends.
type kldState struct {
	evalState
	Reference string `json:"reference"`
	NCtx      int    `json:"n_ctx"`
	Text      string `json:"text"`
}

// kldRun is one run of eval kld.
type kldRun struct {
	p        *program
	c        *cli.Context
	opt      engine.LoadOptions
	saved    *eval.LogitsFile // nil: the reference is a model
	m, refM  *loaded
	tokens   []int32
	settings kldState
}

func (p *program) kld(c *cli.Context) error {
	path, err := p.modelOperand(c)
	if err != nil {
		return err
	}
	if err := checkKLD(c); err != nil {
		return err
	}
	k := kldRun{p: p, c: c}
	if k.opt, err = loadOptions(c); err != nil {
		return err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	defer k.close()
	if err := k.open(ctx, path); err != nil {
		return err
	}
	start := time.Now()
	r, err := k.measure(ctx)
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	if c.Bool("json") {
		return p.printJSON(kldJSON{r, k.opt.NCtx, k.m.Device(), k.m.Memory().Plan, seconds})
	}
	printKLD(p.Out, r)
	fmt.Fprintf(p.Out, "%d chunks of %d tokens, %d predictions compared, %.0f s\n", r.Chunks, k.opt.NCtx, r.Tokens, seconds)
	return nil
}

func checkKLD(c *cli.Context) error {
	switch {
	case (c.String("reference") == "") == (c.String("logits") == ""):
		return usagef("eval kld: one of --reference MODEL.ellm and --logits FILE is needed")
	case c.String("reference") != "" && c.String("file") == "":
		return usagef("eval kld: the text is missing (-f FILE)")
	case c.String("save-logits") != "" && (c.String("reference") == "" || c.String("state") != ""):
		return usagef("--save-logits works with --reference and without --state only")
	}
	return nil
}

func (k *kldRun) close() {
	for _, m := range []*loaded{k.m, k.refM} {
		if m != nil {
			m.close()
		}
	}
	if k.saved != nil {
		k.saved.Close()
	}
}

// open opens the reference, the model and the text.
func (k *kldRun) open(ctx context.Context, path string) (err error) {
	device := k.c.String("device")
	if saved := k.c.String("logits"); saved != "" {
		if err = k.openSaved(saved); err != nil {
			return err
		}
	} else {
		if k.refM, err = k.p.load(ctx, k.c.String("reference"), device, k.opt); err != nil {
			return err
		}
		k.settings.Reference = k.refM.file.Fingerprint()
	}
	if k.m, err = k.p.load(ctx, path, device, k.opt); err != nil {
		return err
	}
	if err = k.readText(); err != nil {
		return err
	}
	k.settings.evalState, k.settings.NCtx, k.settings.Text = stateOf("kld", k.m), k.opt.NCtx, digest(k.tokens)
	return nil
}

func (k *kldRun) openSaved(path string) (err error) {
	if err = checkInput(path); err != nil {
		return err
	}
	if k.saved, err = eval.OpenLogits(path); err != nil {
		return err
	}
	if k.c.IsSet("ctx") && k.opt.NCtx != k.saved.NCtx {
		return usagef("--ctx %d: %s was made with %d", k.opt.NCtx, path, k.saved.NCtx)
	}
	k.opt.NCtx, k.tokens = k.saved.NCtx, k.saved.Tokens
	k.settings.Reference, err = k.saved.Digest()
	return err
}

// readText tokenizes the text, if there is one, and makes sure that all sides mean the same tokens.
func (k *kldRun) readText() error {
	path := k.c.String("file")
	if path == "" {
		return nil
	}
	text, err := k.p.readFile(path)
	if err != nil {
		return err
	}
	tokens := k.m.Tokenizer().Encode(text, true, false)
	if k.saved != nil {
		if n := len(k.saved.Tokens); len(tokens) < n || !slices.Equal(tokens[:n], k.saved.Tokens) {
			return fmt.Errorf("%s does not give the tokens of %s: it is another text, or the reference has another tokenizer (leave -f "+
				"out to take the saved tokens)", path, k.c.String("logits"))
		}
		return nil // the saved tokens are those that have predictions
	}
	if !slices.Equal(tokens, k.refM.Tokenizer().Encode(text, true, false)) {
		return fmt.Errorf("model and reference tokenize %s differently: only models with the same tokenizer can be compared", path)
	}
	k.tokens = tokens
	return nil
}

func (k *kldRun) measure(ctx context.Context) (r eval.KLDResult, err error) {
	opt := eval.KLDOptions{NCtx: k.opt.NCtx, Chunks: k.c.Int("chunks")}
	if opt.State, err = k.p.openState(k.c, k.settings); err != nil {
		return r, err
	}
	defer opt.State.Close()
	bar := k.p.newProgress("KL divergence")
	defer bar.finish()
	opt.Progress = func(done, total int, mean float64) {
		bar.updateNote(int64(done), int64(total), fmt.Sprintf("%.5f", mean))
	}
	err = saveLogits(k.c.String("save-logits"), func(w *eval.LogitsWriter) (err error) {
		ref := eval.Reference(nil)
		if k.saved != nil {
			ref = eval.NewFileReference(k.saved)
		} else {
			ref = eval.NewModelReference(k.refM.Engine, w)
		}
		r, err = eval.KLD(ctx, k.m.Engine, ref, k.tokens, opt)
		return err
	})
	return r, err
}

func printKLD(w io.Writer, r eval.KLDResult) {
	line := func(name string, e eval.Estimate, factor float64, unit string) {
		fmt.Fprintf(w, "%-28s %10.6f ± %.6f%s\n", name, factor*e.Value, factor*e.StdErr, unit)
	}
	order := func(name string, d eval.Distribution, factor float64, unit string) {
		for _, v := range []struct {
			name  string
			value float64
		}{{"maximum", d.Max}, {"99.9 %", d.P999}, {"99 %", d.P99}, {"95 %", d.P95}, {"90 %", d.P90}, {"median", d.Median},
			{"10 %", d.P10}, {"1 %", d.P1}, {"minimum", d.Min}} {
			fmt.Fprintf(w, "%-28s %10.6f%s\n", name+" "+v.name, factor*v.value, unit)
		}
	}
	line("perplexity", r.Perplexity, 1, "")
	line("reference's perplexity", r.ReferencePerplexity, 1, "")
	line("ln of their ratio", r.LogRatio, 1, "")
	line("ratio", r.Ratio, 1, "")
	line("difference", r.Difference, 1, "")
	fmt.Fprintf(w, "%-28s %10.2f %%\n", "correlation of ln", 100*r.Correlation)
	line("KLD mean", r.KLD, 1, "")
	order("KLD", r.KLDDistribution, 1, "")
	line("Δp mean", r.DeltaP, 100, " %")
	line("Δp rms", r.DeltaPRMS, 100, " %")
	order("Δp", r.DeltaPDistribution, 100, " %")
	line("same top token", r.SameTop, 100, " %")
}
