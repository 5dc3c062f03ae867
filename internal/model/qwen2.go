package model

// qwen2 is Qwen 2 and 2.5: biases on queries, keys and values; dimension i rotates with i + RopeDim/2.
func qwen2() *Arch {
	return &Arch{Name: "qwen2", HFTypes: []string{"qwen2"}, build: func(p *Program, has func(tensor string) bool) {
		p.Ropes = []Rope{p.Config.Rope(true)}
		p.decoder(func(int) layerOptions { return layerOptions{preNorm: true, biases: qkvBias, act: SiLU()} }, has)
	}}
}
