package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// absMax512 and split512 quantize activations to 16 bits; type quantArgs of cpu/dot: x, count of whole steps, out, reciprocal of
// the scale, sum.
const (
	quantX = 8 * iota
	quantSteps
	quantOut
	quantInv // float32
	quantSum // absMax512: float32 maximum; split512: int64 sum
)

func absMax512() {
	TEXT("absMax512", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc("absMax512 finds the largest magnitude among steps · 64 values, NaN if there is one: the bits of magnitudes are in their " +
		"order, NaN last.")
	args := Load(Param("a"), GP64())
	x, steps, t := GP64(), GP64(), GP32()
	MOVQ(Mem{Base: args, Disp: quantX}, x)
	MOVQ(Mem{Base: args, Disp: quantSteps}, steps)
	m, v, abs := ZMM(), ZMM(), ZMM()
	MOVL(U32(0x7fffffff), t)
	VPBROADCASTD(t, abs)
	VPXORD(m, m, m)
	Label("step")
	for i := range 4 {
		VPANDD(Mem{Base: x, Disp: 64 * i}, abs, v)
		VPMAXUD(v, m, m)
	}
	ADDQ(U32(256), x)
	DECQ(steps)
	JNZ(LabelRef("step"))
	y, y2, z, z2 := YMM(), YMM(), XMM(), XMM()
	VEXTRACTF64X4(Imm(1), m, y)
	VPMAXUD(m.AsY(), y, y2)
	VEXTRACTF128(Imm(1), y2, z)
	VPMAXUD(y2.AsX(), z, z2)
	VPERMILPS(Imm(0xee), z2, z)
	VPMAXUD(z, z2, z2)
	VPERMILPS(Imm(0x55), z2, z)
	VPMAXUD(z, z2, z2)
	VMOVSS(z2, Mem{Base: args, Disp: quantSum})
	VZEROUPPER()
	RET()
}

func split512() {
	TEXT("split512", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc("split512 rounds steps · 64 values times the reciprocal scale to integers v = 256·hi + lo and writes 64 bytes hi, 64 " +
		"bytes lo per step.")
	args := Load(Param("a"), GP64())
	x, steps, out, t := GP64(), GP64(), GP64(), GP32()
	MOVQ(Mem{Base: args, Disp: quantX}, x)
	MOVQ(Mem{Base: args, Disp: quantSteps}, steps)
	MOVQ(Mem{Base: args, Disp: quantOut}, out)
	inv, half, sum := ZMM(), ZMM(), ZMM()
	VBROADCASTSS(Mem{Base: args, Disp: quantInv}, inv)
	MOVL(U32(128), t)
	VPBROADCASTD(t, half)
	VPXORD(sum, sum, sum)
	Label("step")
	for i := range 4 {
		v, hi := ZMM(), ZMM()
		VMULPS(Mem{Base: x, Disp: 64 * i}, inv, v)
		VCVTPS2DQ(v, v)
		VPADDD(v, sum, sum)
		VPADDD(half, v, hi)
		VPSRAD(Imm(8), hi, hi)
		VPMOVDB(hi, Mem{Base: out, Disp: 16 * i})
		VPMOVDB(v, Mem{Base: out, Disp: 64 + 16*i}) // v − 256·hi has the same low byte
	}
	ADDQ(U32(256), x)
	ADDQ(U32(128), out)
	DECQ(steps)
	JNZ(LabelRef("step"))
	reduce512(sum, Mem{Base: args, Disp: quantSum})
	VZEROUPPER()
	RET()
}
