package model

// mistral3 is Ministral 3: Llama with YaRN and a factor on queries that grows with the position.
func mistral3() *Arch {
	return &Arch{Name: "mistral3", HFTypes: []string{"ministral3"}, adjacentPairs: true,
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(false)}
			p.decoder(func(int) layerOptions { return layerOptions{preNorm: true, act: SiLU()} }, has)
		}}
}
