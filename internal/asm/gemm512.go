package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// GemmRows is the number of rows of a GEMM tile: two vectors of int32 sums.
const gemmRows = 32

// Offsets in type gemmArgs of cpu/dot.
const (
	gemmOut     = 8 * iota // int32[tokens][2][32 rows]
	gemmW                  // uint8[16·steps][32 rows][4 columns]
	gemmX                  // first token's int8[steps][2][64]
	gemmXStride            // bytes from one token to the next
	gemmSteps
)

// gemm512 multiplies a tile of 32 rows with 1 to 6 tokens: each weight vector holds 4 columns of 16 rows, each activation is 4 columns broadcast, so sums need no reduction.
func gemm512(tokens int) {
	name := fmt.Sprintf("gemm512x%d", tokens)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + fmt.Sprintf(" multiplies a tile of 32 rows with %d tokens with AVX-512 VNNI.", tokens))
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	w, steps, stride, x := load(gemmW), load(gemmSteps), load(gemmXStride), load(gemmX)
	// Tokens 0–2 are reached from x, tokens 3–5 from x3, both with index factors 0, 1, 2.
	x3 := GP64()
	LEAQ(Mem{Base: x, Index: stride, Scale: 2}, x3)
	ADDQ(stride, x3)
	at := func(token, disp int) Mem {
		base := x
		if token >= 3 {
			base = x3
		}
		if token%3 == 0 {
			return Mem{Base: base, Disp: disp}
		}
		return Mem{Base: base, Index: stride, Scale: uint8(token % 3), Disp: disp}
	}
	acc := make([][2][2]VecVirtual, tokens) // [token][half][rows 0–15, 16–31]
	for t := range acc {
		for h := range 2 {
			for r := range 2 {
				acc[t][h][r] = ZMM()
				VPXORD(acc[t][h][r], acc[t][h][r], acc[t][h][r])
			}
		}
	}
	Label("step")
	for g := range 16 {
		w0, w1 := ZMM(), ZMM()
		VMOVDQU32(Mem{Base: w, Disp: 128 * g}, w0)
		VMOVDQU32(Mem{Base: w, Disp: 128*g + 64}, w1)
		for t := range acc {
			for h := range 2 {
				m := at(t, 4*g+64*h)
				VPDPBUSD_BCST(m, w0, acc[t][h][0])
				VPDPBUSD_BCST(m, w1, acc[t][h][1])
			}
		}
	}
	ADDQ(U32(128*16), w)
	ADDQ(U32(128), x)
	ADDQ(U32(128), x3)
	DECQ(steps)
	JNZ(LabelRef("step"))
	out := load(gemmOut)
	for t := range acc {
		for h := range 2 {
			for r := range 2 {
				VMOVDQU32(acc[t][h][r], Mem{Base: out, Disp: 256*t + 128*h + 64*r})
			}
		}
	}
	VZEROUPPER()
	RET()
}

// Offsets in type tileArgs of cpu/dot.
const (
	tileCodes  = 8 * iota // uint8[32 rows][64·steps]
	tileStride            // bytes per row
	tileOut               // uint8[16·steps][32 rows][4]
	tileSteps
)

// tile512 reorders 32 rows of codes for gemm512.
func tile512() {
	TEXT("tile512", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc("tile512 reorders 32 rows of codes so that 4 columns of 16 rows form a vector.")
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	codes, stride, out, steps := load(tileCodes), load(tileStride), load(tileOut), load(tileSteps)
	upper := GP64()
	MOVQ(stride, upper)
	SHLQ(Imm(4), upper)
	ADDQ(codes, upper)
	// Byte offsets of 16 rows.
	ix, one, t := ZMM(), ZMM(), GP32()
	MOVL(stride.As32(), t)
	VPBROADCASTD(t, one)
	VPMOVZXBD(rowNumbers(), ix)
	VPMULLD(one, ix, ix)
	all := K()
	MOVL(U32(0xffff), t)
	KMOVW(t, all)
	ks, vs := [2]OpmaskVirtual{K(), K()}, [2]VecVirtual{ZMM(), ZMM()}
	Label("step")
	for g := range 16 {
		for r, base := range []Register{codes, upper} {
			k, v := ks[g%2], vs[g%2]
			KMOVW(all, k)
			VPXORD(v, v, v)
			VPGATHERDD(Mem{Base: base, Index: ix, Scale: 1, Disp: 4 * g}, k, v)
			VMOVDQU32(v, Mem{Base: out, Disp: 128*g + 64*r})
		}
	}
	ADDQ(U32(64), codes)
	ADDQ(U32(64), upper)
	ADDQ(U32(128*16), out)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

func rowNumbers() Mem {
	m := GLOBL("rowNumbers", RODATA|NOPTR)
	for i := range 16 {
		DATA(i, U8(i))
	}
	return m
}
