package convert

import (
	"errors"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

// ggufSource is a Source over a GGUF file.
type ggufSource struct {
	f       *gguf.File
	config  *model.Config
	tensors []TensorInfo // in the file's order
}

func openGGUF(path string) (Source, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	s := &ggufSource{f: f}
	if err := s.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (s *ggufSource) load() error {
	if n, err := s.f.IntOr("split.count", 1); err != nil || n > 1 {
		return errors.Join(err, errors.New("is one of several parts, which is not supported (join them: llama-gguf-split --merge FIRST-PART OUT.gguf)"))
	}
	name, err := s.f.String("general.architecture")
	if err != nil {
		return err
	}
	arch, err := architectureOf(func(a *architecture) bool { return a.name == name }, fmt.Sprintf("architecture %q", name))
	if err != nil {
		return err
	}
	byName := map[string]TensorInfo{}
	for i := range s.f.Tensors {
		t := &s.f.Tensors[i]
		info := TensorInfo{Name: t.Name, Rows: t.Rows(), Cols: t.Cols(), Vector: len(t.Dims) == 1, Type: t.Type.String(), Layout: t.Type.Layout()}
		s.tensors = append(s.tensors, info)
		byName[t.Name] = info
	}
	if s.config, err = ggufConfig(&s.f.Metadata, name, byName[tokenEmbd].Rows); err != nil {
		return err
	}
	return s.checkTensors(arch, byName)
}

// checkTensors refuses missing, unknown and misshapen tensors.
func (s *ggufSource) checkTensors(arch *architecture, byName map[string]TensorInfo) error {
	for _, r := range arch.tensors(s.config) {
		info, ok := byName[r.gguf]
		if !ok && !r.optional {
			return fmt.Errorf("tensor %s is missing (architecture %s, %d layers)", r.gguf, arch.name, s.config.NLayers)
		}
		if ok {
			if err := r.check(s.config, info); err != nil {
				return err
			}
		}
		delete(byName, r.gguf)
	}
	for _, info := range s.tensors { // in file order, so that the message does not change from run to run
		if _, unknown := byName[info.Name]; unknown {
			return fmt.Errorf("tensor %s does not belong to a %s model of %d layers: a variant that this program does not know", info.Name, arch.name, s.config.NLayers)
		}
	}
	return nil
}

// ggufConfig reads the hyperparameters. nVocab is the number of rows of the embedding.
func ggufConfig(m *gguf.Metadata, arch string, nVocab int) (*model.Config, error) {
	c := &model.Config{Architecture: arch, NVocab: nVocab}
	var errs []error
	integer := func(to *int, key string) {
		var err error
		*to, err = m.Int(arch + "." + key)
		errs = append(errs, err)
	}
	integerOr := func(key string, def int) int {
		n, err := m.IntOr(arch+"."+key, def)
		errs = append(errs, err)
		return n
	}
	float := func(to *float32, key string, def *float64) {
		x, err := m.Float(arch + "." + key)
		if def != nil && errors.Is(err, gguf.ErrMissing) {
			x, err = *def, nil
		}
		*to = float32(x)
		errs = append(errs, err)
	}
	var err error
	c.Name, err = m.StringOr("general.name", "")
	errs = append(errs, err)
	integer(&c.NEmbd, "embedding_length")
	integer(&c.NLayers, "block_count")
	integer(&c.NHeads, "attention.head_count")
	integer(&c.NFF, "feed_forward_length")
	integer(&c.NCtx, "context_length")
	c.NKVHeads = integerOr("attention.head_count_kv", c.NHeads)
	c.HeadDim = integerOr("attention.key_length", c.NEmbd/max(c.NHeads, 1))
	if n := integerOr("attention.value_length", c.HeadDim); n != c.HeadDim {
		errs = append(errs, fmt.Errorf("%s.attention.value_length is %d, expected the same as key_length (%d)", arch, n, c.HeadDim))
	}
	c.RopeDim = integerOr("rope.dimension_count", c.HeadDim)
	if n := integerOr("expert_count", 0); n > 0 {
		errs = append(errs, fmt.Errorf("%s.expert_count is %d: mixtures of experts are not supported", arch, n))
	}
	ropeBase := 10000.0
	float(&c.NormEps, "attention.layer_norm_rms_epsilon", nil)
	float(&c.RopeBase, "rope.freq_base", &ropeBase)
	c.RopeScale, err = ggufRopeScale(m, arch)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return c, c.Validate()
}

// ggufRopeScale returns the factor of linear position scaling, 0 for none.
func ggufRopeScale(m *gguf.Metadata, arch string) (float32, error) {
	old, err := m.FloatOr(arch+".rope.scale_linear", 0) // before rope.scaling.* existed
	if err != nil {
		return 0, err
	}
	factor, err := m.FloatOr(arch+".rope.scaling.factor", old)
	if err != nil {
		return 0, err
	}
	switch kind, err := m.StringOr(arch+".rope.scaling.type", "linear"); {
	case err != nil:
		return 0, err
	case kind == "linear":
		return float32(factor), nil
	case kind == "none":
		return 0, nil
	default:
		return 0, fmt.Errorf("%s.rope.scaling.type %q is not supported (supported: none, linear)", arch, kind)
	}
}

func (s *ggufSource) Path() string                   { return s.f.Path }
func (s *ggufSource) Tensors() []TensorInfo          { return s.tensors }
func (s *ggufSource) Close() error                   { return s.f.Close() }
func (s *ggufSource) Config() (*model.Config, error) { c := *s.config; return &c, nil }

func (s *ggufSource) Tokenizer() (*tokenizer.Tokenizer, error) {
	v, err := readVocab(&s.f.Metadata)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.f.Path, err)
	}
	t, err := tokenizer.FromGGUF(v)
	return checkTokenizer(t, err, s.f.Path, s.config)
}

func (s *ggufSource) ChatTemplate() string {
	text, err := s.f.StringOr(keyChatTemplate, "")
	if err != nil {
		return "" // of another type: as good as none
	}
	return text
}

func (s *ggufSource) GGUFMetadata() ([]byte, error) {
	return s.f.Filter(func(key string) bool { return !isVocabulary(key) }).Encode()
}

// rows calls use with the stored bytes of rows [r0, r1) of tensor i.
func (s *ggufSource) rows(i, r0, r1 int, use func(t gguf.Type, b []byte, n int) error) error {
	if i < 0 || i >= len(s.tensors) {
		return fmt.Errorf("%s: tensor %d of %d was asked for", s.f.Path, i, len(s.tensors))
	}
	t := &s.f.Tensors[i]
	b, err := s.f.Rows(t, r0, r1)
	if err != nil {
		return err
	}
	defer s.f.Release(b)
	if err := use(t.Type, b, (r1-r0)*t.Cols()); err != nil {
		return fmt.Errorf("%s: tensor %s, rows %d to %d: %w", s.f.Path, t.Name, r0, r1, err)
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
