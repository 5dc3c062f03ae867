package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

const (
	maxTokenizerSize = 256 << 20
)

// hfSource is a Model over Hugging Face's files: config.json, tokenizer.json, tokenizer_config.json, safetensors.
type hfSource struct {
	warnings  []string
	path, dir string
	config    *model.Config
	weights   *safetensors.Model
	infos     []TensorInfo
	data      []hfTensor // parallel to infos
	template  string
	packing   *packing       // nil: the weights are not quantized
	last      unpackedMatrix // the packed tensor that was read last

	scaleBlock [2]int             // outputs and inputs that share a scale of 8-bit weights
	scales     map[string]*scales // by the names of the tensors that they belong to
}

// hfTensor is where a tensor's values come from.
type hfTensor struct {
	stored *safetensors.Tensor
	packed *packed   // instead of stored: a matrix of a GPTQ or AWQ checkpoint
	scales *scales   // of stored 8-bit weights
	values []float32 // instead of stored: a vector computed from the configuration
	first  int       // row of stored that is the tensor's first
	offset float32   // that is added to stored values
	decay  bool      // stored values are logarithms of the negatives
	tiled  model.Tiled
	head   int // > 0: rows (a vector's elements) belong to heads of this size, whose order for rotation changes
}

// openHF opens the model in dir; weights names its only safetensors file, or is empty.
func openHF(path, dir, weights string) (_ Model, err error) {
	h, c, divisors, err := readHFConfig(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, configName), err)
	}
	s := &hfSource{path: path, dir: dir, config: c}
	if s.template, err = readChatTemplate(dir); err != nil {
		return nil, err
	}
	if weights != "" {
		s.weights, err = safetensors.Open(weights)
	} else {
		s.weights, err = safetensors.OpenDir(dir)
	}
	if err != nil {
		return nil, explainMissingWeights(err, dir)
	}
	if s.packing, s.scaleBlock, err = readQuantization(dir, h.Quantization); err != nil {
		s.weights.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := s.mapTensors(h, divisors); err != nil {
		s.weights.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func explainMissingWeights(err error, dir string) error {
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, pattern := range []string{"*.bin", "*.pth", "*.pt"} {
		if files, _ := filepath.Glob(filepath.Join(dir, pattern)); len(files) > 0 {
			return fmt.Errorf("%w (%s is a PyTorch checkpoint, which is not supported: save the model as safetensors)", err, files[0])
		}
	}
	return err
}

// mapTensors finds the architecture's tensors in the files, and refuses what is left over.
func (s *hfSource) mapTensors(h *hfConfig, divisors map[string][]float32) error {
	arch, err := model.ArchByHFType(h.ModelType)
	if err != nil {
		return err
	}
	byName, err := s.tensorsByName(h.Tied)
	if err != nil {
		return err
	}
	specs, err := model.Tensors(s.config, func(name string) bool {
		if divisors[name] != nil {
			return true
		}
		if strings.HasSuffix(name, ".bias") && !h.hasBias(name) {
			return false
		}
		hf := arch.HFName(name)
		return byName[hf] != nil || byName[strings.TrimSuffix(hf, ".weight")+".qweight"] != nil
	})
	if err != nil {
		return err
	}
	for i := range specs {
		if err := s.mapTensor(&specs[i], byName, divisors[specs[i].Name]); err != nil {
			return err
		}
	}
	for _, spec := range specs {
		delete(byName, spec.HF)
		delete(byName, spec.Fused.HF)
	}
	for i := range s.weights.Tensors {
		if t := &s.weights.Tensors[i]; byName[textName(t.Name)] != nil {
			return fmt.Errorf("tensor %s does not belong to a %s model of %d layers: a variant that this program does not know",
				t.Name, arch.Name, s.config.NLayers)
		}
	}
	return nil
}

// tensorsByName returns the tensors that a model may use; tied: its output matrix is the embedding.
func (s *hfSource) tensorsByName(tied bool) (map[string]*safetensors.Tensor, error) {
	byName := map[string]*safetensors.Tensor{}
	for i := range s.weights.Tensors {
		t := &s.weights.Tensors[i]
		// old files store the rotation frequencies, which follow from config.json
		if !strings.HasSuffix(t.Name, ".rotary_emb.inv_freq") && !hasSuffix(t.Name, noWeights) && !notText(t.Name) {
			byName[textName(t.Name)] = t
		}
	}
	if tied {
		delete(byName, "lm_head.weight") // some files store the embedding twice
	} else if byName["lm_head.weight"] == nil && byName["lm_head.qweight"] == nil {
		return nil, errors.New("tensor lm_head.weight is missing and config.json does not say tie_word_embeddings")
	}
	return byName, nil
}

func hasSuffix(name string, suffixes []string) bool {
	return slices.ContainsFunc(suffixes, func(x string) bool { return strings.HasSuffix(name, x) })
}

// mapTensor finds what a tensor of the model is made of: one of byName, some rows of it, packed parts, or given values.
func (s *hfSource) mapTensor(spec *model.TensorSpec, byName map[string]*safetensors.Tensor, values []float32) (err error) {
	t := hfTensor{stored: byName[spec.HF], head: spec.HeadDim, offset: spec.Offset, values: values,
		decay: spec.Decay, tiled: spec.Tiled}
	if joined := byName[spec.Fused.HF]; joined != nil && t.stored == nil {
		t.stored, t.first = joined, spec.Fused.First
	}
	if s.packing != nil && !spec.Vector() {
		if t.packed, err = s.packing.takePacked(byName, strings.TrimSuffix(spec.HF, ".weight")); err != nil {
			return err
		}
	}
	if t.packed == nil && t.stored != nil && is8Bit(t.stored.DType) {
		if t.scales, err = s.takeScales(byName, t.stored); err != nil {
			return err
		}
	}
	if t.packed != nil && t.tiled.KeyHeads > 0 {
		return fmt.Errorf("tensor %s is quantized, and its heads are in another order here (convert an unquantized model)", spec.HF)
	}
	return s.addTensor(spec, t)
}

// hasBias tells whether the configuration says that the model has a bias which its architecture need not have.
func (h *hfConfig) hasBias(name string) bool {
	if strings.Contains(name, ".ffn_") {
		return h.MLPBias
	}
	return h.AttnBias
}

// addTensor appends a tensor after checking it.
func (s *hfSource) addTensor(spec *model.TensorSpec, t hfTensor) error {
	info := TensorInfo{Name: spec.Name, Rows: 1}
	switch {
	case t.values != nil:
		info.Vector, info.Cols, info.Type = true, len(t.values), gguf.F32.String()
	case t.packed != nil:
		info.Rows, info.Cols, info.Type = t.packed.rows, t.packed.cols, t.packed.name()
		if info.Layout = &t.packed.layout; t.packed.groupOf != nil {
			info.Layout, info.Type = nil, info.Type+", sorted inputs"
		}
	case t.stored != nil:
		if _, err := elementType(t.stored.DType); err != nil && t.scales == nil {
			return fmt.Errorf("tensor %s: %w", spec.HF, err)
		}
		info.Type = string(t.stored.DType) // GGUF has the same names
		switch shape := t.stored.Shape; len(shape) {
		case 1:
			info.Vector, info.Cols = true, shape[0]
		case 2:
			info.Rows, info.Cols = shape[0], shape[1]
			if t.stored.Name == spec.Fused.HF && shape[0] == spec.Fused.Rows {
				info.Rows = spec.Rows
			}
		case 3: // a convolution that has one input channel per output channel
			if spec.Kernel == 0 || shape[1] != 1 {
				return fmt.Errorf("tensor %s has shape %v, expected one or two dimensions", spec.HF, shape)
			}
			info.Rows, info.Cols = shape[0], shape[2]
		default:
			return fmt.Errorf("tensor %s has shape %v, expected up to three dimensions", spec.HF, shape)
		}
	default:
		return fmt.Errorf("tensor %s is missing (%d layers by config.json)", spec.HF, s.config.NLayers)
	}
	if t.offset != 0 || t.decay {
		info.Type = gguf.F32.String()
	}
	if err := spec.Check(info.Rows, info.Cols, info.Vector); err != nil {
		return fmt.Errorf("%s: %w", spec.HF, err)
	}
	if spec.Kernel > 0 {
		info.Rows, info.Cols, info.Vector = spec.Rows, spec.Cols, spec.Vector()
	}
	s.infos, s.data = append(s.infos, info), append(s.data, t)
	return nil
}

func elementType(d safetensors.DType) (gguf.Type, error) {
	switch d {
	case safetensors.F32:
		return gguf.F32, nil
	case safetensors.F16:
		return gguf.F16, nil
	case safetensors.BF16:
		return gguf.BF16, nil
	}
	return 0, fmt.Errorf("element type %s is not supported (supported: F32, F16, BF16)", d)
}

func (s *hfSource) Path() string                   { return s.path }
func (s *hfSource) Tensors() []TensorInfo          { return s.infos }
func (s *hfSource) Close() error                   { return s.weights.Close() }
func (s *hfSource) Config() (*model.Config, error) { c := *s.config; return &c, nil }
func (s *hfSource) ChatTemplate() string           { return s.template }

func (s *hfSource) GGUFMetadata() ([]byte, error) {
	m := configMetadata(s.config, s.template)
	ends, err := s.Ends()
	if err != nil {
		return nil, err
	}
	if len(ends) > 0 {
		m.Set(keyEnds, ends)
	}
	return m.Encode()
}

func (s *hfSource) Tokenizer() (*tokenizer.Tokenizer, error) {
	text, err := infile.ReadAll(filepath.Join(s.dir, "tokenizer.json"), maxTokenizerSize)
	read := tokenizer.FromHF
	if errors.Is(err, os.ErrNotExist) {
		piece, missing := infile.ReadAll(filepath.Join(s.dir, "tokenizer.model"), maxTokenizerSize)
		switch {
		case missing == nil:
			text, read, err = piece, tokenizer.FromSentencePiece, nil
		case errors.Is(missing, os.ErrNotExist):
			err = fmt.Errorf("%w, and there is no tokenizer.model beside it (save the tokenizer with the model)", err)
		default:
			err = missing
		}
	}
	if err != nil {
		return nil, err
	}
	config, err := readOptional(filepath.Join(s.dir, "tokenizer_config.json"))
	if err != nil {
		return nil, err
	}
	if config, err = s.withSpecials(config); err != nil {
		return nil, err
	}
	t, err := read(text, config)
	return checkTokenizer(t, err, s.dir, s.config)
}

// readOptional returns nil for a file that does not exist.
func readOptional(path string) ([]byte, error) {
	b, err := infile.ReadAll(path, maxConfigSize)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// readChatTemplate reads chat_template.jinja, or the template in tokenizer_config.json: a string, or a list of which
// the one named "default" counts. Without any it returns "".
func readChatTemplate(dir string) (string, error) {
	b, err := readOptional(filepath.Join(dir, "chat_template.jinja"))
	if err != nil || b != nil {
		return string(b), err
	}
	path := filepath.Join(dir, "tokenizer_config.json")
	if b, err = readOptional(path); err != nil || b == nil {
		return "", err
	}
	var c struct {
		Template json.RawMessage `json:"chat_template"`
	}
	if err := infile.DecodeJSON(b, &c); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if len(c.Template) == 0 || c.Template[0] != '[' {
		var text string
		if len(c.Template) > 0 {
			err = json.Unmarshal(c.Template, &text)
		}
		return text, err
	}
	var list []struct{ Name, Template string }
	if err := json.Unmarshal(c.Template, &list); err != nil {
		return "", fmt.Errorf("%s: chat_template: %w", path, err)
	}
	for _, t := range list {
		if t.Name == "default" {
			return t.Template, nil
		}
	}
	return "", nil
}
