package gguf

import (
	"fmt"
	"math"
	"slices"
)

// mxfp4Values are the values of OCP's 4-bit floats E2M1, times two and in order ("OCP Microscaling Formats (MX)
// Specification" 1.0, 5.3.3); the last one is not used. Both zeros are positive, as in ggml.
var mxfp4Values = []int16{-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16}

// mxfp4Code returns the index in mxfp4Values of a float: a sign bit above seven magnitudes.
func mxfp4Code(float uint8) uint8 {
	if float < 8 {
		return 7 + float
	}
	return 15 - float
}

// decodeMXFP4 reads an exponent (E8M0; 255 is not a number) and 32 floats (E2M1) as nibbles: the first 16 weights in the low
// ones.
func decodeMXFP4(src []byte, dst []float32) {
	scale := float32(math.Ldexp(1, int(src[0])-128)) // half of E8M0's value, because mxfp4Values are doubled
	if src[0] == 255 {
		scale = float32(math.NaN())
	}
	for i, q := range src[1:17] {
		dst[i], dst[16+i] = scale*float32(mxfp4Values[mxfp4Code(q&15)]), scale*float32(mxfp4Values[mxfp4Code(q>>4)])
	}
}

// unpackMXFP4 reads the same; d is NaN where checkMXFP4 refuses the exponent, and 0 where all weights are.
func unpackMXFP4(src []byte, codes, _, _ []uint8) (d, dmin uint16) {
	nibbles(codes, src[1:17])
	for i, q := range codes[:32] {
		codes[i] = mxfp4Code(q)
	}
	switch e := int(src[0]) - 128; {
	case isFloat16Exponent(e):
		return FloatToF16(float32(math.Ldexp(1, e))), 0
	case checkMXFP4(src) == nil:
		return 0, 0
	}
	return 0x7e00, 0
}

func isFloat16Exponent(e int) bool { return -24 <= e && e <= 15 }

// checkMXFP4 refuses blocks whose scale is not a float16, as those of Unpack are. Blocks of zeros may have any scale.
func checkMXFP4(src []byte) error {
	e := int(src[0]) - 128
	if isFloat16Exponent(e) || e < 127 && !slices.ContainsFunc(src[1:17], func(q uint8) bool { return q&0x77 != 0 }) {
		return nil
	}
	return fmt.Errorf("the scale of a block is 2^%d; kept as integers it may be 2^-24 to 2^15 (quantize the weights instead: "+
		"--bpw)", e)
}
