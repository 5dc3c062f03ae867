package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dotScale and dotScaleStride follow dotRows in type dotArgs: float32 scales of a row's blocks, and bytes from one row's to the
// next.
const (
	dotScale = dotRows + 8 + 8*iota
	dotScaleStride
)

// dotBlock512 generates the dot product of rows whose blocks of 16 or 32 columns have a scale each; the sum is formed in float32.
func dotBlock512(width, block int, numbers Mem) {
	name := fmt.Sprintf("dotBlock512w%db%d", width, block)
	p := planesOf(width)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + fmt.Sprintf(" is like the plain dot product, with one scale per %d columns. It writes float32[rows].", block))
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	out, rows, nib, scales := load(dotOut), load(dotRows), load(dotNibble), load(dotScale)
	bits := GP64()
	MOVQ(Mem{Base: args, Disp: dotBits}, bits)
	var u *planeUnpacker
	if width < 8 {
		u = newPlaneUnpacker(p)
	}
	spread := ZMM()
	VPMOVZXBD(numbers, spread)
	np, bp, xp, sp, left := GP64(), GP64(), GP64(), GP64(), GP64()
	acc := ZMM()
	Label("row")
	VPXORD(acc, acc, acc)
	MOVQ(nib, np)
	MOVQ(bits, bp)
	MOVQ(scales, sp)
	MOVQ(Mem{Base: args, Disp: dotX}, xp)
	MOVQ(Mem{Base: args, Disp: dotSteps}, left)
	Label("step")
	hi, lo, s := ZMM(), ZMM(), ZMM()
	w := ZMM()
	if u == nil {
		VMOVDQU8(Mem{Base: np}, w)
	} else {
		w = u.step(np, bp, 0)
	}
	prefetch(Mem{Base: np})
	prefetch(Mem{Base: sp})
	VPXORD(hi, hi, hi)
	VPXORD(lo, lo, lo)
	VPDPBUSD(Mem{Base: xp}, w, hi)
	VPDPBUSD(Mem{Base: xp, Disp: 64}, w, lo)
	VPSLLD(Imm(8), hi, hi)
	VPADDD(hi, lo, lo)
	VCVTDQ2PS(lo, lo)
	if block == 32 {
		VBROADCASTF32X2(Mem{Base: sp}, s)
	} else {
		VBROADCASTF32X4(Mem{Base: sp}, s)
	}
	VPERMPS(s, spread, s)
	VFMADD231PS(s, lo, acc)
	ADDQ(U32(uint32(p.mainBytes())), np)
	ADDQ(U32(uint32(p.maskBytes())), bp)
	ADDQ(U32(128), xp)
	ADDQ(U32(uint32(4*64/block)), sp)
	DECQ(left)
	JNZ(LabelRef("step"))
	y, y2 := YMM(), YMM()
	VEXTRACTF64X4(Imm(1), acc, y)
	VADDPS(acc.AsY(), y, y2)
	reduceFloats(y2, Mem{Base: out})
	ADDQ(U32(4), out)
	ADDQ(Mem{Base: args, Disp: dotNibbleStride}, nib)
	ADDQ(Mem{Base: args, Disp: dotBitsStride}, bits)
	ADDQ(Mem{Base: args, Disp: dotScaleStride}, scales)
	DECQ(rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// reduceFloats stores the sum of 8 float32.
func reduceFloats(v VecVirtual, to Mem) {
	x, x2 := XMM(), XMM()
	VEXTRACTF128(Imm(1), v, x)
	VADDPS(v.AsX(), x, x2)
	VPERMILPS(Imm(0xee), x2, x)
	VADDPS(x, x2, x2)
	VPERMILPS(Imm(0x55), x2, x)
	VADDPS(x, x2, x2)
	VMOVSS(x2, to)
}

// blockNumbers returns which of a step's scales each of 16 sums of 4 columns takes.
func blockNumbers(block int) Mem {
	m := GLOBL(fmt.Sprintf("blockNumbers%d", block), RODATA|NOPTR)
	for i := range 16 {
		DATA(i, U8(4*i/block))
	}
	return m
}
