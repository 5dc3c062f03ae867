package model

import "math"

// Rope is a rotary position embedding (Su et al., RoFormer, 2021): pair i of a head's first Dim dimensions turns by
// position · frequency i.
type Rope struct {
	Dim      int     // rotated dimensions of a head; even
	Base     float32 // frequency i is Base^(−2i/Dim) before scaling
	Scale    float32 // positions are divided by it (linear scaling); 0 = 1
	Neox     bool    // dimension i pairs with i + Dim/2; otherwise 2i with 2i + 1
	Divisors string  // tensor of Dim/2 divisors of the frequencies (Llama 3), or empty
	// ShortDivisors names the divisors of contexts up to Ctx positions (LongRoPE: Ding et al., 2024); empty: Divisors always.
	ShortDivisors string
	Ctx           int
	Gain          float32 // factor on rotated dimensions; 0 = 1
	Yarn          Yarn    // if its Factor is more than 0
}

// Yarn divides frequencies that turn little within the original context by Factor (Peng et al., YaRN, 2023): all of those that
// make up to Slow turns there, none of those that make Fast and more, and a growing part in between.
type Yarn struct{ Factor, Fast, Slow float32 }

// divisor returns what YaRN divides frequency i by.
func (y *Yarn) divisor(r *Rope, i int) float64 {
	pairOf := func(turns float32) float64 { // the pair that makes that many turns within the original context
		return float64(r.Dim) * math.Log(float64(r.Ctx)/(float64(turns)*2*math.Pi)) / (2 * math.Log(float64(r.Base)))
	}
	low, high := max(math.Floor(pairOf(y.Fast)), 0), min(math.Ceil(pairOf(y.Slow)), float64(r.Dim-1))
	if low == high {
		high += 0.001
	}
	share := min(max((float64(i)-low)/(high-low), 0), 1)
	return 1 / (share/float64(y.Factor) + 1 - share)
}

// DivisorsFor returns the name of the tensor of divisors for a context of n positions, or "".
func (r *Rope) DivisorsFor(n int) string {
	if r.ShortDivisors != "" && n <= r.Ctx {
		return r.ShortDivisors
	}
	return r.Divisors
}

// Rope returns the position embedding that the hyperparameters describe.
func (c *Config) Rope(neox bool) Rope {
	return Rope{Dim: c.RopeDim, Base: c.RopeBase, Scale: c.RopeScale, Neox: neox, Ctx: c.RopeCtx, Gain: c.RopeGain,
		Yarn: Yarn{Factor: c.YarnFactor, Fast: c.YarnFast, Slow: c.YarnSlow}}
}

// attnScale returns the factor on products of queries and keys.
func (c *Config) attnScale() float32 {
	if c.AttnScale != 0 {
		return c.AttnScale
	}
	return rsqrt(c.HeadDim)
}

// windowOf returns the positions that a token sees in layer l; 0 = all.
func (c *Config) windowOf(l int) int {
	if c.FullEvery > 0 && (l+1)%c.FullEvery == 0 {
		return 0
	}
	return c.Window
}

// Frequencies returns the radians per position of each of the Dim/2 pairs. divisors are the values of the tensor Divisors;
// nil if there is none.
func (r *Rope) Frequencies(divisors []float32) []float64 {
	freqs := make([]float64, r.Dim/2)
	for i := range freqs {
		f := math.Pow(float64(r.Base), -2*float64(i)/float64(r.Dim))
		if r.Scale > 0 {
			f /= float64(r.Scale)
		}
		if r.Yarn.Factor > 0 {
			f /= r.Yarn.divisor(r, i)
		}
		if divisors != nil {
			f /= float64(divisors[i])
		}
		freqs[i] = f
	}
	return freqs
}

// Llama3 describes how Llama 3 divides rotation frequencies to extend its context.
type Llama3 struct{ Factor, LowFreq, HighFreq, Ctx float64 }

// Divisors returns the divisor of every frequency of r: 1 for wavelengths that the original context holds HighFreq times, Factor
// for those it holds fewer than LowFreq times, and between them what blends the two frequencies.
func (l *Llama3) Divisors(r *Rope) []float32 {
	div := make([]float32, r.Dim/2)
	for i := range div {
		wavelength := 2 * math.Pi * math.Pow(float64(r.Base), float64(2*i)/float64(r.Dim))
		turns := l.Ctx / wavelength
		switch {
		case turns > l.HighFreq:
			div[i] = 1
		case turns < l.LowFreq:
			div[i] = float32(l.Factor)
		default:
			smooth := (turns - l.LowFreq) / (l.HighFreq - l.LowFreq)
			div[i] = float32(1 / ((1-smooth)/l.Factor + smooth))
		}
	}
	return div
}

// QueryScale returns the factor on products of the query at a position and keys: Scale, growing with the logarithm of the
// position if n has a Temperature.
func (n *Node) QueryScale(pos int) float32 {
	if n.Temperature == 0 {
		return n.Scale
	}
	return n.Scale * float32(1+float64(n.Temperature)*math.Log1p(float64(pos/n.TemperatureCtx)))
}

// rsqrt returns 1/√n, the factor on products of queries and keys with n dimensions.
func rsqrt(n int) float32 { return float32(1 / math.Sqrt(float64(n))) }
