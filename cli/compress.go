package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ellm-gpu/ellm-gpu/internal/convert"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

func (p *program) compressCommand() *cli.Command {
	return &cli.Command{
		Name:      "compress",
		Usage:     "quantize and Huffman-code a GGUF file or a Hugging Face directory",
		ArgsUsage: "IN -o OUT.ellm",
		Flags: []cli.Flag{
			outputFlag("the .ellm file to write"),
			&cli.Float64Flag{Name: "bpw", Usage: fmt.Sprintf("bits per weight of the whole file, %g to %g (the default scheme, with %g)", convert.MinBPW, convert.MaxBPW, convert.DefaultBPW)},
			&cli.StringFlag{Name: "size", Usage: "instead of --bpw: the bytes that the file may have, as 1100000000, 900M or 0.85GiB (powers of 1024)"},
			&cli.StringFlag{Name: "scheme", Usage: "entrollm-u8, entrollm-u4 (the quantizers of arXiv 2505.02380), or bf16 (weights as 16-bit floats)"},
			&cli.BoolFlag{Name: "lossless", Usage: "keep the weights of an already quantized or 16-bit file exactly"},
			&cli.StringFlag{Name: "imatrix", Usage: "importance matrix written by llama-imatrix"},
			&cli.Float64Flag{Name: "exponent", Usage: "with --imatrix or --calibrate: a column's step goes with E[x²] to the minus this (0.33, or 0.4 where similar columns are sorted)"},
			&cli.StringFlag{Name: "calibrate", Usage: "text file to calibrate with: the model is run over it, and errors are placed where they hurt least"},
			&cli.IntFlag{Name: "calibrate-tokens", Usage: fmt.Sprintf("with --calibrate: how many tokens of the text are used (%d)", convert.DefaultTokens)},
			&cli.IntFlag{Name: "calibrate-self", Usage: "calibrate with this many `TOKENS` that the model writes itself (4096 are a good amount), without other text or in addition to it"},
			deviceFlag(),
			&cli.BoolFlag{Name: "no-feedback", Usage: "with --calibrate: choose column steps, but no error feedback"},
			&cli.Float64Flag{Name: "damping", Usage: fmt.Sprintf("with --calibrate: share by which mean squares are increased (%g, with the model's own text alone %g)", convert.DefaultDamping, convert.OwnDamping)},
			&cli.StringFlag{Name: "save-calibration", Usage: "with --calibrate: also write what was found to a file for --calibration (2 × columns² bytes for each input: 5 GB for a 1.5B model)"},
			&cli.StringFlag{Name: "calibration", Usage: "instead of --calibrate: file that --save-calibration wrote"},
			&cli.BoolFlag{Name: "no-sensitivity", Usage: "with --calibrate: do not measure how much errors of each matrix and row hurt"},
			&cli.StringFlag{Name: "save-imatrix", Usage: "with --calibrate: also write the importance matrix, for --imatrix here and in llama-quantize"},
			&cli.BoolFlag{Name: "no-columns", Usage: "without --imatrix and --calibrate: do not look at the activations that random tokens cause"},
			&cli.BoolFlag{Name: "no-centroid", Usage: "reconstruct weights at the middle of cells"},
			&cli.BoolFlag{Name: "no-row-classes", Usage: "one code table for each matrix"},
			&cli.BoolFlag{Name: "no-column-classes", Usage: "do not sort the columns of wide matrices so that similar ones share code tables"},
			&cli.Float64Flag{Name: "row-exponent", Value: convert.DefaultRowExponent, Usage: "a row's step goes with its mean magnitude to this power"},
			&cli.StringFlag{Name: "offsets", Usage: "JSON file of bits above the average by type of matrix (as bench/probe writes it), or none"},
			jsonFlag(),
		},
		Action: p.compress,
	}
}

func outputFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: usage}
}

