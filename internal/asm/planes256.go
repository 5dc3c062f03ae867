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
	bytes map[int]Mem    // 16 and 32 in every byte
	shift map[int][2]Mem // shift counts that bring the bits of half a step, of a plane, to where their value is that; see half
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
	count := func(first, step int) func(int) byte { // in 64 bits
		return func(i int) byte {
			if i%8 > 0 {
				return 0
			}
			return byte(first + i/8*step)
		}
	}
	return &avx2Consts{
		low: vec("bytes15", all(15)), ones: vec("words1", even(1)), sixt: vec("words16", even(16)),
		bytes: map[int]Mem{16: vec("bytes16", all(16)), 32: vec("bytes32", all(32))},
		shift: map[int][2]Mem{16: {vec("left4321", count(4, -1)), vec("right0123", count(0, 1))}, 32: {vec("left5432", count(5, -1))}},
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

// half returns the codes of half of step j behind the pointers.
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
	for i := range u.high {
		u.addPlane(Mem{Base: bits, Disp: u.maskBytes()*j + 8*i}, 16<<i, half, w)
	}
	return w
}

// addPlane adds another bit of 32 codes to w. Of column 8b + i it is bit b of byte i: eight columns at a time it is brought to its place.
func (u *unpacker256) addPlane(plane Mem, value, half int, w VecVirtual) {
	m := YMM()
	VPBROADCASTQ(plane, m)
	if half == 0 {
		VPSLLVQ(u.c.shift[value][0], m, m)
		VPAND(u.c.bytes[value], m, m)
		VPOR(m, w, w)
		return
	}
	VPSRLVQ(u.c.shift[16][1], m, m)
	VPAND(u.c.bytes[16], m, m)
	if value == 32 {
		VPADDB(m, m, m)
	}
	VPOR(m, w, w)
}
