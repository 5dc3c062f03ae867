package source

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
)

// Adapter names a LoRA adapter: a directory as PEFT saves it, and a factor for what it adds (1: as it was trained).
type Adapter struct {
	Dir   string
	Scale float64
}

// adaptedModel is a model with adapters merged into its weights, in their order.
type adaptedModel struct {
	Model
	adapters []*adapter
	infos    []TensorInfo
	specs    []model.TensorSpec // what the architecture says of each tensor, parallel to infos
	uses     [][]loraUse        // parallel to infos
	last     factors            // those that were read last
}

// loraUse is a module of an adapter that changes a tensor.
type loraUse struct {
	*loraModule
	whole  *safetensors.Tensor // replaces the tensor; nil: none
	first  int                 // row of the module's matrix that is the tensor's first
	head   int                 // > 0: the tensor's rows are reordered within heads of this size
	offset float32             // what the adapter's vectors lack
}

// Adapt returns m with adapters merged into its weights in float32. Closing it closes m. On errors m stays open.
func Adapt(m Model, adapters []Adapter) (_ Model, err error) {
	s, err := newAdapted(m)
	if err != nil {
		return nil, err
	}
	for _, a := range adapters {
		x, err := openAdapter(a.Dir, a.Scale)
		if err == nil {
			err = s.add(x)
		}
		if err != nil {
			_ = s.closeAdapters()
			return nil, err
		}
	}
	return s, nil
}

// newAdapted returns m without adapters.
func newAdapted(m Model) (*adaptedModel, error) {
	s := &adaptedModel{Model: m, infos: slices.Clone(m.Tensors())}
	s.uses = make([][]loraUse, len(s.infos))
	var err error
	s.specs, err = s.specsOf()
	return s, err
}

// add merges a further adapter, which s closes from then on, also after an error.
func (s *adaptedModel) add(x *adapter) error {
	s.adapters = append(s.adapters, x)
	if err := s.use(x); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(x.dir, adapterWeights), err)
	}
	return nil
}

// specsOf returns what the architecture says of each tensor, parallel to infos.
func (s *adaptedModel) specsOf() ([]model.TensorSpec, error) {
	c, err := s.Config()
	if err != nil {
		return nil, err
	}
	list, err := model.Tensors(c, func(name string) bool {
		return slices.ContainsFunc(s.infos, func(t TensorInfo) bool { return t.Name == name })
	})
	if err != nil {
		return nil, err
	}
	byName := map[string]model.TensorSpec{}
	for _, spec := range list {
		byName[spec.Name] = spec
	}
	specs := make([]model.TensorSpec, len(s.infos))
	for i, t := range s.infos {
		specs[i] = byName[t.Name]
	}
	return specs, nil
}

// use finds the tensors that the adapter's modules change. All modules must change some.
func (s *adaptedModel) use(x *adapter) error {
	used := map[*safetensors.Tensor]bool{}
	for i := range s.specs {
		spec, info := &s.specs[i], &s.infos[i]
		name, isBias := strings.CutSuffix(spec.HF, ".bias")
		u := loraUse{loraModule: x.modules[strings.TrimSuffix(name, ".weight")], head: spec.HeadDim, offset: spec.Offset}
		rows := info.Rows
		if joined := x.modules[strings.TrimSuffix(spec.Fused.HF, ".weight")]; u.loraModule == nil && joined != nil {
			u.loraModule, u.first, rows = joined, spec.Fused.First, spec.Fused.Rows
		}
		if u.loraModule == nil || isBias && u.bias == nil || !isBias && u.weight == nil && u.a == nil {
			continue
		}
		if spec.Tiled.KeyHeads > 0 || spec.Decay || spec.Kernel > 0 {
			return fmt.Errorf("the adapter changes %s, whose parts are in another order here, which is not supported (merge it with PEFT "+
				"before)", spec.HF)
		}
		if u.whole = u.weight; isBias {
			u.whole = u.bias
		}
		if err := s.checkUse(&u, spec.Name, rows, info); err != nil {
			return err
		}
		s.uses[i] = append(s.uses[i], u)
		info.Type, info.Layout = gguf.F32.String(), nil
		used[u.whole] = true
		if !isBias {
			used[u.a] = true
		}
	}
	for _, m := range x.modules {
		for _, t := range []*safetensors.Tensor{m.a, m.weight, m.bias} {
			if t != nil && !used[t] {
				return fmt.Errorf("tensor %s does not belong to this model: was the adapter trained for another one?", t.Name)
			}
		}
	}
	return nil
}

