package convert

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"

	"github.com/ellm-gpu/ellm-gpu/internal/gguf"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

const (
	configName    = "config.json"
	maxConfigSize = 16 << 20
)

// hfConfig is the part of config.json that decides the forward pass.
type hfConfig struct {
	ModelType        string          `json:"model_type"`
	NameOrPath       string          `json:"_name_or_path"`
	VocabSize        int             `json:"vocab_size"`
	HiddenSize       int             `json:"hidden_size"`
	IntermediateSize int             `json:"intermediate_size"`
	Layers           int             `json:"num_hidden_layers"`
	Heads            int             `json:"num_attention_heads"`
	KVHeads          int             `json:"num_key_value_heads"` // 0: as many as Heads
	HeadDim          int             `json:"head_dim"`            // 0: HiddenSize / Heads
	MaxPositions     int             `json:"max_position_embeddings"`
	NormEps          float64         `json:"rms_norm_eps"`
	HiddenAct        string          `json:"hidden_act"`
	RopeTheta        float64         `json:"rope_theta"` // 0: 10000, or in RopeParameters
	RopeScaling      *hfRope         `json:"rope_scaling"`
	RopeParameters   *hfRope         `json:"rope_parameters"` // what newer files have instead of the two before
	Tied             bool            `json:"tie_word_embeddings"`
	SlidingWindow    bool            `json:"use_sliding_window"`
	Quantization     json.RawMessage `json:"quantization_config"`
}

// hfRope describes a change of the rotation frequencies.
type hfRope struct {
	Type           string  `json:"rope_type"`
	OldType        string  `json:"type"`
	Theta          float64 `json:"rope_theta"`
	Factor         float64 `json:"factor"`
	LowFreqFactor  float64 `json:"low_freq_factor"`
	HighFreqFactor float64 `json:"high_freq_factor"`
	OriginalLength float64 `json:"original_max_position_embeddings"`
}

// readHFConfig reads dir/config.json. freqs holds the divisors of the rotation frequencies if they are scaled as in Llama 3.
func readHFConfig(dir string) (h *hfConfig, c *model.Config, freqs []float32, err error) {
	b, err := readLimited(filepath.Join(dir, configName), maxConfigSize)
	if err != nil {
		return nil, nil, nil, err
	}
	h = &hfConfig{HiddenAct: "silu"}
	if err := json.Unmarshal(b, h); err != nil {
		return nil, nil, nil, err
	}
	if c, err = h.config(); err != nil {
		return nil, nil, nil, err
	}
	if freqs, err = h.scaleRope(c); err != nil {
		return nil, nil, nil, err
	}
	if c.Name = filepath.Base(h.NameOrPath); h.NameOrPath == "" {
		c.Name = filepath.Base(dir)
	}
	return h, c, freqs, c.Validate()
}

// config maps the hyperparameters; those of rotation scaling are left to scaleRope.
func (h *hfConfig) config() (*model.Config, error) {
	arch, err := architectureOf(func(a *architecture) bool { return a.hfType == h.ModelType }, fmt.Sprintf("model_type %q", h.ModelType))
	if err != nil {
		return nil, err
	}
	switch {
	case h.HiddenAct != "silu":
		return nil, fmt.Errorf("hidden_act %q is not supported (supported: silu)", h.HiddenAct)
	case h.SlidingWindow:
		return nil, fmt.Errorf("use_sliding_window is not supported")
	case h.Heads < 1:
		return nil, fmt.Errorf("num_attention_heads is %d, expected at least 1", h.Heads)
	}
	c := &model.Config{
		Architecture: arch.name, NVocab: h.VocabSize, NEmbd: h.HiddenSize, NLayers: h.Layers, NHeads: h.Heads, NKVHeads: h.KVHeads,
		HeadDim: h.HeadDim, NFF: h.IntermediateSize, NCtx: h.MaxPositions, NormEps: float32(h.NormEps), RopeBase: float32(h.RopeTheta),
	}
	if c.NKVHeads == 0 {
		c.NKVHeads = c.NHeads
	}
	if c.HeadDim == 0 {
		c.HeadDim = c.NEmbd / c.NHeads
	}
	c.RopeDim = c.HeadDim
	return c, nil
}

