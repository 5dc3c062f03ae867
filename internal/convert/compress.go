package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/imatrix"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
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
}

// Tuning switches ingredients of SchemeBPW off or changes them, to see what they are worth. The zero value is the best that is known.
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
}

// Progress receives how many weights of a stage are done. It is called from one goroutine at a time.
type Progress func(stage string, done, total int64)

// job is one run of Compress.
type job struct {
	ctx         context.Context
	src         Source
	opt         Options
	config      *model.Config
	w           *format.Writer
	plans       []*plan
	weights     int64
	progress    Progress
	fold        *folding // nil: columns are as in the source
	factors     *factors // of error feedback, or nil
	gains       []Gain
	columns     map[string]float64 // matrix → mean square that feedback leaves of an input
	sensitivity *sensitivity       // nil: nothing is known
	seen        *imatrix.File      // mean squares that calibration found

	// State of SchemeBPW, kept when a file missed its size and is written again.
	kappa  float64 // step of the last exact pass, in units of each matrix's rms and offset
	beyond float64 // bits that matrices take beyond their entropy
	bias   float64 // bits by which files turned out larger than expected
}

// Compress quantizes and codes src into a new container at outPath. The file appears only when it is complete; an error or a
// cancelled context leaves what was there before.
func Compress(ctx context.Context, src Source, outPath string, opt Options, progress Progress) (*Report, error) {
	start := time.Now()
	j, err := newJob(ctx, src, opt, progress)
	if err != nil {
		return nil, err
	}
	if opt.Calibration.hasText() || opt.Calibration.Saved != "" {
		defer func() { _ = j.factors.Close() }() // a temporary file
		if err := j.calibrate(filepath.Dir(outPath)); err != nil {
			return nil, err
		}
	} else if opt.Calibration.Imatrix == "" && j.opt.Scheme == SchemeBPW && !opt.Tuning.NoColumns {
		if err := j.synthesize(); err != nil {
			return nil, err
		}
	}
	settings := map[string]any{}
	if s := j.opt.Calibration.settings(); s != nil {
		settings["calibration"] = s
	}
	if j.fold != nil {
		settings[settingRescaled] = true
	}
	tables, err := j.write(outPath, settings)
	defer func() {
		if j.w != nil {
			j.w.Abort()
		}
	}()
	// Where a few padding bytes weigh much the size is not what was expected; what is known then hits the target.
	for try := 0; err == nil && try < 2 && j.opt.Scheme == SchemeBPW && opt.Tuning.Kappa == 0 && j.missed(tables); try++ {
		j.bias += j.miss(tables)
		j.w.Abort()
		tables, err = j.write(outPath, settings)
	}
	if err == nil && opt.Tuning.Kappa == 0 {
		err = j.tooLarge(tables)
	}
	if err != nil {
		return nil, err
	}
	r := &Report{Scheme: j.opt.Scheme, Tensors: len(j.plans), Weights: j.weights, Tables: len(tables), SQNR: j.sqnr(), Gains: j.gains}
	if r.SQNR != 0 {
		settings["sqnr_db"] = math.Round(100*r.SQNR) / 100
	}
	if r.Bytes, err = j.finish(tables, settings); err != nil {
		return nil, err
	}
	r.BitsPerWeight = 8 * float64(r.Bytes) / float64(r.Weights)
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// write starts the file and writes everything but what format.Writer.Finish adds.
func (j *job) write(path string, settings map[string]any) (tables []*huffman.Table, err error) {
	if j.w, err = format.Create(path); err != nil {
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
func Check(src Source, opt Options) error {
	_, err := newJob(context.Background(), src, opt, nil)
	return err
}

func newJob(ctx context.Context, src Source, opt Options, progress Progress) (*job, error) {
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
	j := &job{ctx: ctx, src: src, opt: opt, config: cfg, progress: progress}
	if progress == nil {
		j.progress = func(string, int64, int64) {}
	}
	if err := errors.Join(j.opt.Calibration.check(j.opt.Scheme), j.opt.Tuning.check(cfg)); err != nil {
		return nil, &OptionError{err}
	}
	if j.opt.Calibration.Imatrix != "" {
		if err := j.foldImatrix(); err != nil {
			return nil, err
		}
	}
	for i, t := range src.Tensors() {
		p := &plan{index: i, info: t}
		if p.m, err = j.matrixFor(p); err != nil {
			return nil, err
		}
		j.plans = append(j.plans, p)
		j.weights += p.weights()
	}
	if j.weights == 0 {
		return nil, fmt.Errorf("%s: the model has no tensors", src.Path())
	}
	if opt.Size != 0 {
		j.opt.BPW = 8 * float64(opt.Size) / float64(j.weights)
	}
	if bpw := j.opt.BPW; !(bpw >= MinBPW && bpw <= MaxBPW) {
		return nil, &OptionError{fmt.Errorf("%.4g bits per weight asked for, supported are %g to %g (%d to %d bytes)", bpw, MinBPW, MaxBPW, int64(MinBPW/8*float64(j.weights)), int64(MaxBPW/8*float64(j.weights)))}
	}
	return j, nil
}

// matrixFor returns what turns a tensor into codes, or nil if it is to be stored as it is. Vectors always are: they are tiny,
// and every weight of them acts on a whole row or column.
func (j *job) matrixFor(p *plan) (matrix, error) {
	if p.info.Vector || p.info.Rows == 1 {
		return nil, nil
	}
	f16, bf16 := p.info.Type == "F16", p.info.Type == "BF16"
	switch j.opt.Scheme {
	case SchemeBPW:
		return &uniformMatrix{job: j, p: p}, nil
	// The paper has one histogram of all weights of a model, so embedding and output matrix are quantized like the others.
	case SchemePaperU8:
		return &minMaxMatrix{job: j, p: p, bits: 8}, nil
	case SchemePaperU4:
		return &minMaxMatrix{job: j, p: p, bits: 4}, nil
	case SchemeBF16:
		return &floatMatrix{job: j, p: p, half: f16, round: !f16 && !bf16}, nil
	case SchemeLossless:
		switch {
		case p.info.Layout != nil:
			return &blockMatrix{job: j, p: p}, nil
		case f16 || bf16:
			return &floatMatrix{job: j, p: p, half: f16}, nil
		}
		return nil, nil
	}
	return nil, fmt.Errorf("unknown scheme %q; there are %s, %s, %s, %s and %s", j.opt.Scheme, SchemeBPW, SchemePaperU8, SchemePaperU4, SchemeBF16, SchemeLossless)
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
	return j.w.Finish(&format.Meta{
		Producer: "ellm-gpu", Scheme: string(j.opt.Scheme), Source: filepath.Base(j.src.Path()),
		Config: cfg, ChatTemplate: j.src.ChatTemplate(), Quantizer: settings,
	}, tables)
}

// sqnr returns the signal-to-noise ratio of everything quantized in dB, or 0 if nothing was.
func (j *job) sqnr() float64 {
	noise, signal := 0.0, 0.0
	for _, p := range j.plans {
		for r := range p.noise {
			noise += p.noise[r]
			signal += p.signal[r]
		}
	}
	if noise == 0 || signal == 0 {
		return 0
	}
	return 10 * math.Log10(signal/noise)
}

// plan is one tensor on its way into the file.
type plan struct {
	index     int
	info      TensorInfo
	m         matrix // nil: stored as it is
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
func (p *plan) shape() *format.Coded {
	return &format.Coded{Rows: p.info.Rows, Cols: p.info.Cols, Coding: p.coding}
}

func (p *plan) weights() int64 { return int64(p.info.Rows) * int64(p.info.Cols) }

func (p *plan) groups() int { return (p.info.Rows + p.coding.RowsPerGroup - 1) / p.coding.RowsPerGroup }
