package gguf

import "encoding/binary"

// unpackFunc splits one stored block into codes (one per weight), sub-scales and sub-minima (one per Layout.Block weights;
// untouched where the type has none) and the block's float16 scale and minimum.
type unpackFunc func(src []byte, codes, sub, submin []uint8) (d, dmin uint16)

const f16Sign = 0x8000

func u16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }

// nibbles writes the low halves of qs to codes[0:n] and the high halves to codes[n:2n], n = len(qs).
func nibbles(codes, qs []uint8) {
	lo, hi := codes[:len(qs)], codes[len(qs):][:len(qs)]
	for i, q := range qs {
		lo[i], hi[i] = q&15, q>>4
	}
}

// fifthBits adds bit i of qh to codes[i] as its bit 4.
func fifthBits(codes []uint8, qh uint32) {
	for i := range codes[:32] {
		codes[i] |= uint8(qh>>i) & 1 << 4
	}
}

// unpackQ4_0 reads d, qs[16]. Q4_0 and IQ4_NL store the same fields; only the meaning of the codes differs.
func unpackQ4_0(src []byte, codes, _, _ []uint8) (d, dmin uint16) {
	nibbles(codes, src[2:18])
	return u16(src), 0
}

// unpackQ4_1 reads d, m, qs[16].
func unpackQ4_1(src []byte, codes, _, _ []uint8) (d, dmin uint16) {
	nibbles(codes, src[4:20])
	return u16(src), u16(src[2:])
}

// unpackQ5_0 reads d, qh[4], qs[16].
func unpackQ5_0(src []byte, codes, _, _ []uint8) (d, dmin uint16) {
	nibbles(codes, src[6:22])
	fifthBits(codes, binary.LittleEndian.Uint32(src[2:]))
	return u16(src), 0
}

// unpackQ5_1 reads d, m, qh[4], qs[16].
func unpackQ5_1(src []byte, codes, _, _ []uint8) (d, dmin uint16) {
	nibbles(codes, src[8:24])
	fifthBits(codes, binary.LittleEndian.Uint32(src[4:]))
	return u16(src), u16(src[2:])
}

// unpackQ8_0 reads d, int8 qs[32].
func unpackQ8_0(src []byte, codes, _, _ []uint8) (d, dmin uint16) {
	for i, q := range src[2:34] {
		codes[i] = q ^ 0x80 // two's complement to offset 128
	}
	return u16(src), 0
}

// twoBits writes the 2-bit fields of qs[64]: each half of 128 weights takes 32 bytes, four planes of 32 weights each.
func twoBits(codes, qs []uint8) {
	for half := range 2 {
		q, c := qs[32*half:][:32], codes[128*half:][:128]
		for i, v := range q {
			c[i], c[i+32], c[i+64], c[i+96] = v&3, v>>2&3, v>>4&3, v>>6
		}
	}
}

// unpackQ2K reads scales[16] (scale low, minimum high), qs[64], d, dmin.
func unpackQ2K(src []byte, codes, sub, submin []uint8) (d, dmin uint16) {
	for i, s := range src[:16] {
		sub[i], submin[i] = s&15, s>>4
	}
	twoBits(codes, src[16:80])
	return u16(src[80:]), u16(src[82:]) ^ f16Sign
}

// unpackQ3K reads hmask[32], qs[64], scales[12], d. Bit k of hmask[i] is the third bit of weight 32k + i.
// Scales: 4 low bits as nibbles in 8 bytes, then the 2 high bits of scale i in byte 8 + i%4 at bit 2·(i/4).
func unpackQ3K(src []byte, codes, sub, _ []uint8) (d, dmin uint16) {
	twoBits(codes, src[32:96])
	hmask := src[:32]
	for k := range 8 {
		c := codes[32*k:][:32]
		for i, h := range hmask {
			c[i] |= h >> k & 1 << 2
		}
	}
	sc := src[96:108]
	for i := range 16 {
		low := sc[i%8] >> (4 * (i / 8)) & 15
		sub[i] = low | sc[8+i%4]>>(2*(i/4))&3<<4
	}
	return u16(src[108:]), 0
}

// scalesK4 unpacks the eight 6-bit scales and minima of Q4_K and Q5_K from 12 bytes: scale i and minimum i (i < 4) are the low
// bits of bytes i and 4+i; for i ≥ 4 the nibbles of byte 4+i are their low bits, and their 2 high bits are the top of bytes i−4
// and i.
func scalesK4(sc, sub, submin []uint8) {
	for i := range 4 {
		a, b, c := sc[i], sc[4+i], sc[8+i]
		sub[i], submin[i] = a&63, b&63
		sub[4+i], submin[4+i] = c&15|a>>6<<4, c>>4|b>>6<<4
	}
}

// unpackQ4K reads d, dmin, scales[12], qs[128]: 64 weights take 32 bytes, the first 32 in the low nibbles.
func unpackQ4K(src []byte, codes, sub, submin []uint8) (d, dmin uint16) {
	scalesK4(src[4:16], sub, submin)
	for k := range 4 {
		nibbles(codes[64*k:][:64], src[16+32*k:][:32])
	}
	return u16(src), u16(src[2:]) ^ f16Sign
}

// unpackQ5K reads d, dmin, scales[12], qh[32], qs[128]: Q4_K with bit k of qh[i] as fifth bit of weight 32k + i.
func unpackQ5K(src []byte, codes, sub, submin []uint8) (d, dmin uint16) {
	scalesK4(src[4:16], sub, submin)
	qh := src[16:48]
	for k := range 4 {
		q, c := src[48+32*k:][:32], codes[64*k:][:64]
		for i, v := range q {
			c[i] = v&15 | qh[i]>>(2*k)&1<<4
			c[i+32] = v>>4 | qh[i]>>(2*k+1)&1<<4
		}
	}
	return u16(src), u16(src[2:]) ^ f16Sign
}

// unpackQ6K reads ql[128], qh[64], int8 scales[16], d: each half of 128 weights takes 64 bytes of ql and 32 of qh.
func unpackQ6K(src []byte, codes, sub, _ []uint8) (d, dmin uint16) {
	for half := range 2 {
		ql, qh, c := src[64*half:][:64], src[128+32*half:][:32], codes[128*half:][:128]
		for i, h := range qh {
			c[i] = ql[i]&15 | h&3<<4
			c[i+32] = ql[i+32]&15 | h>>2&3<<4
			c[i+64] = ql[i]>>4 | h>>4&3<<4
			c[i+96] = ql[i+32]>>4 | h>>6<<4
		}
	}
	copy(sub[:16], src[192:208])
	return u16(src[208:]), 0
}

// unpackIQ4XS reads d, u16 scales_h, scales_l[4], qs[128]: scale i has its 4 low bits in a nibble of scales_l, 2 high bits at bit
// 2i of scales_h.
func unpackIQ4XS(src []byte, codes, sub, _ []uint8) (d, dmin uint16) {
	high := u16(src[2:])
	for i := range 8 {
		sub[i] = src[4+i/2]>>(4*(i%2))&15 | uint8(high>>(2*i))&3<<4
		nibbles(codes[32*i:][:32], src[8+16*i:][:16])
	}
	return u16(src), 0
}
