package cli

import (
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

func (p *program) inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show what is in a model: per tensor bits per weight, entropy, and what the coding adds to it",
		ArgsUsage: "MODEL.ellm",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "source", Usage: "the file or directory that the model was compressed from: adds the signal-to-noise " +
				"ratio (SQNR) of every tensor, where columns were not rescaled"},
			jsonFlag(),
		},
		Action: p.inspect,
	}
}

func (p *program) inspect(c *cli.Context) error {
	path, err := p.modelOperand(c)
	if err != nil {
		return err
	}
	f, err := openModel(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var reference source.Model
	if s := c.String("source"); s != "" {
		if reference, err = source.Open(s); err != nil {
			return err
		}
		defer reference.Close()
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	bar := p.newProgress("inspecting")
	r, err := convert.Inspect(ctx, f, reference, bar.stage)
	bar.finish()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(r)
	}
	p.printInspect(r, reference != nil)
	return nil
}

func (p *program) printInspect(r *convert.InspectReport, withSource bool) {
	row := func(name, shape, kind, bits, entropy, over, sqnr string) {
		fmt.Fprintf(p.Out, "%-28s %14s %-14s %8s %8s %8s", name, shape, kind, bits, entropy, over)
		if withSource {
			fmt.Fprintf(p.Out, " %9s", sqnr)
		}
		fmt.Fprintln(p.Out)
	}
	row("tensor", "shape", "stored as", "bits/w", "entropy", "over %", "SQNR dB")
	for i := range r.Tensors {
		t := &r.Tensors[i]
		kind, entropy, over := t.Kind, "", ""
		if t.Levels > 0 {
			kind = fmt.Sprintf("%d levels+%db %s", t.Levels, t.LowBitsEach, t.Scale)
			entropy, over = fixed(t.Entropy, 3), fixed(t.OverEntropy, 2)
		}
		row(t.Name, fmt.Sprintf("%d × %d", t.Rows, t.Cols), kind, fixed(t.BitsPerWeight, 3), entropy, over, decibel(t.SQNR))
	}
	t := &r.Total
	row("total", fmt.Sprint(r.Weights), "", fixed(t.BitsPerWeight, 3), fixed(t.Entropy, 3), fixed(t.OverEntropy, 2), decibel(t.SQNR))
	b := &t.Bytes
	fmt.Fprintf(p.Out, "\n%s: scheme %s, made from %s\n", r.Path, r.Scheme, r.Source)
	fmt.Fprintf(p.Out, "codes %s · low bits %s · padding %s · outliers %s · lane index %s · row order %s · scales %s · uncoded "+
		"tensors %s · %d code tables %s · rest %s\n",
		bytesText(b.Codes), bytesText(b.LowBits), bytesText(b.Padding), bytesText(b.Outliers), bytesText(b.Index),
		bytesText(b.RowOrder), bytesText(b.Scales), bytesText(b.Raw),
		r.Tables, bytesText(r.TableSize), bytesText(r.OtherBytes))
	if r.Coded > 0 {
		fmt.Fprintf(p.Out, "entropy %s + longer codes %s + padding %s + the rest above %s = file %s, %.2f %% over the entropy\n",
			bytesText(r.EntropyBytes), bytesText(b.Codes+b.LowBits-r.EntropyBytes), bytesText(b.Padding),
			bytesText(r.FileBytes-b.Codes-b.LowBits-b.Padding), bytesText(r.FileBytes), r.FileOverEntropy)
	}
	fmt.Fprintf(p.Out, "file %s: %.3f bits per weight; one Huffman code of single integers for the whole model would take %.3f "+
		"without scales\n",
		bytesText(r.FileBytes), r.BitsPerWeight, r.SingleSymbol)
}

func fixed(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }

func decibel(v *float64) string {
	if v == nil {
		return "exact"
	}
	return fixed(*v, 2)
}
