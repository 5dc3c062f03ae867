package model

import "math"

// gemma2 is Gemma 2: sublayers normalized before and after, soft-capped scores and logits, a window in every other layer. Hugging
// Face's norm weights lack 1.
func gemma2() *Arch {
	return &Arch{Name: "gemma2", HFTypes: []string{"gemma2"}, normOffset: 1, gelu: true, hf: gemmaNames(),
		defaults: func(c *Config) { c.gemma(2) },
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(true)}
			p.decoder(func(l int) layerOptions {
				return layerOptions{preNorm: true, postNorm: true, act: GELU(), window: p.Config.windowOf(l)}
			}, has)
		}}
}

// gemma3 is the text model of Gemma 3: as Gemma 2 with normalized queries and keys in place of the caps, a window in five of six
// layers, which have a position embedding of their own.
func gemma3() *Arch {
	return &Arch{Name: "gemma3", HFTypes: []string{"gemma3_text", "gemma3"}, normOffset: 1, gelu: true, hf: gemmaNames(),
		defaults: func(c *Config) { c.gemma(6) },
		build: func(p *Program, has func(tensor string) bool) {
			full := p.Config.Rope(true)
			local := Rope{Dim: full.Dim, Base: p.Config.RopeBaseLocal, Neox: true}
			p.Ropes = []Rope{full, local}
			p.decoder(func(l int) layerOptions {
				o := layerOptions{preNorm: true, postNorm: true, qkNorm: perHead, act: GELU(), window: p.Config.windowOf(l)}
				if o.window > 0 {
					o.rope = 1
				}
				return o
			}, has)
		}}
}

// gemma sets what all models of the family have, and which layers see everything.
func (c *Config) gemma(fullEvery int) {
	c.EmbedScale = float32(math.Sqrt(float64(c.NEmbd)))
	if c.FullEvery == 0 {
		c.FullEvery = fullEvery
	}
	if c.RopeBaseLocal == 0 {
		c.RopeBaseLocal = 10000
	}
	const layers27B = 62 // the 27B models scale by the width per head
	if c.AttnScale == 0 && (c.NLayers == layers27B || c.Architecture == "gemma2" && c.NLayers == 46) {
		c.AttnScale = rsqrt(c.NEmbd / c.NHeads)
	}
}

func gemmaNames() map[string]string {
	return map[string]string{
		"post_attention_norm": "post_attention_layernorm",
		"ffn_norm":            "pre_feedforward_layernorm",
		"post_ffw_norm":       "post_feedforward_layernorm",
	}
}
