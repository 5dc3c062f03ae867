package model

// phi3 is Phi 3 to 4: queries, keys and values are one tensor in model files, and so are gate and up (both are split while
// reading); LongRoPE's divisors are short or long ones, and only some of a head's dimensions may rotate.
func phi3() *Arch {
	return &Arch{Name: "phi3", HFTypes: []string{"phi3"}, fused: true, build: func(p *Program, has func(tensor string) bool) {
		r := p.Config.Rope(true)
		if has(RopeLong) {
			r.Divisors, r.ShortDivisors = RopeLong, RopeShort
		}
		p.Ropes = []Rope{r}
		p.decoder(func(l int) layerOptions {
			return layerOptions{preNorm: true, act: SiLU(), window: p.Config.windowOf(l)}
		}, has)
	}}
}
