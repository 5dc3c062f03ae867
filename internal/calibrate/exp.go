package calibrate

import "math"

// exp returns e^x with a relative error below 2^−21. (math.Exp is several times slower and would take longer than all products.)
func exp(x float32) float32 {
	const (
		log2e = 1.44269504
		hi    = 0.693359375
		lo    = -2.12194440e-4
		magic = float32(3 << 22)
		bits  = 0x4b400000
	)
	x = min(max(x, -60), 88) // nothing below becomes denormal, which would be slow
	y := float32(x*log2e) + magic
	k := int32(math.Float32bits(y)) - bits
	n := y - magic
	r := float32(x-float32(n*hi)) - float32(n*lo)
	// Taylor's series on |r| ≤ ln(2)/2.
	p := float32(1. / 720)
	for _, c := range [...]float32{1. / 120, 1. / 24, 1. / 6, 0.5, 1, 1} {
		p = float32(p*r) + c
	}
	return p * math.Float32frombits(uint32(k+127)<<23)
}
