package source

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/internal/infile"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

const (
	configName    = "config.json"
	maxConfigSize = 16 << 20

	// defaultNormEps is what the configuration classes of transformers take where rms_norm_eps is absent or null.
	defaultNormEps = 1e-6
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
	Activation       string          `json:"hidden_activation"` // Gemma's HiddenAct
	RopeTheta        float64         `json:"rope_theta"`        // 0: 10000, or in RopeParameters
	RopeLocalBase    float64         `json:"rope_local_base_freq"`
	RopeScaling      *hfRope         `json:"rope_scaling"`
	RopeParameters   *hfRope         `json:"rope_parameters"` // what newer files have instead of the two before
	RopeShare        float64         `json:"partial_rotary_factor"`
	OriginalLength   int             `json:"original_max_position_embeddings"`
	Tied             bool            `json:"tie_word_embeddings"`
	UseWindow        *bool           `json:"use_sliding_window"`
	Window           *int            `json:"sliding_window"`
	LayerTypes       []string        `json:"layer_types"`
	WindowPattern    json.RawMessage `json:"sliding_window_pattern"`
	NoRopeLayers     []int           `json:"no_rope_layers"` // 0 for layers that do not rotate
	NoRopeInterval   int             `json:"no_rope_layer_interval"`
	QueryScalar      float64         `json:"query_pre_attn_scalar"`
	AttnSoftCap      *float64        `json:"attn_logit_softcapping"`
	LogitSoftCap     *float64        `json:"final_logit_softcapping"`
	EmbedScale       float64         `json:"embedding_multiplier"`
	ResidualScale    float64         `json:"residual_multiplier"`
	AttnScale        float64         `json:"attention_multiplier"`
	LogitScale       float64         `json:"logits_scaling"`
	AttnBias         bool            `json:"attention_bias"`
	MLPBias          bool            `json:"mlp_bias"`
	Experts          int             `json:"num_local_experts"`
	Quantization     json.RawMessage `json:"quantization_config"`
	hfLFM2
	hfDelta
}

// readHFConfig reads dir/config.json. divisors are those of rotation frequencies, by their tensors' names, if the configuration
// implies any.
func readHFConfig(dir string) (h *hfConfig, c *model.Config, divisors map[string][]float32, err error) {
	b, err := infile.ReadAll(filepath.Join(dir, configName), maxConfigSize)
	if err != nil {
		return nil, nil, nil, err
	}
	h = &hfConfig{}
	if err := infile.DecodeJSON(b, h); err != nil {
		return nil, nil, nil, err
	}
	if err := h.qwen35(); err != nil {
		return nil, nil, nil, err
	}
	arch, err := model.ArchByHFType(h.ModelType)
	if err != nil {
		return nil, nil, nil, err
	}
	if h.ModelType == "lfm2" {
		if err := h.lfm2(b); err != nil {
			return nil, nil, nil, err
		}
	}
	if c, err = h.config(arch); err != nil {
		return nil, nil, nil, err
	}
	if divisors, err = h.scaleRope(c); err != nil {
		return nil, nil, nil, err
	}
	arch.SetDefaults(c)
	if c.Name = filepath.Base(h.NameOrPath); h.NameOrPath == "" {
		c.Name = filepath.Base(dir)
	}
	return h, c, divisors, c.Validate()
}

