package model

// smollm3 is SmolLM3: Llama without rotation in every fourth layer.
func smollm3() *Arch {
	return &Arch{Name: "smollm3", HFTypes: []string{"smollm3"}, adjacentPairs: true,
		defaults: func(c *Config) {
			if c.NoRopeEvery == 0 {
				c.NoRopeEvery = 4
			}
		},
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(false)}
			p.decoder(func(l int) layerOptions {
				o := layerOptions{preNorm: true, act: SiLU()}
				if (l+1)%p.Config.NoRopeEvery == 0 {
					o.rope = noRope
				}
				return o
			}, has)
		}}
}
