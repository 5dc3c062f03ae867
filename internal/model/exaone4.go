package model

// exaone4 is EXAONE 4.0: OLMo 2's norms with queries and keys normalized per head. The 32B model has a window in three of four
// layers, and rotates in these only.
func exaone4() *Arch {
	return &Arch{Name: "exaone4", HFTypes: []string{"exaone4"}, hf: postNormNames(),
		defaults: func(c *Config) {
			if c.Window > 0 && c.FullEvery == 0 {
				c.FullEvery = 4
			}
		},
		build: func(p *Program, has func(tensor string) bool) {
			p.Ropes = []Rope{p.Config.Rope(true)}
			if has(RopeFreqs) {
				p.Ropes[0].Divisors = RopeFreqs
			}
			p.decoder(func(l int) layerOptions {
				o := layerOptions{postNorm: true, qkNorm: perHead, act: SiLU(), window: p.Config.windowOf(l)}
				if p.Config.Window > 0 && o.window == 0 {
					o.rope = noRope
				}
				return o
			}, has)
		}}
}