// checkUse checks that a module fits a tensor, which is all or some rows of a matrix of `rows` rows, or a vector.
func (s *adaptedModel) checkUse(u *loraUse, name string, rows int, info *TensorInfo) error {
	outside, shape := name == model.TokenEmbd, []int{rows, info.Cols}
	if info.Vector {
		shape = shape[1:]
	}
	if u.whole != nil && !slices.Equal(u.whole.Shape, shape) {
		return fmt.Errorf("tensor %s has shape %v, the model's %v: was the adapter trained for another model, or with further tokens?",
			u.whole.Name, u.whole.Shape, shape)
	}
	if outside && !slices.ContainsFunc(s.infos, func(t TensorInfo) bool { return t.Name == model.Output }) {
		return fmt.Errorf("module %s: the model's output matrix is its embedding, which the adapter changes for one of the two uses "+
			"only (merge it with PEFT's merge_and_unload, and compress the result)", u.name)
	}
	if u.a == nil || info.Vector && u.whole == u.bias && u.whole != nil {
		return nil
	}
	a, b := u.a.Shape[1], u.b.Shape[0]
	if u.embedding {
		a, b = b, a
	}
	switch {
	case u.embedding != outside:
		return fmt.Errorf("module %s: expected lora_embedding_A and lora_embedding_B for the embedding, lora_A and lora_B for other "+
			"matrices", u.name)
	case info.Vector || a != info.Cols || b != rows:
		return fmt.Errorf("module %s is for a matrix of %d × %d, the model's has shape %v: was the adapter trained for another model?",
			u.name, b, a, shape)
	case u.magnitude != nil && u.magnitude.Size != int64(rows*u.magnitude.DType.Size()):
		return fmt.Errorf("tensor %s has shape %v, expected %d magnitudes", u.magnitude.Name, u.magnitude.Shape, rows)
	}
	return nil
}

func (s *adaptedModel) Tensors() []TensorInfo { return s.infos }

func (s *adaptedModel) closeAdapters() error {
	var errs []error
	for _, a := range s.adapters {
		errs = append(errs, a.weights.Close())
	}
	return errors.Join(errs...)
}

func (s *adaptedModel) Close() error { return errors.Join(s.closeAdapters(), s.Model.Close()) }

// factors are the values of the modules of the tensor that was read last.
type factors struct {
	mu    sync.Mutex
	index int
	list  []factor
}

// factor is B·A as left × right: left has a row of rank values for every row of the module's matrix, right a row of columns for
// every value.
type factor struct {
	left, right, magnitude []float32
}

// factorsOf returns the values of the modules of tensor i. The result is shared and never changed.
func (s *adaptedModel) factorsOf(i int) ([]factor, error) {
	f := &s.last
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list != nil && f.index == i {
		return f.list, nil
	}
	f.list = nil // before there are two
	list := make([]factor, len(s.uses[i]))
	for k, u := range s.uses[i] {
		var err error
		if u.a == nil || s.infos[i].Vector {
			continue
		}
		if list[k], err = u.read(); err != nil {
			return nil, err
		}
	}
	f.index, f.list = i, list
	return list, nil
}

func (u *loraUse) read() (f factor, err error) {
	left, right := u.b, u.a
	if u.embedding {
		left, right = u.a, u.b
	}
	if f.left, err = readFloats(left); err != nil {
		return f, err
	}
	if f.right, err = readFloats(right); err != nil {
		return f, err
	}
	if u.embedding {
		f.left, f.right = transposed(f.left, u.rank), transposed(f.right, right.Shape[0])
	}
	if u.magnitude != nil {
		f.magnitude, err = readFloats(u.magnitude)
	}
	return f, err
}

