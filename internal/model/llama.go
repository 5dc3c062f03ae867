package model

// llama is Llama 1 to 3 and its many relatives (Mistral, SmolLM2, TinyLlama): neighbouring dimensions rotate together (GGUF
// permutes queries and keys so), Llama 3's frequency divisors and biases if there are any, a head that may be the embedding.
func llama() *Arch {
	return &Arch{Name: "llama", HFTypes: []string{"llama", "mistral"}, adjacentPairs: true,
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(false)}
			if has(RopeFreqs) {
				p.Ropes[0].Divisors = RopeFreqs
			}
			p.decoder(func(l int) layerOptions {
				return layerOptions{preNorm: true, act: SiLU(), window: p.Config.windowOf(l), biases: optionalBiases(has)}
			}, has)
		}}
}

// optionalBiases returns the sets of biases of which the first layer has every one.
func optionalBiases(has func(tensor string) bool) (set biases) {
	all := func(names ...string) bool {
		for _, n := range names {
			if !has(tensor(0, n+".bias")) {
				return false
			}
		}
		return true
	}
	if all("attn_q", "attn_k", "attn_v") {
		set |= qkvBias
	}
	if all("attn_output") {
		set |= outBias
	}
	if all("ffn_gate", "ffn_up", "ffn_down") {
		set |= ffnBiases
	}
	return set
}
