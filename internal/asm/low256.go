package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets after argLowBits in the arguments of the AVX2 kernels for low bits (type lowArgs in cpu/decode).
const (
	lowFields     = argLowFields + 8*iota // how many steps' low bits fit 16 bits
	lowPos                                // of the next bit of every lane; moved on
	lowEven                               // 4 × uint16: the low bits of an even weight
	lowOdd                                // likewise, of an odd one, in the second byte
	lowOddFactor                          // likewise: what moves the odd weight's bits there
	lowNextFactor                         // likewise: what moves a step's bits out of the lower half of a product
)

// low256 generates what unpacks the low bits of a row to bytes, and what adds them to the levels that are there.
func low256() {
	for _, add := range []bool{false, true} {
		name, does := "low256", "unpacks the low bits of a row to one byte each"
		if add {
			name, does = "addLow256", "adds the low bits of a row to its levels"
		}
		TEXT(name, NOSPLIT, "func(a *byte)")
		Pragma("noescape")
		Doc(name + " " + does + " with AVX2, up to 8 per weight, and moves on in its arguments.")
		(&lowGen{add: add}).body()
	}
}

// lowGen generates a kernel for low bits. All lanes are at the same bit of their words; 16 bits of 16 lanes are taken at a time.
type lowGen struct {
	add             bool
	args, low       Register
	twice           GPVirtual
	pos, dst        Register
	x               [2]VecVirtual // 16 lanes each
	even, odd, half VecVirtual
	oddFactor, next VecVirtual
}

func (g *lowGen) body() {
	g.args = Load(Param("a"), GP64())
	load := argLoader(g.args)
	g.low, g.twice = load(argLow), GP64()
	MOVQ(Mem{Base: g.args, Disp: argLowBits}, g.twice)
	SHLQ(Imm(1), g.twice)
	g.even, g.odd, g.oddFactor, g.next, g.half = YMM(), YMM(), YMM(), YMM(), YMM()
	VPBROADCASTQ(Mem{Base: g.args, Disp: lowEven}, g.even)
	VPBROADCASTQ(Mem{Base: g.args, Disp: lowOdd}, g.odd)
	VPBROADCASTQ(Mem{Base: g.args, Disp: lowOddFactor}, g.oddFactor)
	VPBROADCASTQ(Mem{Base: g.args, Disp: lowNextFactor}, g.next)
	VPCMPEQD(g.half, g.half, g.half)
	VPSRLD(Imm(16), g.half, g.half)
	g.pos, g.dst = load(lowPos), load(argDst)
	left, some := load(argSteps), GP64()
	Label("some")
	MOVQ(Mem{Base: g.args, Disp: lowFields}, some)
	CMPQ(left, some)
	CMOVQLT(left, some)
	SUBQ(some, left)
	g.take(some)
	Label("step")
	g.step()
	DECQ(some)
	JNZ(LabelRef("step"))
	TESTQ(left, left)
	JNZ(LabelRef("some"))
	MOVQ(g.pos, Mem{Base: g.args, Disp: lowPos})
	VZEROUPPER()
	RET()
}

// take reads the low bits of the next steps and moves on past them.
func (g *lowGen) take(steps GPVirtual) {
	at, bit, end := GP64(), GP64(), GP64()
	MOVQ(g.pos, at)
	SHRQ(Imm(5), at)
	SHLQ(Imm(7), at)
	ADDQ(g.low, at)
	MOVQ(g.pos, bit)
	ANDQ(Imm(31), bit)
	MOVQ(steps, end)
	IMULQ(g.twice, end)
	ADDQ(end, g.pos)
	ADDQ(bit, end)
	cnt := XMM()
	VMOVQ(bit, cnt)
	var v [4]VecVirtual
	for q := range v {
		v[q] = YMM()
		VMOVDQU(Mem{Base: at, Disp: 32 * q}, v[q])
		VPSRLD(cnt, v[q], v[q])
	}
	CMPQ(end, Imm(32))
	JLE(LabelRef("inside"))
	MOVQ(U32(32), end)
	SUBQ(bit, end)
	VMOVQ(end, cnt)
	for q := range v {
		t := YMM()
		VMOVDQU(Mem{Base: at, Disp: 128 + 32*q}, t)
		VPSLLD(cnt, t, t)
		VPOR(t, v[q], v[q])
	}
	Label("inside")
	for h := range g.x {
		VPAND(g.half, v[2*h], v[2*h])
		VPAND(g.half, v[2*h+1], v[2*h+1])
		g.x[h] = YMM()
		VPACKUSDW(v[2*h+1], v[2*h], g.x[h])
		VPERMQ(Imm(0xd8), g.x[h], g.x[h])
	}
}

// step writes the low bits of the next step. Products are shifts in one instruction, where shifts by a register are two.
func (g *lowGen) step() {
	for h, x := range g.x {
		to := Mem{Base: g.dst, Disp: 32 * h}
		even, odd := YMM(), YMM()
		VPAND(g.even, x, even)
		VPMULLW(g.oddFactor, x, odd)
		VPAND(g.odd, odd, odd)
		VPOR(odd, even, even)
		if g.add {
			VPOR(to, even, even)
		}
		VMOVDQU(even, to)
		VPMULHUW(g.next, x, x)
	}
	ADDQ(Imm(64), g.dst)
}
