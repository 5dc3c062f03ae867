package convert

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/ellm-gpu/ellm-gpu/internal/calibrate"
	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/quant"
)

// Calibration text.
const (
	calibrationContext = 512     // tokens that are read from an empty cache
	maxTextBytes       = 1 << 26 // of the text that are looked at
)

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
	w := &sourceWeights{src: j.src, index: map[string]int{}}
	for i, t := range j.src.Tensors() {
		w.index[t.Name] = i
	}
	j.fold = &folding{cols: map[string][]float32{}, rows: map[string][]float32{}}
	err = calibrate.Run(j.ctx, prog, w, texts, j.moments, func(done, total int64) { j.progress("calibrate", done, total) })
	if err != nil {
		return fmt.Errorf("calibration with %s: %w", j.opt.Calibrate, err)
	}
	j.src = newFoldedSource(j.src, j.fold)
	return nil
}

// texts reads and splits the calibration text.
func (j *job) texts() ([][]int32, error) {
	f, err := os.Open(j.opt.Calibrate)
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
	limit := j.opt.CalibrateTokens
	if limit == 0 {
		limit = DefaultCalibrateTokens
	}
	if most := limit * 16; len(b) > most { // no tokenizer's tokens are longer on average
		b = b[:most]
	}
	ids := tok.Encode(string(b), false, false)
	ids = ids[:min(len(ids), limit)]
	if len(ids) < calibrationContext {
		return nil, fmt.Errorf("%s: has %d tokens, at least %d are needed (some 10000 of mixed text are a good amount)", j.opt.Calibrate, len(ids), calibrationContext)
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
	for i := range diag {
		diag[i] = float64(s[i*n+i])
		mean += diag[i] / float64(n)
	}
	if mean == 0 {
		return nil
	}
	damp := j.opt.Damping
	if damp == 0 {
		damp = DefaultDamping
	}
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
	g.Used = !j.opt.NoFeedback && g.Diagonal+g.Feedback >= minGain
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
		exponent := j.opt.Exponent
		if exponent == 0 {
			exponent = DefaultExponent
		}
		j.fold.add(in, columnFactors(steps, exponent))
		d = j.fold.cols[in.Weights[0]]
	}
	if !g.Used {
		return nil
	}
	f := &quant.Feedback{Cols: n}
	f.SetFactor(s, d)
	return j.factors.add(in.Weights, f)
}
