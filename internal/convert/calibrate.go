package convert

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"unsafe"

	"github.com/edsrzf/mmap-go"

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

// factors is a temporary file of the factors of error feedback.
type factors struct {
	f    *os.File
	data mmap.MMap
	at   map[string][2]int64 // matrix → offset in the file and columns
	size int64
}

func newFactors(dir string) (*factors, error) {
	f, err := os.CreateTemp(dir, ".calibration*.tmp")
	if err != nil {
		return nil, err
	}
	return &factors{f: f, at: map[string][2]int64{}}, nil
}

// Close removes the file.
func (f *factors) Close() error {
	if f == nil {
		return nil
	}
	var err error
	if f.data != nil {
		err = f.data.Unmap()
	}
	return errors.Join(err, f.f.Close(), os.Remove(f.f.Name()))
}

// add writes a factor that the given matrices share.
func (f *factors) add(weights []string, x *quant.Feedback) error {
	b := make([]byte, 0, 1<<20)
	for i, v := range x.Factor {
		b = binary.NativeEndian.AppendUint32(b, math.Float32bits(v))
		if len(b)+4 > cap(b) || i == len(x.Factor)-1 {
			if _, err := f.f.Write(b); err != nil {
				return fmt.Errorf("cannot store what calibration found: %w", err)
			}
			b = b[:0]
		}
	}
	for _, w := range weights {
		f.at[w] = [2]int64{f.size, int64(x.Cols)}
	}
	f.size += 4 * int64(len(x.Factor))
	return nil
}

// get returns the factor of a matrix, or nil.
func (f *factors) get(weight string) (*quant.Feedback, error) {
	if f == nil {
		return nil, nil
	}
	at, ok := f.at[weight]
	if !ok {
		return nil, nil
	}
	if f.data == nil {
		var err error
		if f.data, err = mmap.Map(f.f, mmap.RDONLY, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", f.f.Name(), err)
		}
	}
	n := quant.FactorLen(int(at[1]))
	b := f.data[at[0] : at[0]+4*int64(n)]
	return &quant.Feedback{Cols: int(at[1]), Factor: unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), n)}, nil
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

// batch quantizes all rows of the matrix with error feedback, if it has any.
func (m *uniformMatrix) begin() error {
	f, err := m.factors.get(m.p.info.Name)
	if err != nil || f == nil {
		return err
	}
	rows, cols := m.p.info.Rows, m.p.info.Cols
	m.codes, m.gains = make([]int16, rows*cols), make([]float32, rows)
	batches := (rows + quant.FeedbackRows - 1) / quant.FeedbackRows
	workers := make(chan *quant.FeedbackScratch, batches)
	isa := linalg.Best()
	return m.each(batches, func(i int, s *scratch) error {
		var fs *quant.FeedbackScratch
		select {
		case fs = <-workers:
		default:
			fs = &quant.FeedbackScratch{}
		}
		defer func() { workers <- fs }()
		r0 := i * quant.FeedbackRows
		r1 := min(rows, r0+quant.FeedbackRows)
		w := grow(&s.floats, (r1-r0)*cols)
		if err := m.src.ReadRows(m.p.index, r0, r1, w); err != nil {
			return err
		}
		plain, steps := grow(&s.ints, cols), make([]float32, r1-r0)
		for r := r0; r < r1; r++ {
			steps[r-r0] = m.q.RowStep(&m.stats[r], cols)
			m.gains[r], _ = quant.Row(plain, w[(r-r0)*cols:(r-r0+1)*cols], steps[r-r0])
		}
		f.Rows(isa, m.codes[r0*cols:r1*cols], w, steps, m.gains[r0:r1], fs)
		return nil
	})
}

// end frees what begin made.
func (m *uniformMatrix) end() { m.codes, m.gains = nil, nil }

// fed copies rows that begin quantized.
func (m *uniformMatrix) fed(r0, r1 int, dst []int32, s *scratch, final bool) error {
	cols := m.p.info.Cols
	for i, q := range m.codes[r0*cols : r1*cols] {
		dst[i] = int32(q)
	}
	if !final {
		return nil
	}
	w := grow(&s.floats, len(dst))
	if err := m.src.ReadRows(m.p.index, r0, r1, w); err != nil {
		return err
	}
	for r := r0; r < r1; r++ {
		at := (r - r0) * cols
		for i, q := range dst[at : at+cols] {
			e := float64(w[at+i]) - float64(m.gains[r])*float64(q)
			m.p.noise[r] += e * e
		}
		m.setScale(r, m.gains[r])
	}
	return nil
}
