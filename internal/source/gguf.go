package source

import (
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// ggufSource is a Model over a GGUF file, or over the parts of one that was split.
type ggufSource struct {
	warnings []string
	f        *gguf.File   // the first, which has the metadata
	others   []*gguf.File // further parts
	config   *model.Config
	tensors  []TensorInfo // in the file's order
	places   []ggufPlace  // parallel to tensors
}

// ggufPlace is where a tensor's rows are: from row `first` on of a tensor of a file.
type ggufPlace struct {
	file   *gguf.File
	stored *gguf.Tensor
	first  int
	rows   int // of the stored tensor that are one of the model's; 0 = 1
}

func openGGUF(path string) (Model, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	s := &ggufSource{f: f}
	if err := s.load(); err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s *ggufSource) load() error {
	if err := s.openParts(); err != nil {
		return err
	}
	name, err := s.f.String("general.architecture")
	if err != nil {
		return err
	}
	if _, err := model.ArchByName(name); err != nil {
		return err
	}
	byName, err := s.storedTensors()
	if err != nil {
		return err
	}
	nVocab := 0
	if t := byName[model.TokenEmbd].stored; t != nil {
		nVocab = t.Rows()
	}
	if s.config, err = ggufConfig(&s.f.Metadata, name, nVocab); err != nil {
		return err
	}
	return s.mapTensors(byName)
}

// mapTensors finds the model's tensors in the files, and refuses missing, unknown and misshapen ones.
func (s *ggufSource) mapTensors(byName map[string]ggufPlace) error {
	c := s.config
	specs, err := model.Tensors(c, func(name string) bool { return byName[name].stored != nil })
	if err != nil {
		return err
	}
	parts := map[*gguf.Tensor][]TensorInfo{} // that a tensor of a file holds
	for i := range specs {
		spec := &specs[i]
		place := byName[spec.Name]
		info := TensorInfo{Name: spec.Name, Rows: spec.Rows, Cols: spec.Cols, Vector: spec.Vector()}
		if joined := byName[spec.Fused.Name]; joined.stored != nil && joined.stored.Rows() == spec.Fused.Rows {
			place, place.first = joined, spec.Fused.First
		}
		t := place.stored
		if t == nil {
			return fmt.Errorf("tensor %s is missing (architecture %s, %d layers)", spec.Name, c.Architecture, c.NLayers)
		}
		rows := t.Rows()
		if spec.Kernel > 0 {
			place.rows = rows
		}
		if rows == spec.Fused.Rows {
			rows = spec.Rows
		}
		if err := spec.Check(rows, t.Cols(), len(t.Dims) == 1); err != nil {
			return err
		}
		info.Type, info.Layout = t.Type.String(), t.Type.Layout()
		parts[t] = append(parts[t], info)
		s.places = append(s.places, place)
		s.tensors = append(s.tensors, info)
	}
	return s.inFileOrder(parts)
}

// inFileOrder sorts the model's tensors by where they are in the file, and refuses tensors of the file that hold none of them.
func (s *ggufSource) inFileOrder(parts map[*gguf.Tensor][]TensorInfo) error {
	byName := map[string]ggufPlace{}
	for i, p := range s.places {
		byName[s.tensors[i].Name] = p
	}
	s.tensors, s.places = nil, nil
	for _, f := range s.files() {
		for i := range f.Tensors {
			t := &f.Tensors[i]
			if leftOut(s.config, t.Name) {
				continue
			}
			if parts[t] == nil {
				return fmt.Errorf("tensor %s does not belong to a %s model of %d layers: a variant that this program does not know",
					t.Name, s.config.Architecture, s.config.NLayers)
			}
			for _, info := range parts[t] {
				s.tensors, s.places = append(s.tensors, info), append(s.places, byName[info.Name])
			}
		}
	}
	return nil
}

func (s *ggufSource) Path() string                   { return s.f.Path }
func (s *ggufSource) Tensors() []TensorInfo          { return s.tensors }
func (s *ggufSource) Config() (*model.Config, error) { c := *s.config; return &c, nil }

func (s *ggufSource) Tokenizer() (*tokenizer.Tokenizer, error) {
	s.warnings = nil
	v, err := readVocab(&s.f.Metadata, func(text string) { s.warnings = append(s.warnings, s.f.Path+": "+text) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.f.Path, err)
	}
	t, err := tokenizer.FromGGUF(v)
	return checkTokenizer(t, err, s.f.Path, s.config)
}

// Warnings implements Model.
func (s *ggufSource) Warnings() []string { return s.warnings }

// Ends implements Model.
func (s *ggufSource) Ends() ([]int32, error) {
	tok, err := s.Tokenizer()
	if err != nil {
		return nil, err
	}
	return furtherEnds(tok, ggufEnds(&s.f.Metadata)), nil
}

func (s *ggufSource) ChatTemplate() string {
	text, err := s.f.StringOr(keyChatTemplate, "")
	if err != nil {
		return "" // of another type: as good as none
	}
	return text
}

func (s *ggufSource) GGUFMetadata() ([]byte, error) {
	arch := s.config.Architecture
	m := s.f.Filter(func(key string) bool { return !isVocabulary(key) && !isSplit(key) && key != arch+keyPredict })
	if _, predicts := s.f.Get(arch + keyPredict); predicts && arch == "qwen35" { // these layers are left out
		m.Set(arch+".block_count", uint32(s.config.NLayers))
		m.Set(arch+keyRecurrent, recurrentLayers(s.config))
	}
	return m.Encode()
}

// rows calls use with the stored bytes of rows [r0, r1) of tensor i.
func (s *ggufSource) rows(i, r0, r1 int, use func(t gguf.Type, b []byte, n int) error) error {
	if i < 0 || i >= len(s.tensors) {
		return fmt.Errorf("%s: tensor %d of %d was asked for", s.f.Path, i, len(s.tensors))
	}
	p := &s.places[i]
	t := p.stored
	if r0 < 0 || r1 < r0 || r1 > s.tensors[i].Rows {
		return fmt.Errorf("%s: tensor %s has %d rows, [%d, %d) was asked for", s.f.Path, s.tensors[i].Name, s.tensors[i].Rows, r0, r1)
	}
	k := max(p.rows, 1)
	b, err := p.file.Rows(t, p.first+r0*k, p.first+r1*k)
	if err != nil {
		return err
	}
	defer p.file.Release(b)
	if err := p.file.Guard(func() error { return use(t.Type, b, (r1-r0)*k*t.Cols()) }); err != nil {
		return fmt.Errorf("%s: tensor %s, rows %d to %d: %w", p.file.Path, t.Name, r0, r1, err)
	}
	return nil
}

func (s *ggufSource) ReadRows(i, r0, r1 int, dst []float32) error {
	return s.rows(i, r0, r1, func(t gguf.Type, b []byte, n int) error {
		if len(dst) < n {
			return shortBuffer(len(dst), n)
		}
		return gguf.Dequantize(t, b, dst[:n])
	})
}

func (s *ggufSource) ReadBlocks(i, r0, r1 int, dst *Blocks) error {
	return s.rows(i, r0, r1, func(t gguf.Type, b []byte, n int) error { return gguf.Unpack(t, b, n, dst) })
}

func (s *ggufSource) ReadBits16(i, r0, r1 int, dst []uint16) error {
	return s.rows(i, r0, r1, func(t gguf.Type, b []byte, n int) error {
		if t != gguf.F16 && t != gguf.BF16 {
			return fmt.Errorf("type %s is not of 16 bits", t)
		}
		if len(dst) < n {
			return shortBuffer(len(dst), n)
		}
		bits16(b, dst)
		return nil
	})
}
