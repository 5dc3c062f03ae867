package model

import (
	"fmt"
	"strings"
)

// Names of tensors outside the layers, as in GGUF.
const (
	TokenEmbd  = "token_embd.weight"
	OutputNorm = "output_norm.weight"
	Output     = "output.weight" // absent: the head is TokenEmbd
	RopeFreqs  = "rope_freqs.weight"
	RopeLong   = "rope_factors_long.weight"
	RopeShort  = "rope_factors_short.weight"
)

// tensor returns the GGUF name of a tensor of layer l.
func tensor(l int, name string) string { return fmt.Sprintf("blk.%d.%s", l, name) }

// hfLayer returns Hugging Face's name of a tensor of layer l.
func hfLayer(l int, name string) string { return fmt.Sprintf("model.layers.%d.%s", l, name) }

// hfNames maps GGUF's names to Hugging Face's: tensors of layers by what follows "blk.N." and "model.layers.N.".
func hfNames() map[string]string {
	return map[string]string{
		TokenEmbd:  "model.embed_tokens.weight",
		OutputNorm: "model.norm.weight",
		Output:     "lm_head.weight",

		"attn_norm":   "input_layernorm",
		"attn_q":      "self_attn.q_proj",
		"attn_k":      "self_attn.k_proj",
		"attn_v":      "self_attn.v_proj",
		"attn_output": "self_attn.o_proj",
		"attn_q_norm": "self_attn.q_norm",
		"attn_k_norm": "self_attn.k_norm",
		"ffn_norm":    "post_attention_layernorm",
		"ffn_gate":    "mlp.gate_proj",
		"ffn_up":      "mlp.up_proj",
		"ffn_down":    "mlp.down_proj",
	}
}

// HFName returns Hugging Face's name of a tensor with GGUF's name, or "" for one that its files lack.
func (a *Arch) HFName(name string) string {
	names := hfNames()
	rest, inLayer := strings.CutPrefix(name, "blk.")
	if !inLayer {
		if hf := a.hf[name]; hf != "" {
			return hf
		}
		return names[name]
	}
	layer, rest, _ := strings.Cut(rest, ".")
	if hf := a.hf[rest]; hf != "" {
		return "model.layers." + layer + "." + hf
	}
	stem, kind := rest, ""
	if dot := strings.LastIndexByte(rest, '.'); dot >= 0 {
		stem, kind = rest[:dot], rest[dot+1:]
	}
	hf := a.hf[stem]
	if hf == "" {
		hf = names[stem]
	}
	if hf == "" {
		return ""
	}
	return "model.layers." + layer + "." + hf + "." + kind
}
