package model

// olmo2 is OLMo 2: sublayers normalized after instead of before, queries and keys normalized over all heads.
func olmo2() *Arch {
	return &Arch{Name: "olmo2", HFTypes: []string{"olmo2"}, hf: postNormNames(),
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(true)}
			p.decoder(func(int) layerOptions { return layerOptions{postNorm: true, qkNorm: whole, act: SiLU()} }, has)
		}}
}

// postNormNames are Hugging Face's where sublayers are normalized after only.
func postNormNames() map[string]string {
	return map[string]string{"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
}
