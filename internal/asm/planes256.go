package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// avx2Consts are constant vectors of the AVX2 products, kept in memory because registers are few.
type avx2Consts struct {
	low   Mem            // 0x0f in every byte
	ones  Mem            // 1 in every 16-bit lane
	sixt  Mem            // 16 in every 16-bit lane
	bytes map[int]Mem    // these in every byte
	shift map[int][2]Mem // by the number of high bits: shift counts that bring those of half a step to their place; see addHigh
}

func newAVX2Consts() *avx2Consts {
	vec := func(name string, f func(i int) byte) Mem {
		m := GLOBL(name, RODATA|NOPTR)
		for i := range 32 {
			DATA(i, U8(f(i)))
		}
		return m
	}
	all := func(b byte) func(int) byte { return func(int) byte { return b } }
	even := func(b byte) func(int) byte { return func(i int) byte { return b * byte(1-i%2) } }
	count := func(first, step, each int) func(int) byte { // in 64 bits; `each` bytes have the same
		return func(i int) byte {
			if i%8 > 0 {
				return 0
			}
			return byte(first + i/each*step)
		}
	}
	return &avx2Consts{
		low: vec("bytes15", all(15)), ones: vec("words1", even(1)), sixt: vec("words16", even(16)),
		bytes: map[int]Mem{1: vec("bytes1", all(1)), 7: vec("bytes7", all(7)), 8: vec("bytes8", all(8)),
			248: vec("bytes248", all(248)), 16: vec("bytes16", all(16)), 48: vec("bytes48", all(48))},
		shift: map[int][2]Mem{
			1: {vec("left4321", count(4, -1, 8)), vec("right0123", count(0, 1, 8))},
			2: {vec("left4422", count(4, -2, 16)), vec("right0022", count(0, 2, 16))},
		},
	}
}

// unpacker256 turns planes back into bytes, half a step at a time.
type unpacker256 struct {
	planes
	c   *avx2Consts
	low VecVirtual
}

func newUnpacker256(width int, c *avx2Consts) *unpacker256 {
	u := &unpacker256{planes: planesOf(width), c: c, low: YMM()}
	VMOVDQU(c.low, u.low)
	return u
}

// half returns the codes of half of step j after the pointers.
func (u *unpacker256) half(nibble, bits GPVirtual, j, half int) VecVirtual {
	w := YMM()
	from := Mem{Base: nibble, Disp: u.mainBytes() * j}
	if half == 0 {
		VPAND(from, u.low, w)
	} else {
		VMOVDQU(from, w)
		VPSRLW(Imm(4), w, w)
		VPAND(u.low, w, w)
	}
	if u.high > 0 {
		u.addHigh(bits, j, half, w)
	}
	return w
}

// addHigh adds the bits above the lowest four to 32 codes. Of 5 bits, bit b of byte i is that of column 8b + i: eight columns at
// a time are brought to its place. Of 6 bits, byte i of 16 has two bits of columns i, 16 + i, 32 + i and 48 + i.
func (u *unpacker256) addHigh(bits GPVirtual, j, half int, w VecVirtual) {
	m := YMM()
	from := Mem{Base: bits, Disp: u.maskBytes() * j}
	if u.high == 1 {
		VPBROADCASTQ(from, m)
	} else {
		VBROADCASTI128(from, m)
	}
	if half == 0 {
		VPSLLVQ(u.c.shift[u.high][0], m, m)
	} else {
		VPSRLVQ(u.c.shift[u.high][1], m, m)
	}
	VPAND(u.c.bytes[16*(1<<u.high-1)], m, m)
	VPOR(m, w, w)
}
