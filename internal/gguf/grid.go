package gguf

import (
	_ "embed" // ggml/grids.bin
	"encoding/binary"
	"math"
	"math/bits"
)

// The IQ1, IQ2 and IQ3 types store eight or four weights together as the number of a point of a grid. Blocks have 256
// weights. Their weights come from Dequantize only: they have no Layout, because a point is not one code per weight.

// gridPoints has the points of all grids, written by ggml/grids.py from the gguf package.
//
//go:embed ggml/grids.bin
var gridPoints string

// grid is one of the grids: where its points begin in gridPoints, and what their fields mean.
type grid struct {
	first  int // byte of gridPoints
	bits   int // of a field
	levels [8]float32
}

// The grids of the format. They are constant.
var (
	iq2Levels  = [8]float32{8, 25, 43}
	gridIQ2XXS = grid{0, 2, iq2Levels}
	gridIQ2XS  = grid{512, 2, iq2Levels}
	gridIQ2S   = grid{1536, 2, iq2Levels}
	gridIQ3XXS = grid{3584, 3, [8]float32{4, 12, 20, 28, 36, 44, 52, 62}}
	gridIQ3S   = grid{4096, 3, [8]float32{1, 3, 5, 7, 9, 11, 13, 15}}
	gridIQ1    = grid{5120, 2, [8]float32{-1, 0, 1}}
)

// point writes scale × (a point's levels + shift) to dst, which has as many weights as a point. Bit i of signs negates
// weight i. Products are exact in float32: scales have 16 significant bits, levels 6.
func (g *grid) point(n int, scale, shift float32, signs uint8, dst []float32) {
	at := g.first + 2*n
	word, mask := uint(gridPoints[at])|uint(gridPoints[at+1])<<8, uint(1)<<g.bits-1
	for i := range dst {
		x := float32(scale * (g.levels[word&mask] + shift))
		dst[i] = math.Float32frombits(math.Float32bits(x) ^ uint32(signs>>i)<<31)
		word >>= g.bits
	}
}

// evenSigns returns the signs of eight weights of which seven are stored: the number of negative ones is even.
func evenSigns(seven uint32) uint8 {
	s := uint8(seven & 127)
	return s | uint8(bits.OnesCount8(s)&1)<<7
}

// fraction returns (x + 1/2)·unit·d.
func fraction(d float32, x uint8, unit float32) float32 { return d * (float32(x) + 0.5) * unit }

// decodeIQ2XXS reads d, 8 × {points[4], signs 7 bits × 4 and scale 4 bits}.
func decodeIQ2XXS(src []byte, dst []float32) {
	d := F16ToFloat(u16(src))
	for b := range 8 {
		part := src[2+8*b:][:8]
		word := binary.LittleEndian.Uint32(part[4:])
		scale := fraction(d, uint8(word>>28), 0.25)
		for i, n := range part[:4] {
			gridIQ2XXS.point(int(n), scale, 0, evenSigns(word>>(7*i)), dst[32*b+8*i:][:8])
		}
	}
}

// decodeIQ2XS reads d, 32 × {point 9 bits, signs 7 bits}, 16 scales of 4 bits.
func decodeIQ2XS(src []byte, dst []float32) {
	d := F16ToFloat(u16(src))
	for i := range 32 {
		word, nibble := u16(src[2+2*i:]), src[66+i/4]>>(i/2%2*4)&15
		gridIQ2XS.point(int(word&511), fraction(d, nibble, 0.25), 0, evenSigns(uint32(word>>9)), dst[8*i:][:8])
	}
}

// decodeIQ2S reads d, points[32], signs[32], the two high bits of points[8], 16 scales of 4 bits.
func decodeIQ2S(src []byte, dst []float32) {
	d := F16ToFloat(u16(src))
	points, signs, high, scales := src[2:34], src[34:66], src[66:74], src[74:82]
	for i := range 32 {
		n := int(points[i]) | int(high[i/4]>>(i%4*2)&3)<<8
		gridIQ2S.point(n, fraction(d, scales[i/4]>>(i/2%2*4)&15, 0.25), 0, signs[i], dst[8*i:][:8])
	}
}

// decodeIQ3XXS reads d, points[64], 8 × {signs 7 bits × 4 and scale 4 bits}.
func decodeIQ3XXS(src []byte, dst []float32) {
	d := F16ToFloat(u16(src))
	for b := range 8 {
		word := binary.LittleEndian.Uint32(src[66+4*b:])
		scale := fraction(d, uint8(word>>28), 0.5)
		for i, n := range src[2+8*b:][:8] {
			gridIQ3XXS.point(int(n), scale, 0, evenSigns(word>>(i/2*7))>>(i%2*4), dst[32*b+4*i:][:4])
		}
	}
}

// decodeIQ3S reads d, points[64], their ninth bits[8], signs[32], 8 scales of 4 bits.
func decodeIQ3S(src []byte, dst []float32) {
	d := F16ToFloat(u16(src))
	points, high, signs, scales := src[2:66], src[66:74], src[74:106], src[106:110]
	for i := range 64 {
		n := int(points[i]) | int(high[i/8]>>(i%8)&1)<<8
		scale := d * float32(1+2*(scales[i/16]>>(i/8%2*4)&15))
		gridIQ3S.point(n, scale, 0, signs[i/2]>>(i%2*4), dst[4*i:][:4])
	}
}

// iq1Shift is what IQ1_S and IQ1_M add to the levels of a point, or subtract.
func iq1Shift(negative bool) float32 {
	if negative {
		return -0.125
	}
	return 0.125
}

// decodeIQ1S reads d, points[32], 8 × {three high bits of four points, scale 3 bits, sign of the shift}.
func decodeIQ1S(src []byte, dst []float32) {
	d := F16ToFloat(u16(src))
	for b := range 8 {
		high := u16(src[34+2*b:])
		scale, shift := d*float32(2*(high>>12&7)+1), iq1Shift(high&0x8000 != 0)
		for i, n := range src[2+4*b:][:4] {
			gridIQ1.point(int(n)|int(high>>(3*i)&7)<<8, scale, shift, 0, dst[32*b+8*i:][:8])
		}
	}
}

// decodeIQ1M reads points[32], 32 × {three high bits of a point, sign of its shift}, four 16-bit words of four scales of three
// bits, the tops of which are d.
func decodeIQ1M(src []byte, dst []float32) {
	points, high, scales := src[:32], src[32:48], src[48:56]
	var half uint16
	for i := range 4 {
		half |= u16(scales[2*i:]) >> 12 << (4 * i)
	}
	d := F16ToFloat(half)
	for i := range 32 {
		h := high[i/2] >> (i % 2 * 4)
		scale := d * float32(2*(u16(scales[i/8*2:])>>(i/2%4*3)&7)+1)
		gridIQ1.point(int(points[i])|int(h&7)<<8, scale, iq1Shift(h&8 != 0), 0, dst[8*i:][:8])
	}
}
