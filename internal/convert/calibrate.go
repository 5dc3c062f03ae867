package convert

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/imatrix"
	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// Calibration tells SchemeBPW which inputs of the matrices matter: from an importance matrix or by running the model over text.
// The zero value is none.
type Calibration struct {
	Imatrix string    // file of llama-imatrix
	Text    string    // file of text, if there is no Imatrix. What the model is later judged by must not be in it
	Tokens  int       // how many tokens of Text are used; 0: DefaultTokens
	Own     [][]int32 // beside Text or instead of it: texts as the model itself writes them, each read from an empty cache
	// a column's step goes with the inverse mean square of its input to this power; 0: what the matrix allows, see columns.go
	Exponent float64
	// share by which mean squares are increased before error feedback, if there are many tokens; 0: DefaultDamping, or OwnDamping
	Damping       float64
	NoSensitivity bool   // with texts: fixed rules for the steps of types of matrices and of rows, whatever derivatives say
	NoFeedback    bool   // with texts: choose column steps only
	Save          string // with texts: file for the importance matrix, in the form that Imatrix names
	SaveAll       string // with texts: file for everything that was found, in the form that Saved names
	Saved         string // instead of texts: what an earlier run saved

	name string // of the text, once it has been read
	used int    // tokens
}

// hasText tells that the model has to be run over texts.
func (c *Calibration) hasText() bool { return c.Text != "" || len(c.Own) > 0 }

// Defaults of Calibration.
const (
	DefaultTokens  = 1 << 14
	DefaultDamping = 0.3
	// with Own alone: a model dwells on few subjects, and how inputs depend on each other there is less true elsewhere
	OwnDamping = 1.5
)

const (
	calibrationContext = 512     // tokens that are read from an empty cache
	maxTextBytes       = 1 << 26 // of the text that are looked at
	minGain            = 0.1     // bits per weight for which error feedback is used
	minSamples         = 1       // tokens per column for which it is
	// The fewer tokens a column has, the less is certain of how it depends on others: with as many as columns, mean squares are
	// increased by 1 + sparseness times Calibration.Damping.
	sparseness = 4
)

// check completes c.
func (c *Calibration) check(s Scheme) error {
	if reflect.ValueOf(c).Elem().IsZero() {
		return nil
	}
	if c.Tokens == 0 {
		c.Tokens = DefaultTokens
	}
	if s != SchemeBPW {
		return fmt.Errorf("calibration goes with scheme %s only, not with %s", SchemeBPW, s)
	}
	return cmp.Or(c.checkOrigin(), c.checkNumbers())
}

// checkOrigin checks that exactly one thing says which inputs matter.
func (c *Calibration) checkOrigin() error {
	origins := 0
	for _, given := range []bool{c.Imatrix != "", c.hasText(), c.Saved != ""} {
		if given {
			origins++
		}
	}
	switch {
	case origins == 0:
		return errors.New("settings for calibration, but neither an importance matrix nor text to calibrate with")
	case (c.Save != "" || c.SaveAll != "") && !c.hasText():
		return errors.New("there is something to save only after calibrating with text")
	case origins > 1:
		return errors.New("calibrate with an importance matrix, with text or with an earlier calibration, not with two of them")
	}
	return nil
}

func (c *Calibration) checkNumbers() error {
	switch {
	case c.Tokens < calibrationContext || c.Tokens > maxTextBytes:
		return fmt.Errorf("%d tokens for calibration, expected %d to %d", c.Tokens, calibrationContext, maxTextBytes)
	case !(c.Exponent >= 0 && c.Exponent <= 1):
		return fmt.Errorf("an exponent of %g, expected more than 0, up to 1", c.Exponent)
	case !(c.Damping >= 0 && c.Damping <= 100):
		return fmt.Errorf("a damping of %g, expected more than 0, up to 100", c.Damping)
	}
	return nil
}

// damping returns Damping or its default, once the name of the text is known.
func (c *Calibration) damping() float64 {
	switch {
	case c.Damping != 0:
		return c.Damping
	case c.name == ownText:
		return OwnDamping
	}
	return DefaultDamping
}

// exponent returns what the file's metadata says of Exponent.
func (c *Calibration) exponent() any {
	if c.Exponent == 0 {
		return []float64{columnExponent, sortedExponent}
	}
	return c.Exponent
}

