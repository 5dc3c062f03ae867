package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets in type gemmBlockArgs of cpu/dot.
const (
	gbAcc         = 8 * iota // float32[tokens][4 rows], added to
	gbRest                   // float32[tokens][4 rows]
	gbTokenScale             // float32[tokens]
	gbCodes                  // uint8[4 rows][64·steps]
	gbStride                 // bytes from one row to the next
	gbScale                  // float32[4 rows][blocks]
	gbScaleStride            // bytes from one row's to the next
	gbX                      // first token's int8[steps][2][64]
	gbXStride                // bytes from one token to the next
	gbSteps
)

// gemmBlock are the registers of a product of four rows and some tokens.
type gemmBlock struct {
	args, steps GPVirtual
	x           [2]GPVirtual // tokens 0 and 2
	xStride     GPVirtual
	w, w2       GPVirtual // rows 0 and 2
	stride      GPVirtual
	s, s2       GPVirtual // scales of rows 0 and 2
	sStride     GPVirtual
}

func newGemmBlock(name, doc string) *gemmBlock {
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + doc)
	g := &gemmBlock{args: GP64()}
	Load(Param("a"), g.args)
	load := argLoader(g.args)
	second := func(base, stride GPVirtual) GPVirtual {
		r := GP64()
		LEAQ(Mem{Base: base, Index: stride, Scale: 2}, r)
		return r
	}
	g.steps, g.xStride, g.stride, g.sStride = load(gbSteps), load(gbXStride), load(gbStride), load(gbScaleStride)
	g.x[0], g.w, g.s = load(gbX), load(gbCodes), load(gbScale)
	g.x[1], g.w2, g.s2 = second(g.x[0], g.xStride), second(g.w, g.stride), second(g.s, g.sStride)
	return g
}

// of returns address `disp` of item i (0 … 3), of which items 0 and 2 have a pointer.
func of(first, third, stride GPVirtual, i, disp int) Mem {
	m := Mem{Base: first, Disp: disp}
	if i >= 2 {
		m.Base = third
	}
	if i%2 == 1 {
		m.Index, m.Scale = stride, 1
	}
	return m
}

// move advances all pointers by a step.
func (g *gemmBlock) move(block int) {
	for _, r := range g.x {
		ADDQ(U32(128), r)
	}
	for _, r := range []GPVirtual{g.w, g.w2} {
		ADDQ(U32(64), r)
	}
	for _, r := range []GPVirtual{g.s, g.s2} {
		ADDQ(U32(4*64/block), r)
	}
}

// finish stores acc + tokenScale · (sum + rest) for token t, given four partial sums of each row.
func (g *gemmBlock) finish(q [4]VecVirtual, out, rest, scale GPVirtual, t int) {
	// (q0 + q2) + (q1 + q3) of each row, in the order of the dot product of one row.
	var half [2]VecVirtual
	for i := range half {
		lo, hi := XMM(), XMM()
		VUNPCKLPS(q[2*i+1], q[2*i], lo)
		VUNPCKHPS(q[2*i+1], q[2*i], hi)
		half[i] = XMM()
		VADDPS(hi, lo, half[i])
	}
	even, odd, s := XMM(), XMM(), XMM()
	VMOVLHPS(half[1], half[0], even)
	VMOVHLPS(half[0], half[1], odd)
	VADDPS(odd, even, even)
	VADDPS(Mem{Base: rest, Disp: 16 * t}, even, even)
	VBROADCASTSS(Mem{Base: scale, Disp: 4 * t}, s)
	VMULPS(s, even, even)
	VADDPS(Mem{Base: out, Disp: 16 * t}, even, even)
	VMOVUPS(even, Mem{Base: out, Disp: 16 * t})
}

func (g *gemmBlock) results() (out, rest, scale GPVirtual) {
	out, rest, scale = GP64(), GP64(), GP64()
	MOVQ(Mem{Base: g.args, Disp: gbAcc}, out)
	MOVQ(Mem{Base: g.args, Disp: gbRest}, rest)
	MOVQ(Mem{Base: g.args, Disp: gbTokenScale}, scale)
	return out, rest, scale
}

