package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dotBlock256 is dotBlock512 for AVX2.
func dotBlock256(width, block int, c *avx2Consts, numbers Mem) {
	name := fmt.Sprintf("dotBlock256w%db%d", width, block)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + fmt.Sprintf(" is like the plain dot product, with one scale per %d columns. It writes float32[rows].", block))
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	out, rows, nib, bits, scales := load(dotOut), load(dotRows), load(dotNibble), load(dotBits), load(dotScale)
	np, bp, xp, sp, left := GP64(), GP64(), GP64(), GP64(), GP64()
	acc, low, ones := YMM(), YMM(), YMM()
	VMOVDQU(c.ones, ones)
	var u *unpacker256
	if width == 8 {
		VMOVDQU(c.low, low)
	} else {
		u = newUnpacker256(width, c)
	}
	mac := func(sum [2]VecVirtual, w VecVirtual, half int, factor Op) {
		for h := range sum {
			t := YMM()
			VPMADDUBSW(Mem{Base: xp, Disp: 64*h + 32*half}, w, t)
			VPMADDWD(factor, t, t)
			VPADDD(t, sum[h], sum[h])
		}
	}
	Label("row")
	VPXOR(acc, acc, acc)
	MOVQ(nib, np)
	MOVQ(bits, bp)
	MOVQ(scales, sp)
	MOVQ(Mem{Base: args, Disp: dotX}, xp)
	MOVQ(Mem{Base: args, Disp: dotSteps}, left)
	Label("step")
	for half := range 2 {
		sum := [2]VecVirtual{YMM(), YMM()}
		w := YMM()
		VPXOR(sum[0], sum[0], sum[0])
		VPXOR(sum[1], sum[1], sum[1])
		if u == nil {
			hi := YMM()
			VMOVDQU(Mem{Base: np, Disp: 32 * half}, w)
			VPSRLW(Imm(4), w, hi)
			VPAND(low, w, w)
			VPAND(low, hi, hi)
			mac(sum, hi, half, c.sixt)
		} else {
			w = u.half(np, bp, 0, half)
		}
		mac(sum, w, half, ones)
		VPSLLD(Imm(8), sum[0], sum[0])
		VPADDD(sum[0], sum[1], sum[1])
		VCVTDQ2PS(sum[1], sum[1])
		s := YMM()
		if block == 32 {
			VBROADCASTSS(Mem{Base: sp, Disp: 4 * half}, s)
		} else {
			order := YMM()
			VPMOVZXBD(numbers, order)
			VBROADCASTSD(Mem{Base: sp, Disp: 8 * half}, s)
			VPERMPS(s, order, s)
		}
		VFMADD231PS(s, sum[1], acc)
	}
	if u == nil {
		ADDQ(U32(64), np)
	} else {
		ADDQ(U32(32), np)
		ADDQ(U32(uint32(u.maskBytes())), bp)
	}
	ADDQ(U32(128), xp)
	ADDQ(U32(uint32(4*64/block)), sp)
	DECQ(left)
	JNZ(LabelRef("step"))
	reduceFloats(acc, Mem{Base: out})
	ADDQ(U32(4), out)
	ADDQ(Mem{Base: args, Disp: dotNibbleStride}, nib)
	ADDQ(Mem{Base: args, Disp: dotBitsStride}, bits)
	ADDQ(Mem{Base: args, Disp: dotScaleStride}, scales)
	DECQ(rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}