// settings returns what the file's metadata says.
func (c *Calibration) settings() map[string]any {
	switch {
	case c.Imatrix != "":
		return map[string]any{"imatrix": filepath.Base(c.Imatrix), "exponent": c.exponent()}
	case c.hasText() || c.Saved != "":
		return map[string]any{"text": c.name, "tokens": c.used, "exponent": c.exponent(), "damping": c.damping(),
			"feedback": !c.NoFeedback, "sensitivity": !c.NoSensitivity}
	}
	return nil
}

// Gain is the estimated saving of calibration for the matrices that share an input, in bits per weight at equal output error (or
// in output error at equal bits, 6 dB a bit), if the rates are high.
type Gain struct {
	Weights  []string `json:"weights"`
	Columns  int      `json:"columns"`
	Diagonal float64  `json:"g_diag"` // by column steps: ½·log2(AM(S_jj)/GM(S_jj))
	Feedback float64  `json:"g_fb"`   // by error feedback: ½·log2(GM(S_jj)/GM(ℓ_jj²))
	Used     bool     `json:"used"`   // feedback was worth while
}

// sourceWeights is a source.Model as calibrate.Weights.
type sourceWeights struct {
	src   source.Model
	index map[string]int
}

func (s *sourceWeights) Rows(name string, r0, r1 int, dst []float32) error {
	i, ok := s.index[name]
	if !ok {
		return errors.New("the model lacks it")
	}
	if t := s.src.Tensors()[i]; r1 > t.Rows || len(dst) != (r1-r0)*t.Cols {
		return fmt.Errorf("has %d × %d weights, which does not fit the model's configuration", t.Rows, t.Cols)
	}
	return s.src.ReadRows(i, r0, r1, dst)
}

func (j *job) sourceWeights() *sourceWeights {
	w := &sourceWeights{src: j.src, index: map[string]int{}}
	for i, t := range j.src.Tensors() {
		w.index[t.Name] = i
	}
	return w
}

// calibrate runs the model over text, rescales the source's columns by what it sees, and prepares error feedback. dir is for
// temporary files.
func (j *job) calibrate(dir string) error {
	prog, err := j.program()
	if err != nil {
		return err
	}
	if j.factors, err = newFactors(dir); err != nil {
		return err
	}
	j.columns = map[string]float64{}
	j.fold = newFolding()
	j.seen = &imatrix.File{Matrices: map[string]*imatrix.Matrix{}, ChunkSize: calibrationContext}
	progress := func(done, total int64) { j.progress("calibrate", done, total) }
	if c := &j.opt.Calibration; c.Saved != "" {
		err = j.loadSaved(prog, progress)
	} else {
		err = j.runText(prog, progress)
	}
	if err != nil {
		return err
	}
	if err := j.factors.ready(); err != nil {
		return err
	}
	if j.sensitivity != nil {
		j.sensitivity.columns = j.columns
	}
	j.src = newFoldedSource(j.src, j.fold)
	if j.opt.Calibration.Save != "" {
		return imatrix.WriteOn(j.opt.disk(), j.opt.Calibration.Save, j.seen)
	}
	return nil
}

// runText runs the model over the text.
func (j *job) runText(prog *model.Program, progress func(done, total int64)) error {
	c := &j.opt.Calibration
	texts, err := j.texts()
	if err != nil {
		return err
	}
	j.seen.Datasets, j.seen.Chunks = []string{c.name}, len(texts)
	w := j.sourceWeights()
	visit := j.moments
	var save *momentsWriter
	if c.SaveAll != "" {
		if save, err = newMomentsWriter(j.opt.disk(), c.SaveAll, c.name); err != nil {
			return err
		}
		visit = func(in *model.Input, s []float32, tokens int) error {
			if err := save.add(in, s, tokens); err != nil {
				return fmt.Errorf("%s: %w", c.SaveAll, err)
			}
			return j.moments(in, s, tokens)
		}
	}
	err = calibrate.Run(j.ctx, prog, w, texts, minSamples, visit, progress)
	if err != nil {
		err = fmt.Errorf("calibration with %s: %w", c.name, err)
	}
	if err == nil && (!c.NoSensitivity || save != nil) {
		err = j.differentiate(prog, w, texts)
	}
	if save != nil {
		if j.sensitivity != nil {
			save.index.Sensitivity = j.sensitivity.Sensitivity
		}
		err = save.finish(err)
	}
	return err
}