// gemmBlock512 multiplies four rows of codes with block scales with 1 to 4 tokens. Its sums have the parts and the order of
// dotBlock512.
func gemmBlock512(tokens, block int, numbers Mem) {
	g := newGemmBlock(fmt.Sprintf("gemmBlock512x%db%d", tokens, block),
		fmt.Sprintf(" multiplies four rows with one scale per %d columns with %d tokens with AVX-512 VNNI.", block, tokens))
	spread := ZMM()
	VPMOVZXBD(numbers, spread)
	acc := make([][4]VecVirtual, tokens)
	for t := range acc {
		for r := range 4 {
			acc[t][r] = ZMM()
			VPXORD(acc[t][r], acc[t][r], acc[t][r])
		}
	}
	var sums [6]VecVirtual
	for i := range sums {
		sums[i] = ZMM()
	}
	Label("step")
	var w, s [4]VecVirtual
	for r := range w {
		w[r], s[r] = ZMM(), ZMM()
		VMOVDQU32(of(g.w, g.w2, g.stride, r, 0), w[r])
		if block == 32 {
			VBROADCASTF32X2(of(g.s, g.s2, g.sStride, r, 0), s[r])
		} else {
			VBROADCASTF32X4(of(g.s, g.s2, g.sStride, r, 0), s[r])
		}
		VPERMPS(s[r], spread, s[r])
	}
	for t := range acc {
		for r := range w {
			v := sums[(4*t+r)%len(sums)]
			VPXORD(v, v, v)
			VPDPBUSD(of(g.x[0], g.x[1], g.xStride, t, 0), w[r], v)
			VPSLLD(Imm(8), v, v)
			VPDPBUSD(of(g.x[0], g.x[1], g.xStride, t, 64), w[r], v)
			VCVTDQ2PS(v, v)
			VFMADD231PS(s[r], v, acc[t][r])
		}
	}
	g.move(block)
	DECQ(g.steps)
	JNZ(LabelRef("step"))
	out, rest, scale := g.results()
	for t := range acc {
		var q [4]VecVirtual
		for r, a := range acc[t] {
			y, x := YMM(), XMM()
			VEXTRACTF64X4(Imm(1), a, y)
			VADDPS(a.AsY(), y, y)
			VEXTRACTF128(Imm(1), y, x)
			q[r] = XMM()
			VADDPS(y.AsX(), x, q[r])
		}
		g.finish(q, out, rest, scale, t)
	}
	VZEROUPPER()
	RET()
}

// gemmBlock256 multiplies four rows with one token, in the parts and the order of dotBlock256; whole takes codes above 127, too.
func gemmBlock256(block int, whole bool, c *avx2Consts, numbers Mem) {
	name, limit := fmt.Sprintf("gemmBlock256b%d", block), " Codes must be below 128."
	if whole {
		name, limit = fmt.Sprintf("gemmBlock256w8b%d", block), ""
	}
	g := newGemmBlock(name, fmt.Sprintf(" multiplies four rows with one scale per %d columns with one token with AVX2.%s",
		block, limit))
	ones, order := YMM(), YMM()
	VMOVDQU(c.ones, ones)
	VPMOVZXBD(numbers, order)
	var acc [4]VecVirtual
	for r := range acc {
		acc[r] = YMM()
		VPXOR(acc[r], acc[r], acc[r])
	}
	Label("step")
	for half := range 2 {
		for r := range acc {
			g.mac256(r, half, block, whole, c, ones, order, acc[r])
		}
	}
	g.move(block)
	DECQ(g.steps)
	JNZ(LabelRef("step"))
	out, rest, scale := g.results()
	var q [4]VecVirtual
	for r, a := range acc {
		x := XMM()
		VEXTRACTF128(Imm(1), a, x)
		q[r] = XMM()
		VADDPS(a.AsX(), x, q[r])
	}
	g.finish(q, out, rest, scale, 0)
	VZEROUPPER()
	RET()
}

// mac256 adds the product of half a step of row r to its partial sums.
func (g *gemmBlock) mac256(r, half, block int, whole bool, c *avx2Consts, ones, order, acc VecVirtual) {
	w, up := YMM(), YMM()
	VMOVDQU(of(g.w, g.w2, g.stride, r, 32*half), w)
	if whole {
		VPSRLW(Imm(4), w, up)
		VPAND(c.low, up, up)
		VPAND(c.low, w, w)
	}
	var sum [2]VecVirtual
	for h := range sum {
		x := Mem{Base: g.x[0], Disp: 64*h + 32*half}
		sum[h] = YMM()
		VPMADDUBSW(x, w, sum[h])
		VPMADDWD(ones, sum[h], sum[h])
		if whole {
			t := YMM()
			VPMADDUBSW(x, up, t)
			VPMADDWD(c.sixt, t, t)
			VPADDD(t, sum[h], sum[h])
		}
	}
	VPSLLD(Imm(8), sum[0], sum[0])
	VPADDD(sum[0], sum[1], sum[1])
	VCVTDQ2PS(sum[1], sum[1])
	s := YMM()
	if block == 32 {
		VBROADCASTSS(of(g.s, g.s2, g.sStride, r, 4*half), s)
	} else {
		VBROADCASTSD(of(g.s, g.s2, g.sStride, r, 8*half), s)
		VPERMPS(s, order, s)
	}
	VFMADD231PS(s, sum[1], acc)
}
