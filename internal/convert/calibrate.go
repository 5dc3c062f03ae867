package convert

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/imatrix"
	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// Calibration tells SchemeBPW which inputs of the matrices matter: from an importance matrix or by running the model over text. The zero
// value is none.
type Calibration struct {
	Imatrix    string  // file of llama-imatrix
	Text       string  // file of text, if there is no Imatrix. What the model is later judged by must not be in it
	Tokens     int     // how many tokens of Text are used; 0: DefaultTokens
	Exponent   float64 // a column's step goes with the inverse mean square of its input to this power; 0: DefaultExponent
	Damping    float64 // share by which mean squares are increased before error feedback; 0: DefaultDamping
	NoFeedback bool    // with Text: choose column steps only
	Save       string  // with Text: file for the importance matrix, in the form that Imatrix names
}

// Defaults of Calibration.
const (
	DefaultTokens   = 1 << 14
	DefaultExponent = 0.3
	DefaultDamping  = 0.05
)

const (
	calibrationContext = 512     // tokens that are read from an empty cache
	maxTextBytes       = 1 << 26 // of the text that are looked at
	minGain            = 0.1     // bits per weight for which error feedback is used
)

// check completes c.
func (c *Calibration) check(s Scheme) error {
	if *c == (Calibration{}) {
		return nil
	}
	if c.Tokens == 0 {
		c.Tokens = DefaultTokens
	}
	if c.Exponent == 0 {
		c.Exponent = DefaultExponent
	}
	if c.Damping == 0 {
		c.Damping = DefaultDamping
	}
	switch {
	case s != SchemeBPW:
		return fmt.Errorf("calibration goes with scheme %s only, not with %s", SchemeBPW, s)
	case c.Imatrix == "" && c.Text == "":
		return errors.New("settings for calibration, but neither an importance matrix nor text to calibrate with")
	case c.Save != "" && c.Text == "":
		return errors.New("there is an importance matrix to save only after calibrating with text")
	case c.Imatrix != "" && c.Text != "":
		return errors.New("calibrate with an importance matrix or with text, not with both")
	case c.Tokens < calibrationContext || c.Tokens > maxTextBytes:
		return fmt.Errorf("%d tokens for calibration, expected %d to %d", c.Tokens, calibrationContext, maxTextBytes)
	case !(c.Exponent > 0 && c.Exponent <= 1):
		return fmt.Errorf("an exponent of %g, expected more than 0, up to 1", c.Exponent)
	case !(c.Damping > 0 && c.Damping <= 100):
		return fmt.Errorf("a damping of %g, expected more than 0, up to 100", c.Damping)
	}
	return nil
}

// settings returns what the file's metadata says.
func (c *Calibration) settings() map[string]any {
	switch {
	case c.Imatrix != "":
		return map[string]any{"imatrix": filepath.Base(c.Imatrix), "exponent": c.Exponent}
	case c.Text != "":
		return map[string]any{"text": filepath.Base(c.Text), "tokens": c.Tokens, "exponent": c.Exponent, "damping": c.Damping, "feedback": !c.NoFeedback}
	}
	return nil
}

// Gain says what calibration can win for the matrices with one input, in bits per weight at equal output error (or in output error at equal bits,
// 6 dB a bit), if the rates are high.
type Gain struct {
	Weights  []string `json:"weights"`
	Columns  int      `json:"columns"`
	Diagonal float64  `json:"g_diag"` // by column steps: ½·log2(AM(S_jj)/GM(S_jj))
	Feedback float64  `json:"g_fb"`   // by error feedback: ½·log2(GM(S_jj)/GM(ℓ_jj²))
	Used     bool     `json:"used"`   // feedback was worth while
}