// transposed returns the transposition of a matrix of some rows.
func transposed(x []float32, rows int) []float32 {
	out, cols := make([]float32, len(x)), len(x)/max(rows, 1)
	for r := range rows {
		for c := range cols {
			out[c*rows+r] = x[r*cols+c]
		}
	}
	return out
}

// adapted says whether adapters change tensor i.
func (s *adaptedModel) adapted(i int) bool { return i >= 0 && i < len(s.uses) && len(s.uses[i]) > 0 }

func (s *adaptedModel) ReadRows(i, r0, r1 int, dst []float32) error {
	if err := s.Model.ReadRows(i, r0, r1, dst); err != nil || !s.adapted(i) {
		return err
	}
	list, err := s.factorsOf(i)
	if err != nil {
		return fmt.Errorf("%s: %w", s.infos[i].Name, err)
	}
	cols := s.infos[i].Cols
	sum := make([]float32, cols)
	for k, f := range list {
		u := &s.uses[i][k]
		for r := r0; r < r1; r++ {
			row := dst[(r-r0)*cols:][:cols]
			if u.whole != nil {
				if err := u.replace(s.infos[i].Vector, r, row); err != nil {
					return fmt.Errorf("%s: %w", s.infos[i].Name, err)
				}
			}
			if f.left != nil {
				if err := u.merge(f, u.first+storedRow(r, u.head), sum, row); err != nil {
					return fmt.Errorf("%s: %w", s.infos[i].Name, err)
				}
			}
		}
	}
	return nil
}

// replace reads row r of a tensor that replaces the model's.
func (u *loraUse) replace(vector bool, r int, row []float32) error {
	t := u.whole
	b, at := make([]byte, len(row)*t.DType.Size()), u.first+storedRow(r, u.head)
	if vector {
		at = 0
	}
	if err := t.ReadAt(b, int64(at)*int64(len(b))); err != nil {
		return err
	}
	if err := dequantize(t.DType, b, row); err != nil {
		return err
	}
	if vector && u.head > 0 {
		stored := slices.Clone(row)
		for c := range row {
			row[c] = stored[storedRow(c, u.head)]
		}
	}
	for c := range row {
		row[c] += u.offset
	}
	return nil
}

// merge adds row r of scale·left·right to a row of weights; sum is scratch.
func (u *loraUse) merge(f factor, r int, sum, row []float32) error {
	clear(sum)
	for k, x := range f.left[r*u.rank:][:u.rank] {
		for c, y := range f.right[k*len(row):][:len(row)] {
			sum[c] += float32(x * y)
		}
	}
	square := 0.0
	for c, d := range sum {
		row[c] += float32(u.scale * d)
		square += float64(row[c]) * float64(row[c])
	}
	if f.magnitude == nil || square == 0 && f.magnitude[r] == 0 { // a row of zeros that keeps its length is one
		return nil
	}
	factor := f.magnitude[r] / float32(math.Sqrt(square))
	if square == 0 || math.IsInf(square, 0) || factor-factor != 0 {
		return fmt.Errorf("tensor %s: row %d of the matrix has the length %g and is to have %g: expected finite numbers, and no "+
			"length for a row of zeros", u.magnitude.Name, r, math.Sqrt(square), f.magnitude[r])
	}
	for c := range row {
		row[c] *= factor
	}
	return nil
}

func (s *adaptedModel) ReadBlocks(i, r0, r1 int, dst *Blocks) error {
	if s.adapted(i) {
		return fmt.Errorf("%s: tensor %s is merged with an adapter and not block-quantized", s.Path(), s.infos[i].Name)
	}
	return s.Model.ReadBlocks(i, r0, r1, dst)
}

func (s *adaptedModel) ReadBits16(i, r0, r1 int, dst []uint16) error {
	if s.adapted(i) {
		return fmt.Errorf("%s: tensor %s is merged with an adapter and not of 16 bits", s.Path(), s.infos[i].Name)
	}
	return s.Model.ReadBits16(i, r0, r1, dst)
}
