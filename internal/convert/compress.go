package convert

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/outfile"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// Scheme is a way to quantize.
type Scheme string

const (
	SchemeBPW      Scheme = "bpw"         // entropy-constrained, to a given file size
	SchemePaperU8  Scheme = "entrollm-u8" // arXiv 2505.02380, 8 bits
	SchemePaperU4  Scheme = "entrollm-u4" // the same, 4 bits
	SchemeBF16     Scheme = "bf16"        // 16-bit floats as they are; others rounded to BF16
	SchemeLossless Scheme = "lossless"    // every weight as it is
)

// Limits of Options.BPW.
const (
	DefaultBPW = 4.0
	MinBPW     = 2.0
	MaxBPW     = 8.5
)

// DefaultRowExponent is the default of Tuning.RowExponent.
const DefaultRowExponent = 0.5

// Options are the choices of Compress.
type Options struct {
	Scheme Scheme  // empty: SchemeBPW
	BPW    float64 // SchemeBPW: bits of the file per weight; 0: DefaultBPW
	Size   int64   // SchemeBPW: instead of BPW, bytes that the file shall have at most

	Calibration Calibration
	Tuning      Tuning

	Disk outfile.Disk // what outputs are written to; nil: the operating system's files
}

func (o *Options) disk() outfile.Disk {
	if o.Disk == nil {
		return outfile.OS{}
	}
	return o.Disk
}

// Tuning switches ingredients of SchemeBPW off or changes them, to see what they are worth. The zero value is the best that is
// known.
type Tuning struct {
	NoColumns       bool          // equal steps and code tables for all columns, if there is no Calibration
	NoCentroid      bool          // reconstruct at the middle of cells
	NoRowClasses    bool          // one code table for each matrix, rows in natural order
	NoColumnClasses bool          // columns in natural order
	RowExponent     *float64      // a row's step goes with its mean magnitude to this power; nil: DefaultRowExponent
	Offsets         quant.Offsets // nil: quant.DefaultOffsets
	Kappa           float64       // the step in units of each matrix's rms and offset, whatever file size results; 0: by file size
}

// check completes t.
func (t *Tuning) check(c *model.Config) error {
	if t.RowExponent == nil {
		x := DefaultRowExponent
		t.RowExponent = &x
	}
	if t.Offsets == nil {
		t.Offsets = quant.DefaultOffsets(c.NKVHeads < c.NHeads)
	}
	if x := *t.RowExponent; !(x >= 0 && x <= 1) {
		return fmt.Errorf("a row exponent of %g, expected 0 to 1", x)
	}
	if !(t.Kappa >= 0 && t.Kappa <= 64) {
		return fmt.Errorf("steps of %g, expected at most 64", t.Kappa)
	}
	return t.Offsets.Check()
}

// OptionError says that Options make no sense, by themselves or for a model.
type OptionError struct{ error }

// Report says what Compress did.
type Report struct {
	Scheme        Scheme  `json:"scheme"`
	Tensors       int     `json:"tensors"`
	Weights       int64   `json:"weights"`
	Bytes         int64   `json:"bytes"` // of the file
	BitsPerWeight float64 `json:"bits_per_weight"`
	Tables        int     `json:"tables"`
	SQNR          float64 `json:"sqnr_db,omitempty"` // signal to noise of all quantized matrices; absent if nothing was lost
	Seconds       float64 `json:"seconds"`
	Gains         []Gain  `json:"gains,omitempty"` // of calibration
	// Warnings say what was wrong in the source and not needed.
	Warnings []string `json:"warnings,omitempty"`
}