func (p *program) compress(c *cli.Context) error {
	in, err := operand(c, "input")
	if err != nil {
		return err
	}
	opt, err := compressOptions(c)
	if err != nil {
		return err
	}
	out, err := outputPath(c, in)
	if err != nil {
		return err
	}
	for _, also := range []string{opt.Calibration.Save, opt.Calibration.SaveAll} { // now, and not after the calibration
		if also == "" {
			continue
		}
		if err := checkOutput(c, also, in); err != nil {
			return err
		}
	}
	src, err := convert.OpenSource(in)
	if err != nil {
		return err
	}
	defer src.Close()
	ctx, stop := interruptible(c.Context)
	defer stop()
	if n := c.Int("calibrate-self"); n > 0 {
		opt.Calibration.Own = make([][]int32, 1) // stands for what is to be written, if all else is in order
		if err := convert.Check(src, opt); err != nil {
			return compressError(err)
		}
		if opt.Calibration.Own, err = p.ownText(ctx, src, out, c.String("device"), n); err != nil {
			return err
		}
	}
	bar := p.newProgress("compressing")
	report, err := convert.Compress(ctx, src, out, opt, bar.stage)
	bar.finish()
	if err != nil {
		return compressError(err)
	}
	if c.Bool("json") {
		return p.printJSON(report)
	}
	p.printCompressed(out, in, report)
	return nil
}

// compressError tells mistakes in the options from failures.
func compressError(err error) error {
	var mistake *convert.OptionError
	if errors.As(err, &mistake) {
		return usagef("compress: %v", mistake)
	}
	return err
}

func (p *program) printCompressed(out, in string, report *convert.Report) {
	fmt.Fprintf(p.Out, "%s: %s, %.3f bits per weight (%d weights in %d tensors, %d code tables, scheme %s, %.1f s)\n",
		out, bytesText(report.Bytes), report.BitsPerWeight, report.Weights, report.Tensors, report.Tables, report.Scheme, report.Seconds)
	if st, err := os.Stat(in); err == nil && st.Mode().IsRegular() {
		fmt.Fprintf(p.Out, "the input has %s: %.1f %% of it remain\n", bytesText(st.Size()), 100*float64(report.Bytes)/float64(st.Size()))
	}
	if len(report.Gains) > 0 {
		fmt.Fprintln(p.Out, "bits per weight that calibration saves at high rates, by column steps and by error feedback:")
	}
	for _, g := range report.Gains {
		note := ""
		if !g.Used {
			note = "  (no feedback)"
		}
		fmt.Fprintf(p.Out, "%6.2f %6.2f  %s%s\n", g.Diagonal, g.Feedback, strings.Join(g.Weights, ", "), note)
	}
	if report.SQNR != 0 {
		fmt.Fprintf(p.Out, "signal to quantization noise: %.2f dB\n", report.SQNR)
	}
}

