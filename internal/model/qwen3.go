package model

// qwen3 is Qwen 3 (dense): queries and keys are normalized per head, no biases.
func qwen3() *Arch {
	return &Arch{Name: "qwen3", HFTypes: []string{"qwen3"}, build: func(p *Program, has func(tensor string) bool) {
		p.Ropes = []Rope{p.Config.Rope(true)}
		p.decoder(func(int) layerOptions { return layerOptions{preNorm: true, qkNorm: perHead, act: SiLU()} }, has)
	}}
}