// Derivatives are averages over rows or whole matrices: less text is enough.
const (
	sensitivityTexts   = 6
	sensitivityContext = 256
)

// differentiate finds the sensitivities with parts of some of the texts.
func (j *job) differentiate(prog *model.Program, w *sourceWeights, texts [][]int32) error {
	n := min(sensitivityTexts, len(texts))
	some := make([][]int32, n)
	for i := range some {
		some[i] = texts[i*len(texts)/n][:sensitivityContext]
	}
	s, err := calibrate.Differentiate(j.ctx, prog, w, some, func(done, total int64) { j.progress("differentiate", done, total) })
	if err != nil {
		return fmt.Errorf("calibration with %s: %w", j.opt.Calibration.name, err)
	}
	j.sensitivity = &sensitivity{Sensitivity: s}
	return nil
}

// loadSaved uses what an earlier run saved.
func (j *job) loadSaved(prog *model.Program, progress func(done, total int64)) error {
	c := &j.opt.Calibration
	f, index, err := openMoments(c.Saved, prog)
	if err != nil {
		return err
	}
	defer f.Close()
	c.name, c.used = index.Text, index.Tokens
	if index.Sensitivity != nil && !c.NoSensitivity {
		j.sensitivity = &sensitivity{Sensitivity: index.Sensitivity}
	}
	return readMoments(f, index, prog, j.moments, progress)
}

// moments receives the second moments of one input.
func (j *job) moments(in *model.Input, s []float32, tokens int) error {
	n, full := in.Width, len(s) > in.Width
	diag := make([]float64, n)
	mean := 0.0
	seen := &imatrix.Matrix{MeanSq: make([]float32, n), Count: float64(tokens)}
	for i := range diag {
		diag[i] = float64(s[calibrate.Diagonal(s, n, i)])
		mean += diag[i] / float64(n)
		seen.MeanSq[i] = float32(diag[i] / float64(tokens))
	}
	for _, w := range in.Weights {
		j.seen.Matrices[w] = seen
	}
	if mean == 0 {
		return nil
	}
	damp := 1 + j.opt.Calibration.damping()*(1+sparseness*float64(n)/float64(tokens))
	for i := range diag {
		diag[i] = max(diag[i], meanFloor*mean) * damp
		s[calibrate.Diagonal(s, n, i)] = float32(diag[i])
	}
	left := diag // of the columns' mean squares, by what feedback does
	g := Gain{Weights: in.Weights, Columns: n, Diagonal: (math.Log2(mean*damp) - meanLog2(diag)) / 2}
	if full {
		if err := linalg.Best().Cholesky(s, n); err != nil {
			return fmt.Errorf("the moments of the input of %s: %w (more text would help)", in.Weights[0], err)
		}
		l := make([]float64, n)
		for i := range l {
			l[i] = float64(s[i*n+i]) * float64(s[i*n+i])
		}
		g.Feedback = (meanLog2(diag) - meanLog2(l)) / 2
		if g.Used = !j.opt.Calibration.NoFeedback && g.Diagonal+g.Feedback >= minGain; g.Used {
			left = l
		}
	}
	j.gains = append(j.gains, g)
	d := j.foldColumns(in, left)
	for i := range left {
		if d != nil {
			left[i] *= float64(d[i]) * float64(d[i])
		}
	}
	for _, w := range in.Weights {
		j.columns[w] = average(left) / float64(tokens)
	}
	if !g.Used {
		return nil
	}
	f := &quant.Feedback{Cols: n}
	f.SetFactor(s, d)
	return j.factors.add(in.Weights, f)
}

// foldColumns rescales an input's columns by what is left of their mean squares, and returns the factors, or nil.
func (j *job) foldColumns(in *model.Input, left []float64) []float32 {
	if !rescalable(in) {
		return nil
	}
	logs := make([]float64, in.Width/in.Repeat)
	for i, x := range left {
		logs[in.Row(i)] += math.Log(x) / float64(in.Repeat)
	}
	j.fold.add(in, columnFactors(logs, j.exponent(in)))
	return j.fold.cols[in.Weights[0]]
}

func average(x []float64) (mean float64) {
	for _, v := range x {
		mean += v / float64(len(x))
	}
	return mean
}

func meanLog2(x []float64) (mean float64) {
	for _, v := range x {
		mean += math.Log2(v) / float64(len(x))
	}
	return mean
}
