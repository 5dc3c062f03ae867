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
}
