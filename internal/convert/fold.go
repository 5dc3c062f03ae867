package convert

import (
	"fmt"
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/imatrix"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
)

// folding rescales columns of matrices so that one uniform grid suits them all, and undoes it: what produces a matrix's input
// (a norm, or the rows of another matrix) carries the factors, or the file has scales of the columns. The model computes the same
// function.
type folding struct {
	cols map[string][]float32 // matrix → factor d of each column; the matrix that is quantized is W·diag(1/d)
	rows map[string][]float32 // matrix or vector → factor of each row or element
	kept map[string][]float32 // those of cols that become column scales
}

func newFolding() *folding {
	return &folding{cols: map[string][]float32{}, rows: map[string][]float32{}, kept: map[string][]float32{}}
}

// rescalable tells whether an input's columns can be rescaled: something carries the factors, or there is only one matrix.
// (Column scales of several would need an input of their own each.)
func rescalable(in *model.Input) bool { return len(in.Scaled) > 0 || len(in.Weights) == 1 }

// Limits of a column's factor. A column that the text never excites must not become worthless.
const (
	minFactor = 1. / 8
	maxFactor = 8
	meanFloor = 1e-4 // of a mean square, relative to the columns' mean
)

// foldMeans chooses factors d = E[x²]^(−exponent) for every input whose activations are known and whose columns can be rescaled.
// meanSq returns the mean squares of a matrix's input, or nil.
func foldMeans(prog *model.Program, meanSq func(weight string) []float32, exponent func(in *model.Input) float64) *folding {
	f := newFolding()
	for _, in := range prog.Inputs() {
		if h := logMeans(&in, meanSq); h != nil && rescalable(&in) {
			f.add(&in, columnFactors(h, exponent(&in)))
		}
	}
	return f
}

// add rescales the input by factors per row of its producer.
func (f *folding) add(in *model.Input, perRow []float32) {
	cols := make([]float32, in.Width)
	for i := range cols {
		cols[i] = perRow[in.Row(i)]
	}
	for _, w := range in.Weights {
		f.cols[w] = cols
	}
	for _, s := range in.Scaled {
		f.rows[s] = perRow
	}
	if len(in.Scaled) == 0 {
		f.kept[in.Weights[0]] = cols
	}
}

// columnScales returns the scales that a matrix's columns have in the file, or nil.
func (f *folding) columnScales(name string) []float32 {
	if f == nil {
		return nil
	}
	return f.kept[name]
}

// row returns the factor of a row of a matrix.
func (f *folding) row(name string, r int) float32 {
	if f == nil || f.rows[name] == nil {
		return 1
	}
	return f.rows[name][r]
}

// logMeans returns ln E[x²] of the rows that produce the input, averaged over the elements of a row; nil if nothing is known.
func logMeans(in *model.Input, meanSq func(string) []float32) []float64 {
	out := make([]float64, in.Width/in.Repeat)
	n := 0
	for _, w := range in.Weights {
		h := meanSq(w)
		if h == nil {
			continue
		}
		n++
		logs := logarithms(h)
		if logs == nil {
			return nil
		}
		for i, x := range logs {
			out[in.Row(i)] += x / float64(in.Repeat)
		}
	}
	if n == 0 {
		return nil
	}
	for i := range out {
		out[i] /= float64(n)
	}
	return out
}

// logarithms returns ln E[x²], not too far below that of the mean; nil if all are 0.
func logarithms(meanSq []float32) []float64 {
	mean := 0.0
	for _, x := range meanSq {
		mean += float64(x) / float64(len(meanSq))
	}
	if mean == 0 {
		return nil
	}
	out := make([]float64, len(meanSq))
	for i, x := range meanSq {
		out[i] = math.Log(max(float64(x), meanFloor*mean))
	}
	return out
}

// ColumnFactors returns the factors of the steps of columns whose inputs have these mean squares: E[x²]^(−exponent), scaled to a
// geometric mean of 1 and clipped. Nil: all are 0.
func ColumnFactors(meanSq []float32, exponent float64) []float32 {
	if logs := logarithms(meanSq); logs != nil {
		return columnFactors(logs, exponent)
	}
	return nil
}

// columnFactors returns exp(−exponent·h), scaled to a geometric mean of 1 and clipped.
func columnFactors(h []float64, exponent float64) []float32 {
	mean := 0.0
	for _, x := range h {
		mean += x / float64(len(h))
	}
	d := make([]float32, len(h))
	for i, x := range h {
		d[i] = float32(min(max(math.Exp(exponent*(mean-x)), minFactor), maxFactor))
	}
	return d
}

// foldedSource is a source.Model whose matrices' columns and vectors are rescaled. Rows of matrices are left to the quantizer,
// which has scales for them.
type foldedSource struct {
	source.Model
	vector []([]float32) // per tensor: factors, or nil
	column []([]float32) // per tensor: 1/d, or nil
}

func newFoldedSource(src source.Model, f *folding) *foldedSource {
	infos := src.Tensors()
	s := &foldedSource{Model: src, vector: make([][]float32, len(infos)), column: make([][]float32, len(infos))}
	for i, t := range infos {
		if t.Vector {
			s.vector[i] = f.rows[t.Name]
		} else if d := f.cols[t.Name]; d != nil {
			s.column[i] = make([]float32, len(d))
			for c := range d {
				s.column[i][c] = 1 / d[c]
			}
		}
	}
	return s
}

// ReadRows implements Source.
func (s *foldedSource) ReadRows(i, r0, r1 int, dst []float32) error {
	if err := s.Model.ReadRows(i, r0, r1, dst); err != nil {
		return err
	}
	multiply(dst, s.column[i])
	multiply(dst, s.vector[i])
	return nil
}

// multiply multiplies every row of dst by v, element by element.
func multiply(dst, v []float32) {
	if v == nil {
		return
	}
	for ; len(dst) >= len(v); dst = dst[len(v):] {
		row := dst[:len(v)]
		for c := range row {
			row[c] *= v[c]
		}
	}
}

// program returns the forward pass of the source's model.
func (j *job) program() (*model.Program, error) {
	names := map[string]bool{}
	for _, t := range j.src.Tensors() {
		names[t.Name] = true
	}
	return model.Build(j.config, func(name string) bool { return names[name] })
}

// foldImatrix rescales the source by an importance matrix.
func (j *job) foldImatrix() error {
	path := j.opt.Calibration.Imatrix
	file, err := imatrix.Read(path)
	if err != nil {
		return err
	}
	prog, err := j.program()
	if err != nil {
		return err
	}
	used := 0
	for _, t := range j.src.Tensors() {
		m := file.Matrices[t.Name]
		if m == nil {
			continue
		}
		if len(m.MeanSq) != t.Cols {
			return fmt.Errorf("%s: %s has %d columns, but the model's has %d (made with another model?)", path, t.Name, len(m.MeanSq),
				t.Cols)
		}
		used++
	}
	if used == 0 {
		return fmt.Errorf("%s: knows none of the model's matrices (made with another model?)", path)
	}
	j.fold = foldMeans(prog, func(w string) []float32 {
		if m := file.Matrices[w]; m != nil {
			return m.MeanSq
		}
		return nil
	}, j.exponent)
	j.src = newFoldedSource(j.src, j.fold)
	return nil
}
