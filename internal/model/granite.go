package model

// granite is Granite 3 and 4 (dense): Llama with factors on embeddings, scores, residuals and logits.
func granite() *Arch {
	return &Arch{Name: "granite", HFTypes: []string{"granite"}, adjacentPairs: true,
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(false)}
			p.decoder(func(int) layerOptions {
				return layerOptions{preNorm: true, act: SiLU(), biases: optionalBiases(has)}
			}, has)
		}}
}
