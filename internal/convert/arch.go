package convert

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// architecture tells which tensors a model consists of, and what they are called in the files of Hugging Face.
type architecture struct {
	name      string // GGUF's general.architecture
	hfType    string // model_type in config.json
	permuteQK bool   // GGUF pairs neighbouring dimensions for rotation, Hugging Face those half a head apart
	layer     []rule // tensors of every layer: "blk.N." in GGUF, "model.layers.N." in Hugging Face
}

// rule describes a tensor: a matrix of rows × cols, or a vector of cols if rows is nil.
type rule struct {
	gguf, hf   string
	rows, cols func(*model.Config) int
	optional   bool
	rotated    bool // its rows are heads that RoPE rotates
}

// architectures returns what can be read. The next one is one more entry.
func architectures() []*architecture {
	return []*architecture{
		{name: "llama", hfType: "llama", permuteQK: true, layer: decoderLayer},
		{name: "qwen2", hfType: "qwen2", layer: slices.Concat(decoderLayer, qkvBiases)},
	}
}

func architectureOf(match func(*architecture) bool, what string) (*architecture, error) {
	var known []string
	for _, a := range architectures() {
		if match(a) {
			return a, nil
		}
		known = append(known, a.name)
	}
	return nil, fmt.Errorf("%s: %w (known: %s)", what, model.ErrUnsupported, strings.Join(known, ", "))
}

func nEmbd(c *model.Config) int    { return c.NEmbd }
func nVocab(c *model.Config) int   { return c.NVocab }
func nFF(c *model.Config) int      { return c.NFF }
func nQueries(c *model.Config) int { return c.NHeads * c.HeadDim }
func nKeys(c *model.Config) int    { return c.NKVHeads * c.HeadDim }
func nFreqs(c *model.Config) int   { return c.RopeDim / 2 }

const (
	tokenEmbd = "token_embd.weight"
	outputW   = "output.weight"
	ropeFreqs = "rope_freqs.weight"
)

// beforeLayers and afterLayers are the tensors outside the layers. A model without output.weight uses its embedding as head.
var (
	beforeLayers = []rule{
		{gguf: tokenEmbd, hf: "model.embed_tokens.weight", rows: nVocab, cols: nEmbd},
		{gguf: ropeFreqs, cols: nFreqs, optional: true}, // Hugging Face has it as numbers in config.json
	}
	afterLayers = []rule{
		{gguf: "output_norm.weight", hf: "model.norm.weight", cols: nEmbd},
		{gguf: outputW, hf: "lm_head.weight", rows: nVocab, cols: nEmbd, optional: true},
	}
)

// decoderLayer is the layer of Llama and its relatives.
var decoderLayer = []rule{
	{gguf: "attn_norm.weight", hf: "input_layernorm.weight", cols: nEmbd},
	{gguf: "attn_q.weight", hf: "self_attn.q_proj.weight", rows: nQueries, cols: nEmbd, rotated: true},
	{gguf: "attn_k.weight", hf: "self_attn.k_proj.weight", rows: nKeys, cols: nEmbd, rotated: true},
	{gguf: "attn_v.weight", hf: "self_attn.v_proj.weight", rows: nKeys, cols: nEmbd},
	{gguf: "attn_output.weight", hf: "self_attn.o_proj.weight", rows: nEmbd, cols: nQueries},
	{gguf: "ffn_norm.weight", hf: "post_attention_layernorm.weight", cols: nEmbd},
	{gguf: "ffn_gate.weight", hf: "mlp.gate_proj.weight", rows: nFF, cols: nEmbd},
	{gguf: "ffn_up.weight", hf: "mlp.up_proj.weight", rows: nFF, cols: nEmbd},
	{gguf: "ffn_down.weight", hf: "mlp.down_proj.weight", rows: nEmbd, cols: nFF},
}

var qkvBiases = []rule{
	{gguf: "attn_q.bias", hf: "self_attn.q_proj.bias", cols: nQueries, rotated: true},
	{gguf: "attn_k.bias", hf: "self_attn.k_proj.bias", cols: nKeys, rotated: true},
	{gguf: "attn_v.bias", hf: "self_attn.v_proj.bias", cols: nKeys},
}

// tensors lists the tensors of a model by rules with full names, in the order in which they are used.
func (a *architecture) tensors(c *model.Config) []rule {
	out := slices.Clone(beforeLayers)
	for l := range c.NLayers {
		n := strconv.Itoa(l)
		for _, r := range a.layer {
			r.gguf, r.hf = "blk."+n+"."+r.gguf, "model.layers."+n+"."+r.hf
			out = append(out, r)
		}
	}
	return append(out, afterLayers...)
}

// check compares a tensor's shape with what the model's configuration implies.
func (r *rule) check(c *model.Config, info TensorInfo) error {
	rows := 1
	if r.rows != nil {
		rows = r.rows(c)
	}
	if cols := r.cols(c); info.Vector != (r.rows == nil) || info.Rows != rows || info.Cols != cols {
		return fmt.Errorf("tensor %s has %d rows of %d columns, expected %d of %d by the model's configuration", info.Name, info.Rows, info.Cols, rows, cols)
	}
	return nil
}
