package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// splitLanes generates what puts each lane's words, which are interleaved in memory, in one piece: 8 words of 8 lanes at a time.
func splitLanes() {
	TEXT("splitLanes", NOSPLIT, "func(dst *uint32, stride int, words *uint32, n int)")
	Pragma("noescape")
	Doc("splitLanes writes 8·n words of each of 32 lanes, interleaved at words, to dst, lanes stride bytes apart.")
	dst, stride, words, n := Load(Param("dst"), GP64()), Load(Param("stride"), GP64()), Load(Param("words"), GP64()), Load(Param("n"), GP64())
	three, five, seven, eight := GP64(), GP64(), GP64(), GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, three)
	LEAQ(Mem{Base: stride, Index: stride, Scale: 4}, five)
	LEAQ(Mem{Base: three, Index: stride, Scale: 4}, seven)
	MOVQ(stride, eight)
	SHLQ(Imm(3), eight)
	to, left := GP64(), GP64()
	Label("block")
	MOVQ(dst, to)
	MOVQ(U32(4), left)
	Label("lanes")
	// Rows i and i + 4 of words side by side, so that shuffles within halves do all of the rest.
	var r [2][4]VecVirtual
	for h := range r {
		for i := range r[h] {
			r[h][i] = YMM()
			VMOVDQU(Mem{Base: words, Disp: 128*i + 16*h}, r[h][i].AsX())
			VINSERTI128(Imm(1), Mem{Base: words, Disp: 128*(i+4) + 16*h}, r[h][i], r[h][i])
		}
	}
	at := [8]Mem{
		{Base: to}, {Base: to, Index: stride, Scale: 1}, {Base: to, Index: stride, Scale: 2}, {Base: to, Index: three, Scale: 1},
		{Base: to, Index: stride, Scale: 4}, {Base: to, Index: five, Scale: 1}, {Base: to, Index: three, Scale: 2}, {Base: to, Index: seven, Scale: 1},
	}
	for h, v := range r {
		ab, cd, ab2, cd2 := YMM(), YMM(), YMM(), YMM()
		VPUNPCKLDQ(v[1], v[0], ab)
		VPUNPCKHDQ(v[1], v[0], ab2)
		VPUNPCKLDQ(v[3], v[2], cd)
		VPUNPCKHDQ(v[3], v[2], cd2)
		t := YMM()
		VPUNPCKLQDQ(cd, ab, t)
		VMOVDQU(t, at[4*h])
		t = YMM()
		VPUNPCKHQDQ(cd, ab, t)
		VMOVDQU(t, at[4*h+1])
		t = YMM()
		VPUNPCKLQDQ(cd2, ab2, t)
		VMOVDQU(t, at[4*h+2])
		t = YMM()
		VPUNPCKHQDQ(cd2, ab2, t)
		VMOVDQU(t, at[4*h+3])
	}
	ADDQ(Imm(32), words)
	ADDQ(eight, to)
	DECQ(left)
	JNZ(LabelRef("lanes"))
	ADDQ(U32(7*128), words)
	ADDQ(Imm(32), dst)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}
