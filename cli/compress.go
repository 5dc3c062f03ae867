package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
		Flags: append([]cli.Flag{
			outputFlag("the .ellm file to write"),
			&cli.Float64Flag{Name: "bpw", Usage: fmt.Sprintf("`BITS` per weight of the whole file, %g to %g (the default scheme, with %g)",
				convert.MinBPW, convert.MaxBPW, convert.DefaultBPW)},
			&cli.StringFlag{Name: "size",
				Usage: "instead of --bpw: the `BYTES` that the file may have, as 1100000000, 900M or 0.85GiB (powers of 1024)"},
			&cli.StringFlag{Name: "scheme",
				Usage: "`NAME`: entrollm-u8, entrollm-u4 (the quantizers of arXiv 2505.02380), or bf16 (weights as 16-bit floats)"},
			&cli.BoolFlag{Name: "lossless", Usage: "keep the weights of an already quantized or 16-bit file exactly"},
			&cli.StringSliceFlag{Name: "lora",
				Usage: "merge a LoRA adapter into the weights first: a `DIR[=SCALE]` as PEFT saves it; may be repeated"},
			&cli.StringFlag{Name: "calibrate",
				Usage: "calibration text, a `FILE`: the model runs over it to find where rounding errors matter least"},
			&cli.IntFlag{Name: "calibrate-tokens",
				Usage: fmt.Sprintf("with --calibrate: how many `TOKENS` of the text are used (%d)", convert.DefaultTokens)},
			&cli.IntFlag{Name: "calibrate-self", Usage: "calibrate with this many `TOKENS` that the model writes itself (4096 " +
				"are a good " +
				"amount), without other text or in addition to it"},
			&cli.StringFlag{Name: "imatrix", Usage: "importance matrix, a `FILE` written by llama-imatrix"},
			&cli.StringFlag{Name: "save-calibration", Usage: "with --calibrate: also write what was found to a `FILE` for --calibration " +
				"(2 × columns² bytes for each input: 5 GB for a 1.5B model)"},
			&cli.StringFlag{Name: "calibration", Usage: "instead of --calibrate: `FILE` that --save-calibration wrote"},
			&cli.StringFlag{Name: "save-imatrix",
				Usage: "with --calibrate: also write the importance matrix to a `FILE`, for --imatrix here and in llama-quantize"},
			deviceFlag(),
			jsonFlag(),
		}, laboratoryFlags()...),
		Action: p.compress,
	}
}

// laboratoryFlags change single ingredients, for experiments (docs/experiments.md); --help does not list them.
func laboratoryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.Float64Flag{Name: "exponent", Hidden: true, Usage: "a column's step goes with E[x²] to the minus this"},
		&cli.Float64Flag{Name: "damping", Hidden: true, Usage: "share by which mean squares are increased"},
		&cli.BoolFlag{Name: "no-feedback", Hidden: true, Usage: "no error feedback"},
		&cli.BoolFlag{Name: "no-sensitivity", Hidden: true, Usage: "fixed rules instead of derivatives"},
		&cli.BoolFlag{Name: "no-columns", Hidden: true, Usage: "no column steps by random tokens"},
		&cli.BoolFlag{Name: "no-centroid", Hidden: true, Usage: "reconstruct weights at the middle of cells"},
		&cli.BoolFlag{Name: "no-row-classes", Hidden: true, Usage: "one code table for each matrix"},
		&cli.BoolFlag{Name: "no-column-classes", Hidden: true, Usage: "columns of wide matrices stay in their order"},
		&cli.Float64Flag{Name: "row-exponent", Hidden: true, Value: convert.DefaultRowExponent,
			Usage: "a row's step goes with its mean magnitude to this power"},
		&cli.StringFlag{Name: "offsets", Hidden: true, Usage: "JSON file of bits above the average by type of matrix, or none"},
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
	adapters, err := adaptersOf(c)
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
	p.noteStale(out)
	src, err := openAdapted(in, adapters)
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
		out, bytesText(report.Bytes), report.BitsPerWeight, report.Weights, report.Tensors, report.Tables, report.Scheme,
		report.Seconds)
	if st, err := os.Stat(in); err == nil && st.Mode().IsRegular() {
		fmt.Fprintf(p.Out, "the input has %s: %.1f %% of it remain\n", bytesText(st.Size()),
			100*float64(report.Bytes)/float64(st.Size()))
	}
	for _, w := range report.Warnings {
		p.notef("warning: %s", w)
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
		Exponent: c.Float64("exponent"), Damping: c.Float64("damping"), NoFeedback: c.Bool("no-feedback"),
		Save:    c.String("save-imatrix"),
		SaveAll: c.String("save-calibration"), Saved: c.String("calibration"), NoSensitivity: c.Bool("no-sensitivity"),
	}}
	var err error
	if opt.Tuning, err = tuning(c); err != nil {
		return opt, err
	}
	if err := checkOwnText(c); err != nil {
		return opt, err
	}
	if err := chooseScheme(c, &opt); err != nil {
		return opt, err
	}
	for _, name := range []string{"no-columns", "no-centroid", "row-exponent", "offsets"} {
		if opt.Scheme != "" && c.IsSet(name) {
			return opt, usagef("compress: --%s goes with --bpw and --size only", name)
		}
	}
	return opt, nil
}

// checkOwnText checks --calibrate-self and what it goes with.
func checkOwnText(c *cli.Context) error {
	n := c.Int("calibrate-self")
	with := func(names ...string) bool { return slices.ContainsFunc(names, c.IsSet) }
	if n > 0 && with("imatrix", "calibration", "scheme", "lossless") {
		return usagef("--calibrate-self goes without --imatrix, --calibration, --scheme and --lossless")
	}
	return nil
}

// chooseScheme reads the options of which one chooses the scheme and the size.
func chooseScheme(c *cli.Context, opt *convert.Options) error {
	chosen := 0
	for _, name := range []string{"bpw", "size", "scheme", "lossless"} {
		if c.IsSet(name) {
			chosen++
		}
	}
	if chosen > 1 {
		return usagef("compress: --bpw, --size, --scheme and --lossless exclude each other")
	}
	switch {
	case c.Bool("lossless"):
		opt.Scheme = convert.SchemeLossless
	case c.IsSet("scheme"):
		named := []convert.Scheme{convert.SchemePaperU8, convert.SchemePaperU4, convert.SchemeBF16}
		opt.Scheme = convert.Scheme(c.String("scheme"))
		if !slices.Contains(named, opt.Scheme) {
			return usagef("--scheme %s: expected %s, %s or %s", opt.Scheme, named[0], named[1], named[2])
		}
	case c.IsSet("size"):
		var err error
		if opt.Size, err = parseBytes(c.String("size")); err != nil || opt.Size == 0 {
			return usagef("--size %s: expected a number of bytes, as 900M or 0.85GiB", c.String("size"))
		}
	}
	return nil
}

// tuning reads the flags that change single ingredients.
func tuning(c *cli.Context) (convert.Tuning, error) {
	x := c.Float64("row-exponent")
	t := convert.Tuning{NoColumns: c.Bool("no-columns"), NoCentroid: c.Bool("no-centroid"),
		NoRowClasses: c.Bool("no-row-classes"), NoColumnClasses: c.Bool("no-column-classes"), RowExponent: &x}
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
		return "", fmt.Errorf("%s: is a directory, a file name is expected (-o %s)", out,
			filepath.Join(out, "model"+outputExtension(c)))
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
