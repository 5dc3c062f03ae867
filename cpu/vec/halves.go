package vec

import (
	"math"

	"github.com/x448/float16"
)

// WidenBF16 widens bfloat16 numbers.
func WidenBF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, h := range src {
		dst[i] = math.Float32frombits(uint32(h) << 16)
	}
}

const maxHalf = 65504

// ToHalf rounds to float16 for the KV cache: subnormal numbers, which are slow to compute with, become 0, and what is too large
// the largest number.
func ToHalf(f float32) uint16 {
	b := math.Float32bits(f)
	const least, end = (127 - 14) << 23, (127+15)<<23 | 0x7fe<<12 // the normal numbers that do not become larger than maxHalf
	if m := b &^ (1 << 31); m-least < end-least {
		m += 0xfff + m>>13&1 // rounds to the nearest, to an even one of two
		return uint16((m-112<<23)>>13 | b>>31<<15)
	}
	h := float16.Fromfloat32(min(max(f, -maxHalf), maxHalf)).Bits()
	if h&0x7c00 == 0 {
		return h & 0x8000
	}
	return h
}

// Half widens a float16 number of any kind.
func Half(h uint16) float32 { return math.Float32frombits(HalfBits(h)) }

// HalfBits is Half without floating-point instructions, but for subnormal numbers.
func HalfBits(h uint16) uint32 {
	v := uint32(h&0x7fff) << 13
	switch h & 0x7c00 {
	case 0: // subnormal: a whole number of the smallest steps
		v = math.Float32bits(float32(h&0x3ff) * 0x1p-24)
	case 0x7c00: // infinite, or not a number
		v |= 0x7f800000
	default: // the exponents' biases differ by 112
		v += 112 << 23
	}
	return v | uint32(h&0x8000)<<16
}

// WidenHalves converts finite float16 numbers, of any count.
func (k *Kernels) WidenHalves(dst []float32, src []uint16) {
	n := len(src) / Lanes * Lanes
	k.Half(dst[:n], src[:n])
	for i, h := range src[n:] {
		dst[n+i] = Half(h)
	}
}
