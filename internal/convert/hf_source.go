package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
	"github.com/ellm-gpu/ellm-gpu/internal/safetensors"
	"github.com/ellm-gpu/ellm-gpu/internal/tokenizer"
)

const (
	maxTokenizerSize = 256 << 20
)

// hfSource is a Source over Hugging Face's files: config.json, tokenizer.json, tokenizer_config.json, safetensors.
type hfSource struct {
	path, dir string
	config    *model.Config
	weights   *safetensors.Model
	infos     []TensorInfo
	data      []hfTensor // parallel to infos
	template  string
	packing   *packing       // nil: the weights are not quantized
	last      unpackedMatrix // the packed tensor that was read last
}

// hfTensor is where a tensor's values come from.
type hfTensor struct {
	stored *safetensors.Tensor
	packed *packed   // instead of stored: a matrix of a GPTQ or AWQ checkpoint
	values []float32 // instead of stored: a vector computed from the configuration
	head   int       // > 0: rows (a vector's elements) belong to heads of this size, whose order for rotation changes
}

// openHF opens the model in dir; weights names its only safetensors file, or is empty.
func openHF(path, dir, weights string) (_ Source, err error) {
	h, c, freqs, err := readHFConfig(dir)
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
	if s.packing, err = readPacking(dir, h.Quantization); err != nil {
		s.weights.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := s.mapTensors(h, freqs); err != nil {
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
func (s *hfSource) mapTensors(h *hfConfig, freqs []float32) error {
	arch, err := architectureOf(func(a *architecture) bool { return a.hfType == h.ModelType }, h.ModelType)
	if err != nil {
		return err
	}
	byName := map[string]*safetensors.Tensor{}
	for i := range s.weights.Tensors {
		t := &s.weights.Tensors[i]
		if !strings.HasSuffix(t.Name, ".rotary_emb.inv_freq") { // old files store the rotation frequencies, which follow from config.json
			byName[t.Name] = t
		}
	}
	if h.Tied {
		delete(byName, "lm_head.weight") // some files store the embedding twice
	} else if byName["lm_head.weight"] == nil && byName["lm_head.qweight"] == nil {
		return errors.New("tensor lm_head.weight is missing and config.json does not say tie_word_embeddings")
	}
	for _, r := range arch.tensors(s.config) {
		t := hfTensor{stored: byName[r.hf]}
		delete(byName, r.hf)
		if s.packing != nil && r.rows != nil {
			if t.packed, err = s.packing.takePacked(byName, strings.TrimSuffix(r.hf, ".weight")); err != nil {
				return err
			}
		}
		if r.gguf == ropeFreqs {
			t.values = freqs
		}
		if r.rotated && arch.permuteQK {
			t.head = s.config.HeadDim
		}
		if err := s.addTensor(&r, t); err != nil {
			return err
		}
	}
	for i := range s.weights.Tensors {
		if t := &s.weights.Tensors[i]; byName[t.Name] != nil {
			return fmt.Errorf("tensor %s does not belong to a %s model of %d layers: a variant that this program does not know", t.Name, arch.name, s.config.NLayers)
		}
	}
	return nil
}

// addTensor appends a tensor after checking it; an optional one that is not there is left out.
func (s *hfSource) addTensor(r *rule, t hfTensor) error {
	info := TensorInfo{Name: r.gguf, Rows: 1}
	switch {
	case t.values != nil:
		info.Vector, info.Cols, info.Type = true, len(t.values), gguf.F32.String()
	case t.packed != nil:
		info.Rows, info.Cols, info.Type, info.Layout = t.packed.rows, t.packed.cols, t.packed.name(), &t.packed.layout
	case t.stored != nil:
		kind, err := elementType(t.stored.DType)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", r.hf, err)
		}
		info.Type = kind.String()
		switch shape := t.stored.Shape; len(shape) {
		case 1:
			info.Vector, info.Cols = true, shape[0]
		case 2:
			info.Rows, info.Cols = shape[0], shape[1]
		default:
			return fmt.Errorf("tensor %s has shape %v, expected one or two dimensions", r.hf, shape)
		}
	case r.optional:
		return nil
	default:
		return fmt.Errorf("tensor %s is missing (%d layers by config.json)", r.hf, s.config.NLayers)
	}
	if err := r.check(s.config, info); err != nil {
		return fmt.Errorf("%s: %w", r.hf, err)
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
	return configMetadata(s.config, s.template).Encode()
}

func (s *hfSource) Tokenizer() (*tokenizer.Tokenizer, error) {
	text, err := readLimited(filepath.Join(s.dir, "tokenizer.json"), maxTokenizerSize)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (a tokenizer.model alone is not supported: save the tokenizer in its \"fast\" form)", err)
	}
	if err != nil {
		return nil, err
	}
	config, err := readOptional(filepath.Join(s.dir, "tokenizer_config.json"))
	if err != nil {
		return nil, err
	}
	t, err := tokenizer.FromHF(text, config)
	return checkTokenizer(t, err, s.dir, s.config)
}

// readOptional returns nil for a file that does not exist.
func readOptional(path string) ([]byte, error) {
	b, err := readLimited(path, maxConfigSize)
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
	if err := json.Unmarshal(b, &c); err != nil {
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
