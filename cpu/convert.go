package cpu

import (
	"math"

	"github.com/x448/float16"
)

// bf16 widens bfloat16 numbers.
func bf16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, h := range src {
		dst[i] = math.Float32frombits(uint32(h) << 16)
	}
}

const maxHalf = 65504

// toHalf rounds to float16 for the KV cache: subnormal numbers, which are slow to compute with, become 0, and what is too large the largest number.
func toHalf(f float32) uint16 {
	h := float16.Fromfloat32(min(max(f, -maxHalf), maxHalf)).Bits()
	if h&0x7c00 == 0 {
		return h & 0x8000
	}
	return h
}