// config maps the hyperparameters; those of rotation scaling are left to scaleRope.
func (h *hfConfig) config(arch *model.Arch) (*model.Config, error) {
	act := h.HiddenAct
	if h.Activation != "" {
		act = h.Activation
	}
	switch {
	case act != "" && act != arch.HFAct():
		return nil, fmt.Errorf("hidden_act %q is not supported (supported: %s)", act, arch.HFAct())
	case h.UseWindow != nil && *h.UseWindow:
		return nil, errors.New("use_sliding_window is not supported")
	case h.Experts > 0:
		return nil, fmt.Errorf("num_local_experts is %d: mixtures of experts are not supported", h.Experts)
	case h.Heads < 1:
		return nil, fmt.Errorf("num_attention_heads is %d, expected at least 1", h.Heads)
	}
	c := &model.Config{
		Architecture: arch.Name, NVocab: h.VocabSize, NEmbd: h.HiddenSize, NLayers: h.Layers, NHeads: h.Heads, NKVHeads: h.KVHeads,
		HeadDim: h.HeadDim, NFF: h.IntermediateSize, NCtx: h.MaxPositions, NormEps: float32(cmp.Or(h.NormEps, defaultNormEps)),
		EmbedScale: float32(h.EmbedScale), ResidualScale: float32(h.ResidualScale), AttnScale: float32(h.AttnScale),
		LogitScale:    float32(h.LogitScale),
		RopeBaseLocal: float32(h.RopeLocalBase), ConvKernel: max(h.ConvKernel, h.DeltaKernel),
		DeltaKeyHeads: h.DeltaKeyHeads, DeltaValueHeads: h.DeltaValueHeads, DeltaKeyDim: h.DeltaKeyDim,
		DeltaValueDim: h.DeltaValueDim,
	}
	if c.NKVHeads == 0 {
		c.NKVHeads = c.NHeads
	}
	if c.HeadDim == 0 {
		c.HeadDim = c.NEmbd / c.NHeads
	}
	c.RopeDim = c.HeadDim
	if h.QueryScalar > 0 {
		if c.AttnScale = float32(1 / math.Sqrt(h.QueryScalar)); int(h.QueryScalar) == c.HeadDim {
			c.AttnScale = 0
		}
	}
	for _, cap := range []struct {
		from *float64
		to   *float32
	}{{h.AttnSoftCap, &c.AttnSoftCap}, {h.LogitSoftCap, &c.LogitSoftCap}} {
		if cap.from != nil {
			*cap.to = float32(*cap.from)
		}
	}
	return c, h.layers(c)
}

// layers finds out which layers have a sliding window and which do not rotate.
func (h *hfConfig) layers(c *model.Config) error {
	if h.Window != nil && h.UseWindow == nil {
		c.Window = *h.Window
	}
	full := make([]bool, len(h.LayerTypes))
	for i, t := range h.LayerTypes {
		switch t {
		case "full_attention":
			full[i] = true
		case "sliding_attention":
		case "conv", "linear_attention":
			if c.Architecture != map[string]string{"conv": "lfm2", "linear_attention": "qwen35"}[t] {
				return fmt.Errorf("layer_types: layer %d is of type %q, which a %s model does not have", i, t, c.Architecture)
			}
		default:
			return fmt.Errorf("layer_types: layer %d is of type %q, which is not supported (supported: full_attention, "+
				"sliding_attention, conv, linear_attention)", i, t)
		}
	}
	if c.Layers = layerKinds(h.LayerTypes); c.Layers != "" {
		return nil
	}
	var err error
	if len(full) == 0 && h.WindowPattern != nil {
		_ = json.Unmarshal(h.WindowPattern, &c.FullEvery) // of another type: the architecture's default
	} else if len(full) > 0 && c.Window > 0 {
		if c.FullEvery, err = every("layer_types", full); err == nil && c.FullEvery == 1 {
			c.Window, c.FullEvery = 0, 0
		}
	}
	if len(h.NoRopeLayers) > 0 && err == nil {
		not := make([]bool, len(h.NoRopeLayers))
		for i, rotates := range h.NoRopeLayers {
			not[i] = rotates == 0
		}
		if c.NoRopeEvery, err = every("no_rope_layers", not); c.NoRopeEvery == 0 {
			c.NoRopeEvery = c.NLayers + 1 // none
		}
	} else {
		c.NoRopeEvery = h.NoRopeInterval
	}
	return err
}

// every returns n if every n-th element is true and the others are not; 0 if none is.
func every(what string, is []bool) (int, error) {
	n := 1 + slices.Index(is, true)
	for i, x := range is {
		if x != (n > 0 && (i+1)%n == 0) {
			return 0, fmt.Errorf("%s: element %d breaks the pattern of every %d-th layer, other patterns are not supported", what, i, n)
		}
	}
	return n, nil
}