func compressOptions(c *cli.Context) (convert.Options, error) {
	opt := convert.Options{BPW: c.Float64("bpw"), Calibration: convert.Calibration{
		Imatrix: c.String("imatrix"), Text: c.String("calibrate"), Tokens: c.Int("calibrate-tokens"),
		Exponent: c.Float64("exponent"), Damping: c.Float64("damping"), NoFeedback: c.Bool("no-feedback"), Save: c.String("save-imatrix"),
		SaveAll: c.String("save-calibration"), Saved: c.String("calibration"), NoSensitivity: c.Bool("no-sensitivity"),
	}}
	var err error
	if opt.Tuning, err = tuning(c); err != nil {
		return opt, err
	}
	if n := c.Int("calibrate-self"); n < 0 || n > ownTextMost || n > 0 && (c.IsSet("imatrix") || c.IsSet("calibration") || c.IsSet("scheme") || c.Bool("lossless")) {
		return opt, usagef("--calibrate-self %d: expected 1 to %d tokens, and no --imatrix, --calibration, --scheme or --lossless", n, ownTextMost)
	}
	chosen := 0
	for _, name := range []string{"bpw", "size", "scheme", "lossless"} {
		if c.IsSet(name) {
			chosen++
		}
	}
	if chosen > 1 {
		return opt, usagef("compress: --bpw, --size, --scheme and --lossless exclude each other")
	}
	switch {
	case c.Bool("lossless"):
		opt.Scheme = convert.SchemeLossless
	case c.IsSet("scheme"):
		opt.Scheme = convert.Scheme(c.String("scheme"))
		switch opt.Scheme {
		case convert.SchemePaperU8, convert.SchemePaperU4, convert.SchemeBF16:
		default:
			return opt, usagef("--scheme %s: expected %s, %s or %s", opt.Scheme, convert.SchemePaperU8, convert.SchemePaperU4, convert.SchemeBF16)
		}
	case c.IsSet("size"):
		if opt.Size, err = parseBytes(c.String("size")); err != nil || opt.Size == 0 {
			return opt, usagef("--size %s: expected a number of bytes, as 900M or 0.85GiB", c.String("size"))
		}
	case c.IsSet("bpw") && !(opt.BPW >= convert.MinBPW && opt.BPW <= convert.MaxBPW):
		return opt, usagef("--bpw %g: expected %g to %g", opt.BPW, convert.MinBPW, convert.MaxBPW)
	}
	for _, name := range []string{"no-columns", "no-centroid", "row-exponent", "offsets"} {
		if opt.Scheme != "" && c.IsSet(name) {
			return opt, usagef("compress: --%s goes with --bpw and --size only", name)
		}
	}
	return opt, nil
}

// tuning reads the flags that change single ingredients.
func tuning(c *cli.Context) (convert.Tuning, error) {
	x := c.Float64("row-exponent")
	t := convert.Tuning{NoColumns: c.Bool("no-columns"), NoCentroid: c.Bool("no-centroid"), NoRowClasses: c.Bool("no-row-classes"), NoColumnClasses: c.Bool("no-column-classes"), RowExponent: &x}
	switch file := c.String("offsets"); file {
	case "":
	case "none":
		t.Offsets = quant.Offsets{}
	default:
		b, err := os.ReadFile(file)
		if err != nil {
			return t, err
		}
		if err := json.Unmarshal(b, &t.Offsets); err != nil {
			return t, fmt.Errorf("%s: %w (expected one JSON object of types and bits)", file, err)
		}
	}
	return t, nil
}

// outputPath returns where to write. It refuses the input itself and what could not be renamed over.
func outputPath(c *cli.Context, in string) (string, error) {
	out := c.String("output")
	if out == "" {
		return "", usagef("%s: the output is missing (-o FILE)", c.Command.Name)
	}
	if st, err := os.Stat(out); err == nil && st.IsDir() {
		return "", fmt.Errorf("%s: is a directory, a file name is expected (-o %s)", out, filepath.Join(out, "model"+outputExtension(c)))
	}
	if err := checkOutput(c, out, in); err != nil {
		return "", err
	}
	if ext := filepath.Ext(out); ext != outputExtension(c) {
		return "", usagef("%s: the output must be named *%s, not %s", c.Command.Name, outputExtension(c), out)
	}
	return out, nil
}

// checkOutput refuses to write over the input, over a directory, or where there is no directory.
func checkOutput(c *cli.Context, out, in string) error {
	if st, err := os.Stat(out); err == nil {
		if st.IsDir() {
			return fmt.Errorf("%s: is a directory, a file name is expected", out)
		}
		if source, err := os.Stat(in); err == nil && os.SameFile(st, source) {
			return usagef("%s: input and output are the same file %s", c.Command.Name, in)
		}
	}
	if dir := filepath.Dir(out); dir != "" {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return fmt.Errorf("%s: there is no directory %s (make it first)", out, dir)
		}
	}
	return nil
}

func outputExtension(c *cli.Context) string {
	if c.Command.Name == "export" {
		return ".gguf"
	}
	return ".ellm"
}
