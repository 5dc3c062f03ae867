package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// low512 generates what unpacks the low bits of a chunk to bytes, two per lane and step. All lanes are at the same bit of their
// words.
func low512() {
	TEXT("low512", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc("low512 unpacks a chunk's low bits, up to 8 per weight, to one byte each. It changes its arguments.")
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	row, low, twice := load(argDst), load(argLow), load(argLowBits)
	odd := XMM() // how far the odd column's bits move up to stand in the next byte
	back := GP64()
	MOVQ(U32(8), back)
	SUBQ(twice, back)
	VMOVD(back.As32(), odd)
	SHLQ(Imm(1), twice)
	mask, oddMask := ZMM(), ZMM()
	VPBROADCASTD(Mem{Base: args, Disp: argLowMask}, mask)
	VPSLLD(Imm(8), mask, oddMask)
	pos := GP64()
	MOVQ(U32(32), pos)
	var cur [2]VecVirtual
	for h := range cur {
		cur[h] = ZMM()
		VPXORD(cur[h], cur[h], cur[h])
	}
	dst, left := GP64(), GP64()
	Label("row")
	MOVQ(row, dst)
	MOVQ(Mem{Base: args, Disp: argSteps}, left)
	Label("step")
	cnt := XMM()
	VMOVD(pos.As32(), cnt)
	var v [2]VecVirtual
	for h := range v {
		v[h] = ZMM()
		VPSRLD(cnt, cur[h], v[h])
	}
	MOVQ(U32(32), back)
	SUBQ(pos, back)
	ADDQ(twice, pos)
	CMPQ(pos, Imm(32))
	JLE(LabelRef("inside"))
	VMOVD(back.As32(), cnt)
	for h := range v {
		VMOVDQU32(Mem{Base: low, Disp: 64 * h}, cur[h])
		t := ZMM()
		VPSLLD(cnt, cur[h], t)
		VPORD(t, v[h], v[h])
	}
	ADDQ(U32(128), low)
	SUBQ(Imm(32), pos)
	Label("inside")
	for h := range v {
		t, y := ZMM(), YMM()
		VPSLLD(odd, v[h], t)
		VPANDD(oddMask, t, t)
		VPTERNLOGD(U8(0xf8), mask, v[h], t) // t | v & mask
		VPMOVDW(t, y)
		VMOVDQU(y, Mem{Base: dst, Disp: 32 * h})
	}
	ADDQ(U32(64), dst)
	DECQ(left)
	JNZ(LabelRef("step"))
	ADDQ(Mem{Base: args, Disp: argStride}, row)
	DECQ(Mem{Base: args, Disp: argRows})
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}