// scaleRope sets c's rotation base and scale, and returns the divisors of Llama 3's scaling, if that is used.
func (h *hfConfig) scaleRope(c *model.Config) ([]float32, error) {
	r := h.RopeScaling
	if h.RopeParameters != nil {
		r = h.RopeParameters
	}
	if r == nil {
		r = &hfRope{}
	}
	if r.Theta != 0 {
		c.RopeBase = float32(r.Theta)
	}
	if c.RopeBase == 0 {
		c.RopeBase = 10000
	}
	kind := r.Type
	if kind == "" {
		kind = r.OldType
	}
	switch kind {
	case "", "default", "none":
		return nil, nil
	case "linear":
		if !(r.Factor > 0) {
			return nil, fmt.Errorf("rope_scaling factor is %g, expected more than 0", r.Factor)
		}
		c.RopeScale = float32(r.Factor)
		return nil, nil
	case "llama3":
		return r.llama3(c)
	}
	return nil, fmt.Errorf("rope_scaling of type %q is not supported (supported: linear, llama3)", kind)
}

// llama3 returns the divisor of every rotation frequency: 1 for wavelengths that the original context holds HighFreqFactor
// times, Factor for those it holds fewer than LowFreqFactor times, and between them a blend of the two frequencies.
func (r *hfRope) llama3(c *model.Config) ([]float32, error) {
	if !(r.Factor > 0 && r.LowFreqFactor > 0 && r.HighFreqFactor > r.LowFreqFactor && r.OriginalLength > 0) {
		return nil, fmt.Errorf("rope_scaling of type llama3 needs factor, low_freq_factor < high_freq_factor and original_max_position_embeddings, got %g, %g, %g, %g", r.Factor, r.LowFreqFactor, r.HighFreqFactor, r.OriginalLength)
	}
	if err := c.Validate(); err != nil { // RopeDim is about to be trusted
		return nil, err
	}
	div := make([]float32, c.RopeDim/2)
	for i := range div {
		wavelength := 2 * math.Pi * math.Pow(float64(c.RopeBase), float64(2*i)/float64(c.RopeDim))
		turns := r.OriginalLength / wavelength
		switch {
		case turns > r.HighFreqFactor:
			div[i] = 1
		case turns < r.LowFreqFactor:
			div[i] = float32(r.Factor)
		default:
			smooth := (turns - r.LowFreqFactor) / (r.HighFreqFactor - r.LowFreqFactor)
			div[i] = float32(1 / ((1-smooth)/r.Factor + smooth))
		}
	}
	return div, nil
}

// configMetadata writes a configuration as GGUF metadata, for sources that have none. The vocabulary is not part of it.
func configMetadata(c *model.Config, chatTemplate string) *gguf.Metadata {
	m, p := &gguf.Metadata{}, c.Architecture+"."
	m.Set("general.architecture", c.Architecture)
	m.Set("general.type", "model")
	if c.Name != "" {
		m.Set("general.name", c.Name)
	}
	m.Set(p+"vocab_size", uint32(c.NVocab))
	m.Set(p+"context_length", uint32(c.NCtx))
	m.Set(p+"embedding_length", uint32(c.NEmbd))
	m.Set(p+"block_count", uint32(c.NLayers))
	m.Set(p+"feed_forward_length", uint32(c.NFF))
	m.Set(p+"attention.head_count", uint32(c.NHeads))
	m.Set(p+"attention.head_count_kv", uint32(c.NKVHeads))
	m.Set(p+"attention.key_length", uint32(c.HeadDim))
	m.Set(p+"attention.value_length", uint32(c.HeadDim))
	m.Set(p+"attention.layer_norm_rms_epsilon", c.NormEps)
	m.Set(p+"rope.dimension_count", uint32(c.RopeDim))
	m.Set(p+"rope.freq_base", c.RopeBase)
	if c.RopeScale != 0 {
		m.Set(p+"rope.scaling.type", "linear")
		m.Set(p+"rope.scaling.factor", c.RopeScale)
	}
	if chatTemplate != "" {
		m.Set(keyChatTemplate, chatTemplate)
	}
	return m
}
