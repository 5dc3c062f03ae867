// Package model describes models: hyperparameters, tensor names (GGUF's), and the forward pass of
// each architecture as a list of operations that every backend executes.
package model

// Config holds a model's hyperparameters. It is stored as JSON in the container's META section.
type Config struct {
	Architecture string  `json:"architecture"` // GGUF's name: "llama", "qwen2"
	Name         string  `json:"name,omitempty"`
	NVocab       int     `json:"n_vocab"`
	NEmbd        int     `json:"n_embd"`
	NLayers      int     `json:"n_layers"`
	NHeads       int     `json:"n_heads"`
	NKVHeads     int     `json:"n_kv_heads"`
	HeadDim      int     `json:"head_dim"`
	NFF          int     `json:"n_ff"`
	NCtx         int     `json:"n_ctx"` // context length the model was trained for
	NormEps      float32 `json:"norm_eps"`
	RopeBase     float32 `json:"rope_base"`
	RopeDim      int     `json:"rope_dim"`             // rotated dimensions of each head
	RopeScale    float32 `json:"rope_scale,omitempty"` // linear scaling: position / RopeScale; 0 or 1 = none

	// What follows is 0 in models without it.

	// positions that a token sees, itself included, in layers with a sliding window
	Window        int     `json:"window,omitempty"`
	FullEvery     int     `json:"full_every,omitempty"`      // every n-th layer sees all positions; 0: none, if there is a Window
	RopeBaseLocal float32 `json:"rope_base_local,omitempty"` // RopeBase of layers with a sliding window, which have no RopeScale
	NoRopeEvery   int     `json:"no_rope_every,omitempty"`   // every n-th layer does not rotate
	AttnScale     float32 `json:"attn_scale,omitempty"`      // on products of queries and keys; 0: 1/√HeadDim
	AttnSoftCap   float32 `json:"attn_soft_cap,omitempty"`   // bound of these products: c·tanh(x/c)
	LogitSoftCap  float32 `json:"logit_soft_cap,omitempty"`  // bound of the logits
	EmbedScale    float32 `json:"embed_scale,omitempty"`     // factor on embeddings
	ResidualScale float32 `json:"residual_scale,omitempty"`  // factor on what a sublayer adds to the residual stream
	LogitScale    float32 `json:"logit_scale,omitempty"`     // divisor of the logits

	// Layers without attention have a state for every sequence in place of keys and values.
	Layers     string `json:"layers,omitempty"`      // a letter per layer, such as LayerAttention; empty: attention only
	ConvKernel int    `json:"conv_kernel,omitempty"` // positions that a convolution over time sees, the present one included

	// Layers of kind LayerDelta have heads of their own: value head h reads and writes by key head h mod DeltaKeyHeads.
	DeltaKeyHeads   int `json:"delta_key_heads,omitempty"`
	DeltaValueHeads int `json:"delta_value_heads,omitempty"`
	DeltaKeyDim     int `json:"delta_key_dim,omitempty"`   // of a head
	DeltaValueDim   int `json:"delta_value_dim,omitempty"` // of a head

	// Extension of the context by other rotation frequencies: YaRN, or LongRoPE if the model has tensors of divisors.
	RopeCtx     int     `json:"rope_ctx,omitempty"`    // context length before the extension
	YarnFactor  float32 `json:"yarn_factor,omitempty"` // by which YaRN extends it
	YarnFast    float32 `json:"yarn_fast,omitempty"`   // turns within RopeCtx from which on a frequency stays as it is; 0: 32
	YarnSlow    float32 `json:"yarn_slow,omitempty"`   // turns up to which it is divided by YarnFactor; 0: 1
	RopeGain    float32 `json:"rope_gain,omitempty"`   // factor on rotated queries and keys
	Temperature float32 `json:"temperature,omitempty"` // queries at position p are scaled by 1 + Temperature·ln(1 + ⌊p/RopeCtx⌋)
}

// Kinds of layers in Config.Layers.
const (
	LayerAttention = 'a'
	LayerConv      = 'c' // gated short convolution
	LayerDelta     = 'd' // gated delta rule
)

// layerKind returns the kind of layer l.
func (c *Config) layerKind(l int) byte {
	if c.Layers == "" {
		return LayerAttention
	}
	return c.Layers[l]
}
