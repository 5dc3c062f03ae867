package convert

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/parallel"
	"github.com/ellm-gpu/ellm-gpu/internal/source"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// ggufMostlyF16 is general.file_type of a file whose matrices are F16.
const ggufMostlyF16 = uint32(1)

// Export writes the decoded model as a GGUF file: matrices as F16 (those that were coded as BF16 stay so), vectors as F32,
// metadata and tokenizer as they were. The file appears only when it is complete.
func Export(ctx context.Context, r *format.Reader, outPath string, progress Progress) error {
	m, err := exportMetadata(r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Path(), err)
	}
	exports, err := exportsOf(r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Path(), err)
	}
	tensors := make([]gguf.Tensor, len(exports))
	for i, e := range exports {
		tensors[i] = e.tensor()
	}
	w, err := gguf.Create(outPath, m, tensors)
	if err != nil {
		return err
	}
	defer w.Abort()
	v, err := newVisit(ctx, r, progress)
	if err != nil {
		return err
	}
	for i, e := range exports {
		for _, t := range e.parts {
			err := r.Guard(func() error {
				b, err := v.export(t, tensors[i].Type)
				if err != nil {
					return v.named(t, err)
				}
				_, err = w.Write(b) // of tensors that are not coded, b is in the input file
				return err
			})
			if err != nil {
				return err
			}
			r.Release(t)
		}
	}
	return w.Close()
}

// exported is a tensor of a GGUF file: the rows of one tensor of the container, or of several.
type exported struct {
	name  string
	parts []*format.Tensor
	rows  int // of a vector that is a matrix there; 0: as it is
}

func (e *exported) tensor() gguf.Tensor {
	rows := 0
	for _, t := range e.parts {
		rows += t.Rows
	}
	cols := e.parts[0].Cols
	if e.rows > 0 {
		rows, cols = e.rows, cols/e.rows
	}
	dims := []uint64{uint64(cols)}
	if rows > 1 {
		dims = append(dims, uint64(rows))
	}
	return gguf.Tensor{Name: e.name, Dims: dims, Type: exportType(e.parts[0])}
}

// exportsOf lists the tensors of the GGUF file. Architectures whose files join queries, keys and values get them joined again.
func exportsOf(r *format.Reader) (all []*exported, err error) {
	var cfg model.Config
	if err := json.Unmarshal(r.Meta().Config, &cfg); err != nil {
		return nil, fmt.Errorf("model configuration: %w", err)
	}
	fused, kernels := map[string]model.Fused{}, map[string]int{}
	if a, err := model.ArchByName(cfg.Architecture); err == nil && (a.Fused() || cfg.ConvKernel > 0) {
		specs, err := model.Tensors(&cfg, func(name string) bool { _, ok := r.Tensor(name); return ok })
		if err != nil {
			return nil, err
		}
		for _, s := range specs {
			if a.Fused() {
				fused[s.Name] = s.Fused
			}
			kernels[s.Name] = s.Kernel
		}
	}
	byName := map[string]*exported{}
	for _, t := range r.Tensors() {
		f := fused[t.Name]
		if f.Name == "" {
			e := &exported{name: t.Name, parts: []*format.Tensor{t}}
			if k := kernels[t.Name]; k > 0 {
				e.rows = t.Cols / k
			}
			all = append(all, e)
			continue
		}
		e := byName[f.Name]
		if e == nil {
			e = &exported{name: f.Name}
			byName[f.Name] = e
			all = append(all, e)
		}
		e.parts = append(e.parts, t)
		if exportType(t) != exportType(e.parts[0]) {
			return nil, fmt.Errorf("tensor %s is %s, but %s, which %s joins with it, is %s", t.Name, exportType(t), e.parts[0].Name,
				f.Name,
				exportType(e.parts[0]))
		}
	}
	for _, e := range byName {
		slices.SortFunc(e.parts, func(x, y *format.Tensor) int { return fused[x.Name].First - fused[y.Name].First })
	}
	return all, nil
}

func exportType(t *format.Tensor) gguf.Type {
	switch {
	case t.Coded != nil && t.Coded.Coding.Float == format.FloatBF16, t.Raw != nil && t.Raw.DType == format.BF16:
		return gguf.BF16
	case t.Coded != nil, t.Raw.DType == format.F16:
		return gguf.F16
	}
	return gguf.F32
}

// exportMetadata joins the source's metadata and the tokenizer.
func exportMetadata(r *format.Reader) (*gguf.Metadata, error) {
	kv, err := r.Section(format.KindGGUF)
	if err != nil {
		return nil, err
	}
	if kv == nil {
		return nil, fmt.Errorf("has no %s section: nothing tells another program how to read the model", format.KindGGUF)
	}
	m, err := gguf.DecodeMetadata(kv)
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", format.KindGGUF, err)
	}
	tok, err := r.Section(format.KindTokenizer)
	if err != nil {
		return nil, err
	}
	if tok != nil {
		t, err := tokenizer.Unmarshal(tok)
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", format.KindTokenizer, err)
		}
		vocab, err := t.GGUFVocab()
		if err != nil {
			return nil, err
		}
		source.SetVocabulary(m, vocab)
	}
	m.Set("general.file_type", ggufMostlyF16)
	return m, nil
}

// export decodes t to the bytes of a GGUF tensor.
func (v *visit) export(t *format.Tensor, to gguf.Type) ([]byte, error) {
	if err := v.r.Verify(t); err != nil {
		return nil, err
	}
	if t.Coded == nil { // the element types are the same
		v.count(int64(t.Rows) * int64(t.Cols))
		return t.Raw.Data, nil
	}
	d, err := codec.NewDecoder(t.Coded, v.r.Tables())
	if err != nil {
		return nil, err
	}
	c := t.Coded
	out := make([]byte, 2*c.Rows*c.Cols)
	err = parallel.Each(v.ctx, c.Groups(), func(g int, s *scratch) error {
		codes, w, err := d.Group(g, s.ints, s.floats)
		if err != nil {
			return err
		}
		s.ints, s.floats = codes, w
		for i := range c.GroupRows(g) {
			row := c.Row(g*c.Coding.RowsPerGroup + i)
			dst := out[2*row*c.Cols : 2*(row+1)*c.Cols]
			for k, x := range w[i*c.Cols : (i+1)*c.Cols] {
				bits := gguf.FloatToBF16(x)
				if to == gguf.F16 {
					if bits = gguf.FloatToF16(x); bits&0x7fff == 0x7c00 {
						return fmt.Errorf("row %d: %g does not fit F16 (up to 65504)", row, x)
					}
				}
				binary.LittleEndian.PutUint16(dst[2*k:], bits)
			}
		}
		v.count(int64(len(w)))
		return nil
	})
	return out, err
}