// Compress quantizes and codes src into a new container at outPath. The file appears only when it is complete; an error or a
// cancelled context leaves what was there before.
func Compress(ctx context.Context, src source.Model, outPath string, opt Options, progress Progress) (*Report, error) {
	start := time.Now()
	j, err := newJob(ctx, src, opt, progress)
	if err != nil {
		return nil, err
	}
	defer func() { _ = j.factors.Close() }() // a temporary file
	if err := j.lookAtInputs(filepath.Dir(outPath)); err != nil {
		return nil, err
	}
	settings := map[string]any{}
	if s := j.opt.Calibration.settings(); s != nil {
		settings["calibration"] = s
	}
	if j.fold != nil {
		settings[settingRescaled] = true
	}
	defer func() {
		if j.w != nil {
			j.w.Abort()
		}
	}()
	tables, err := j.writeFitting(outPath, settings)
	if err != nil {
		return nil, err
	}
	r := &Report{Scheme: j.opt.Scheme, Tensors: len(j.tensors), Weights: j.weights, Tables: len(tables), SQNR: j.sqnr(),
		Gains: j.gains}
	if r.SQNR != 0 {
		settings["sqnr_db"] = math.Round(100*r.SQNR) / 100
	}
	if r.Bytes, err = j.finish(tables, settings); err != nil {
		return nil, err
	}
	r.Warnings = j.src.Warnings()
	r.BitsPerWeight = 8 * float64(r.Bytes) / float64(r.Weights)
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// lookAtInputs finds out which inputs of the matrices matter, as far as the options ask for it. dir is for temporary files.
func (j *job) lookAtInputs(dir string) error {
	c := &j.opt.Calibration
	switch {
	case c.hasText() || c.Saved != "":
		return j.calibrate(dir)
	case c.Imatrix == "" && j.opt.Scheme == SchemeBPW && !j.opt.Tuning.NoColumns:
		return j.synthesize()
	}
	return nil
}

// writeFitting writes everything but what format.Writer.Finish adds. A file of SchemeBPW that misses its size is written again:
// where a few padding bytes weigh much the size is not what was expected, and what is known then hits the target.
func (j *job) writeFitting(path string, settings map[string]any) ([]*huffman.Table, error) {
	const tries = 3
	fits := j.opt.Scheme != SchemeBPW || j.opt.Tuning.Kappa != 0
	tables, err := j.write(path, settings)
	for try := 1; err == nil && try < tries && !fits && j.missesTarget(tables); try++ {
		j.bias += j.excessBits(tables)
		j.w.Abort()
		tables, err = j.write(path, settings)
	}
	if err == nil && j.opt.Tuning.Kappa == 0 {
		err = j.tooLarge(tables)
	}
	return tables, err
}

// write starts the file and writes everything but what format.Writer.Finish adds.
func (j *job) write(path string, settings map[string]any) (tables []*huffman.Table, err error) {
	if j.w, err = format.CreateOn(j.opt.disk(), path); err != nil {
		return nil, err
	}
	if err := j.sections(); err != nil {
		return nil, err
	}
	if j.opt.Scheme == SchemeBPW {
		tables, err = j.fit(settings)
	} else {
		tables, err = j.prepare()
	}
	if err != nil {
		return nil, err
	}
	return tables, j.encode(tables)
}

// Check returns the error with which Compress would refuse opt for this source before it starts to work, or nil.
func Check(src source.Model, opt Options) error {
	_, err := newJob(context.Background(), src, opt, nil)
	return err
}

func newJob(ctx context.Context, src source.Model, opt Options, progress Progress) (*job, error) {
	if opt.Scheme == "" {
		opt.Scheme = SchemeBPW
	}
	if opt.BPW == 0 {
		opt.BPW = DefaultBPW
	}
	cfg, err := src.Config()
	if err != nil {
		return nil, err
	}
	j := &job{work: newWork(ctx, progress), src: src, opt: opt, config: cfg}
	if err := cmp.Or(j.opt.Calibration.check(j.opt.Scheme), j.opt.Tuning.check(cfg)); err != nil {
		return nil, &OptionError{err}
	}
	if j.opt.Calibration.Imatrix != "" {
		if err := j.foldImatrix(); err != nil {
			return nil, err
		}
	}
	for i, info := range src.Tensors() {
		t := &tensorJob{index: i, info: info}
		if t.quantizer, err = j.quantizerFor(t); err != nil {
			return nil, err
		}
		j.tensors = append(j.tensors, t)
		j.weights += t.weights()
	}
	if j.weights == 0 {
		return nil, fmt.Errorf("%s: the model has no tensors", src.Path())
	}
	if opt.Size != 0 {
		j.opt.BPW = 8 * float64(opt.Size) / float64(j.weights)
	}
	if bpw := j.opt.BPW; !(bpw >= MinBPW && bpw <= MaxBPW) {
		return nil, &OptionError{fmt.Errorf("%.4g bits per weight asked for, supported are %g to %g (%d to %d bytes)", bpw, MinBPW,
			MaxBPW, int64(MinBPW/8*float64(j.weights)), int64(MaxBPW/8*float64(j.weights)))}
	}
	return j, nil
}

// quantizerFor returns what turns a tensor into codes, or nil if it is to be stored as it is. Vectors always are: they are tiny,
// and every weight of them acts on a whole row or column.
func (j *job) quantizerFor(t *tensorJob) (quantizer, error) {
	if t.info.Vector || t.info.Rows == 1 {
		return nil, nil
	}
	f16, bf16 := t.info.Type == "F16", t.info.Type == "BF16"
	switch j.opt.Scheme {
	case SchemeBPW:
		return &uniformQuantizer{job: j, t: t}, nil
	// The paper has one histogram of all weights of a model, so embedding and output matrix are quantized like the others.
	case SchemePaperU8:
		return &minMaxQuantizer{job: j, t: t, bits: 8}, nil
	case SchemePaperU4:
		return &minMaxQuantizer{job: j, t: t, bits: 4}, nil
	case SchemeBF16:
		return &floatQuantizer{job: j, t: t, half: f16, round: !f16 && !bf16}, nil
	case SchemeLossless:
		switch {
		case t.info.Layout != nil:
			return &blockQuantizer{job: j, t: t}, nil
		case f16 || bf16:
			return &floatQuantizer{job: j, t: t, half: f16}, nil
		case t.info.Type != "F32":
			return nil, &OptionError{fmt.Errorf("%s: tensor %s is of type %s, whose weights are not integers with scales and cannot "+
				"be kept exactly (--bpw and --scheme take it)", j.src.Path(), t.info.Name, t.info.Type)}
		}
		return nil, nil
	}
	return nil, fmt.Errorf("unknown scheme %q; there are %s, %s, %s, %s and %s", j.opt.Scheme, SchemeBPW, SchemePaperU8,
		SchemePaperU4, SchemeBF16, SchemeLossless)
}

// sections writes what is not weights.
func (j *job) sections() error {
	tok, err := j.src.Tokenizer()
	if err != nil {
		return err
	}
	if tok != nil {
		b, err := tokenizer.Marshal(tok)
		if err != nil {
			return err
		}
		if err := j.w.Section(format.KindTokenizer, b, true); err != nil {
			return err
		}
	}
	kv, err := j.src.GGUFMetadata()
	if err != nil || len(kv) == 0 {
		return err
	}
	return j.w.Section(format.KindGGUF, kv, true)
}

// prepare lets every matrix choose its coding, then makes the tables.
func (j *job) prepare() ([]*huffman.Table, error) {
	if err := j.measure(); err != nil {
		return nil, err
	}
	bins, err := j.train()
	if err != nil {
		return nil, err
	}
	_, tables, err := bins.Build()
	return tables, err
}

func (j *job) finish(tables []*huffman.Table, settings map[string]any) (int64, error) {
	cfg, err := json.Marshal(j.config)
	if err != nil {
		return 0, err
	}
	ends, err := j.src.Ends()
	if err != nil {
		return 0, err
	}
	return j.w.Finish(&format.Meta{
		Producer: "ellm-gpu", Scheme: string(j.opt.Scheme), Source: filepath.Base(j.src.Path()),
		Config: cfg, ChatTemplate: j.src.ChatTemplate(), Ends: ends, Quantizer: settings,
	}, tables)
}

// sqnr returns the signal-to-noise ratio of everything quantized in dB, or 0 if nothing was.
func (j *job) sqnr() float64 {
	noise, signal := 0.0, 0.0
	for _, t := range j.tensors {
		for r := range t.noise {
			noise += t.noise[r]
			signal += t.signal[r]
		}
	}
	if noise == 0 || signal == 0 {
		return 0
	}
	return 10 * math.Log10(signal/noise)
}

// tensorJob is one tensor on its way into the file.
type tensorJob struct {
	index     int
	info      source.TensorInfo
	quantizer quantizer // nil: stored as it is
	coding    format.Coding
	scale     format.Scale
	levelBits float64  // of the levels per weight, about; sizes the row groups
	rows      []uint32 // row of the file's matrix → the source's; nil: the same
	cols      []uint32 // likewise columns
	order     []uint32 // stored position → row of the file's matrix, or nil
	scales    codec.Scales
	noise     []float64 // squared error of every row, if it is quantized
	signal    []float64 // squared weights of every row
}

// shape returns the geometry of the coded matrix.
func (t *tensorJob) shape() *format.Coded {
	return &format.Coded{Rows: t.info.Rows, Cols: t.info.Cols, Coding: t.coding}
}

func (t *tensorJob) weights() int64 { return int64(t.info.Rows) * int64(t.info.Cols) }

func (t *tensorJob) groups() int {
	return (t.info.Rows + t.coding.RowsPerGroup - 1) / t.coding.RowsPerGroup
}