// sourceWeights is a Source as calibrate.Weights.
type sourceWeights struct {
	src   Source
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

// calibrate runs the model over text, rescales the source's columns by what it sees, and prepares error feedback. dir is for temporary files.
func (j *job) calibrate(dir string) error {
	texts, err := j.texts()
	if err != nil {
		return err
	}
	prog, err := j.program()
	if err != nil {
		return err
	}
	if j.factors, err = newFactors(dir); err != nil {
		return err
	}
	j.fold = &folding{cols: map[string][]float32{}, rows: map[string][]float32{}}
	j.seen = &imatrix.File{
		Matrices: map[string]*imatrix.Matrix{}, Datasets: []string{filepath.Base(j.opt.Calibration.Text)},
		Chunks: len(texts), ChunkSize: calibrationContext,
	}
	err = calibrate.Run(j.ctx, prog, j.sourceWeights(), texts, j.moments, func(done, total int64) { j.progress("calibrate", done, total) })
	if err != nil {
		return fmt.Errorf("calibration with %s: %w", j.opt.Calibration.Text, err)
	}
	j.src = newFoldedSource(j.src, j.fold)
	if j.opt.Calibration.Save != "" {
		return imatrix.Write(j.opt.Calibration.Save, j.seen)
	}
	return nil
}

// texts reads and splits the calibration text.
func (j *job) texts() ([][]int32, error) {
	f, err := os.Open(j.opt.Calibration.Text)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTextBytes))
	if err != nil {
		return nil, err
	}
	tok, err := j.src.Tokenizer()
	if err != nil {
		return nil, err
	}
	if tok == nil {
		return nil, errors.New("the model has no tokenizer, so that text cannot be used to calibrate it")
	}
	limit := j.opt.Calibration.Tokens
	if most := limit * 16; len(b) > most { // no tokenizer's tokens are longer on average
		b = b[:most]
	}
	ids := tok.Encode(string(b), false, false)
	ids = ids[:min(len(ids), limit)]
	if len(ids) < calibrationContext {
		return nil, fmt.Errorf("%s: has %d tokens, at least %d are needed (some 10000 of mixed text are a good amount)", j.opt.Calibration.Text, len(ids), calibrationContext)
	}
	var out [][]int32
	for ; len(ids) >= calibrationContext; ids = ids[calibrationContext:] {
		text := append([]int32{}, ids[:calibrationContext]...)
		if tok.AddBOS() {
			text[0] = tok.BOS()
		}
		out = append(out, text)
	}
	return out, nil
}

// moments receives the second moments of one input.
func (j *job) moments(in *model.Input, s []float32, tokens int) error {
	n := in.Width
	diag := make([]float64, n)
	mean := 0.0
	seen := &imatrix.Matrix{MeanSq: make([]float32, n), Count: float64(tokens)}
	for i := range diag {
		diag[i] = float64(s[i*n+i])
		mean += diag[i] / float64(n)
		seen.MeanSq[i] = float32(diag[i] / float64(tokens))
	}
	for _, w := range in.Weights {
		j.seen.Matrices[w] = seen
	}
	if mean == 0 {
		return nil
	}
	damp := j.opt.Calibration.Damping
	for i := range diag {
		diag[i] = max(diag[i], meanFloor*mean) * (1 + damp)
		s[i*n+i] = float32(diag[i])
	}
	if err := linalg.Best().Cholesky(s, n); err != nil {
		return fmt.Errorf("the moments of the input of %s: %w (more text would help)", in.Weights[0], err)
	}
	gm, gl := 0.0, 0.0
	steps := make([]float64, n/in.Repeat) // logarithms of what the columns' squared steps are the inverse of
	g := Gain{Weights: in.Weights, Columns: n}
	for i := range diag {
		gm += math.Log2(diag[i]) / float64(n)
		gl += 2 * math.Log2(float64(s[i*n+i])) / float64(n)
	}
	g.Diagonal, g.Feedback = (math.Log2(mean*(1+damp))-gm)/2, (gm-gl)/2
	g.Used = !j.opt.Calibration.NoFeedback && g.Diagonal+g.Feedback >= minGain
	for i := range diag {
		x := math.Log(diag[i])
		if g.Used {
			x = 2 * math.Log(float64(s[i*n+i]))
		}
		steps[in.Row(i)] += x / float64(in.Repeat)
	}
	j.gains = append(j.gains, g)
	var d []float32
	if len(in.Scaled) > 0 {
		j.fold.add(in, columnFactors(steps, j.opt.Calibration.Exponent))
		d = j.fold.cols[in.Weights[0]]
	}
	if !g.Used {
		return nil
	}
	f := &quant.Feedback{Cols: n}
	f.SetFactor(s, d)
	return j.factors.add(in.Weights, f)
}
