package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// unpackAdd is the offset of the number that unpack256 adds to codes, in type unpackArgs of cpu/dot.
const unpackAdd = 32

// unpack256 is unpack512 for AVX2, and adds a number to the codes.
func unpack256(width int, c *avx2Consts) {
	name := fmt.Sprintf("unpack256w%d", width)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of planes into codes of one byte each, plus a number.")
	args, codes, nibble, bits, steps := packRegisters()
	add := YMM()
	VPBROADCASTB(Mem{Base: args, Disp: unpackAdd}, add)
	u := newUnpacker256(width, c)
	Label("step")
	for half := range 2 {
		w := u.half(nibble, bits, 0, half)
		VPADDB(add, w, w)
		VMOVDQU(w, Mem{Base: codes, Disp: 32 * half})
	}
	ADDQ(U32(64), codes)
	ADDQ(U32(32), nibble)
	if u.high > 0 {
		ADDQ(U32(uint32(u.maskBytes())), bits)
	}
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

// pack256 is pack512 for AVX2. High bits go to their place, see addHigh: eight columns at a time, or 16, are shifted there and
// joined.
func pack256(width int, c *avx2Consts) {
	name := fmt.Sprintf("pack256w%d", width)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of codes of one byte each into planes.")
	_, codes, nibble, bits, steps := packRegisters()
	p := planesOf(width)
	low, high := YMM(), YMM()
	VMOVDQU(c.low, low)
	if p.high > 0 {
		VMOVDQU(c.bytes[16*(1<<p.high-1)], high)
	}
	Label("step")
	var half, top [2]VecVirtual
	for h := range half {
		half[h] = YMM()
		VMOVDQU(Mem{Base: codes, Disp: 32 * h}, half[h])
		if p.high > 0 {
			top[h] = YMM()
			VPAND(high, half[h], top[h])
		}
		VPAND(low, half[h], half[h])
	}
	VPSLLW(Imm(4), half[1], half[1])
	VPOR(half[0], half[1], half[1])
	VMOVDQU(half[1], Mem{Base: nibble})
	if p.high > 0 {
		storeHigh(p.high, top, c, bits)
		ADDQ(U32(uint32(p.maskBytes())), bits)
	}
	ADDQ(U32(64), codes)
	ADDQ(U32(32), nibble)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

// storeHigh joins the high bits of a step's halves, which are in bits 4 and 5 of their bytes.
func storeHigh(high int, top [2]VecVirtual, c *avx2Consts, bits GPVirtual) {
	VPSRLVQ(c.shift[high][0], top[0], top[0])
	VPSLLVQ(c.shift[high][1], top[1], top[1])
	VPOR(top[0], top[1], top[1])
	x, y := XMM(), XMM()
	VEXTRACTI128(Imm(1), top[1], x)
	VPOR(top[1].AsX(), x, x)
	if high == 2 {
		VMOVDQU(x, Mem{Base: bits})
		return
	}
	VPSHUFD(Imm(0xee), x, y)
	VPOR(x, y, y)
	VMOVQ(y, Mem{Base: bits})
}
