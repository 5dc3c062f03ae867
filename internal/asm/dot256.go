package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// avx2Consts are constant vectors of the AVX2 dot products, kept in memory because registers are few.
type avx2Consts struct {
	low      Mem // 0x0f in every byte
	ones     Mem // 1 in every 16-bit lane
	sixt     Mem // 16 in every 16-bit lane
	spread   Mem // shuffle that repeats byte i of a mask eight times
	selector Mem // bit i of each group of eight bytes
	plane    [2]Mem
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
	return &avx2Consts{
		low: vec("bytes15", all(15)), ones: vec("words1", even(1)), sixt: vec("words16", even(16)),
		spread:   vec("maskSpread", func(i int) byte { return byte(i / 8) }),
		selector: vec("maskSelect", func(i int) byte { return 1 << (i % 8) }),
		plane:    [2]Mem{vec("bytes16", all(16)), vec("bytes32", all(32))},
	}
}

// dot256 is dot512 for AVX2: bytes are multiplied in pairs (VPMADDUBSW, exact while a code times 128 twice fits 16 bits) and widened; whole bytes (planes < 0)
// go in two nibbles, or at once if small says that they are below 128.
func dot256(planes int, small bool, c *avx2Consts) {
	name := fmt.Sprintf("dot256w%d", 4+planes)
	switch {
	case planes < 0 && small:
		name = "dot256w7"
	case planes < 0:
		name = "dot256w8"
	}
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " multiplies rows of packed codes with one vector of 16-bit activations with AVX2.")
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	out, rows, nib, bits := load(dotOut), load(dotRows), load(dotNibble), load(dotBits)
	np, bp, xp, left := GP64(), GP64(), GP64(), GP64()
	acc := [2]VecVirtual{YMM(), YMM()}
	low, ones := YMM(), YMM()
	VMOVDQU(c.low, low)
	VMOVDQU(c.ones, ones)
	// mac adds w (32 codes) times the activations of a half step to both sums.
	mac := func(w VecVirtual, half int, factor Op) {
		for h := range acc {
			t := YMM()
			VPMADDUBSW(Mem{Base: xp, Disp: 64*h + 32*half}, w, t)
			VPMADDWD(factor, t, t)
			VPADDD(t, acc[h], acc[h])
		}
	}
	Label("row")
	for h := range acc {
		VPXOR(acc[h], acc[h], acc[h])
	}
	MOVQ(nib, np)
	MOVQ(bits, bp)
	MOVQ(Mem{Base: args, Disp: dotX}, xp)
	MOVQ(Mem{Base: args, Disp: dotSteps}, left)
	Label("step")
	if planes < 0 {
		for half := range 2 {
			w, hi := YMM(), YMM()
			VMOVDQU(Mem{Base: np, Disp: 32 * half}, w)
			if small {
				mac(w, half, ones)
				continue
			}
			VPSRLW(Imm(4), w, hi)
			VPAND(low, w, w)
			VPAND(low, hi, hi)
			mac(w, half, ones)
			mac(hi, half, c.sixt)
		}
		ADDQ(U32(64), np)
	} else {
		n := YMM()
		VMOVDQU(Mem{Base: np}, n)
		for half := range 2 {
			w := YMM()
			if half == 0 {
				VPAND(low, n, w)
			} else {
				VPSRLW(Imm(4), n, w)
				VPAND(low, w, w)
			}
			addPlanes256(c, planes, bp, half, w)
			mac(w, half, ones)
		}
		ADDQ(U32(32), np)
		ADDQ(U32(uint32(8*planes)), bp)
	}
	ADDQ(U32(128), xp)
	DECQ(left)
	JNZ(LabelRef("step"))
	for h := range acc {
		reduce256(acc[h], Mem{Base: out, Disp: 4 * h})
	}
	ADDQ(U32(8), out)
	ADDQ(Mem{Base: args, Disp: dotNibbleStride}, nib)
	ADDQ(Mem{Base: args, Disp: dotBitsStride}, bits)
	DECQ(rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// addPlanes256 adds the extra bits of 32 codes to w: a mask of 32 bits is spread to bytes, tested bit by bit, and becomes 16 or 32.
func addPlanes256(c *avx2Consts, planes int, bp GPVirtual, half int, w VecVirtual) {
	for p := range planes {
		m := YMM()
		VPBROADCASTD(Mem{Base: bp, Disp: 8*p + 4*half}, m)
		VPSHUFB(c.spread, m, m)
		sel := YMM()
		VMOVDQU(c.selector, sel)
		VPAND(sel, m, m)
		VPCMPEQB(sel, m, m)
		VPAND(c.plane[p], m, m)
		VPOR(m, w, w)
	}
}

// reduce256 stores the sum of 8 int32.
func reduce256(v VecVirtual, to Mem) {
	x, x2 := XMM(), XMM()
	VEXTRACTI128(Imm(1), v, x)
	VPADDD(v.AsX(), x, x2)
	VPSHUFD(Imm(0xee), x2, x)
	VPADDD(x, x2, x2)
	VPSHUFD(Imm(0x55), x2, x)
	VPADDD(x, x2, x2)
	VMOVD(x2, to)
}

// gemm256 multiplies a tile with 1 to 3 tokens with AVX2. VPMADDUBSW saturates, so codes must be below 128; whole adds a second product for
// the upper nibbles and takes any byte, 1 or 2 tokens.
func gemm256(tokens int, whole bool, c *avx2Consts) {
	name, limit := fmt.Sprintf("gemm256x%d", tokens), " Codes must be below 128."
	if whole {
		name, limit = fmt.Sprintf("gemm256w8x%d", tokens), ""
	}
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + fmt.Sprintf(" multiplies a tile of 32 rows with %d tokens with AVX2, 16 rows a pass.%s", tokens, limit))
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	stride, out, tile := load(gemmXStride), load(gemmOut), load(gemmW)
	w, x, x2, steps, pass := GP64(), GP64(), GP64(), GP64(), GP64()
	MOVQ(U32(2), pass)
	acc := make([][2][2]VecVirtual, tokens)
	for t := range acc {
		for h := range 2 {
			acc[t][h] = [2]VecVirtual{YMM(), YMM()}
		}
	}
	at := func(token, disp int) Mem {
		switch token {
		case 0:
			return Mem{Base: x, Disp: disp}
		case 1:
			return Mem{Base: x, Index: stride, Scale: 1, Disp: disp}
		}
		return Mem{Base: x2, Disp: disp}
	}
	Label("pass")
	for t := range acc {
		for h := range 2 {
			for r := range 2 {
				VPXOR(acc[t][h][r], acc[t][h][r], acc[t][h][r])
			}
		}
	}
	MOVQ(tile, w)
	MOVQ(Mem{Base: args, Disp: gemmX}, x)
	LEAQ(Mem{Base: x, Index: stride, Scale: 2}, x2)
	MOVQ(Mem{Base: args, Disp: gemmSteps}, steps)
	Label("step")
	for g := range 16 {
		for t := range acc {
			for h := range 2 {
				b, p := YMM(), YMM()
				VPBROADCASTD(at(t, 4*g+64*h), b)
				for r := range 2 {
					VMOVDQU(Mem{Base: w, Disp: 128*g + 32*r}, p)
					if whole {
						up := YMM()
						VPSRLW(Imm(4), p, up)
						VPAND(c.low, up, up)
						VPAND(c.low, p, p)
						VPMADDUBSW(b, up, up)
						VPMADDWD(c.sixt, up, up)
						VPADDD(up, acc[t][h][r], acc[t][h][r])
					}
					VPMADDUBSW(b, p, p)
					VPMADDWD(c.ones, p, p)
					VPADDD(p, acc[t][h][r], acc[t][h][r])
				}
			}
		}
	}
	ADDQ(U32(128*16), w)
	ADDQ(U32(128), x)
	ADDQ(U32(128), x2)
	DECQ(steps)
	JNZ(LabelRef("step"))
	for t := range acc {
		for h := range 2 {
			for r := range 2 {
				VMOVDQU(acc[t][h][r], Mem{Base: out, Disp: 256*t + 128*h + 32*r})
			}
		}
	}
	ADDQ(U32(64), tile)
	ADDQ(U32(64), out)
	DECQ(pass)
	JNZ(LabelRef("pass"))
	VZEROUPPER()
	RET()
}

// split256 quantizes like split512; the largest magnitude is found in Go.
func split256(packOrder Mem) {
	TEXT("split256", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc("split256 is split512 for AVX2.")
	args := Load(Param("a"), GP64())
	x, steps, out := GP64(), GP64(), GP64()
	MOVQ(Mem{Base: args, Disp: quantX}, x)
	MOVQ(Mem{Base: args, Disp: quantSteps}, steps)
	MOVQ(Mem{Base: args, Disp: quantOut}, out)
	inv, half, sum := YMM(), YMM(), YMM()
	VBROADCASTSS(Mem{Base: args, Disp: quantInv}, inv)
	VPCMPEQD(half, half, half)
	VPSRLD(Imm(31), half, half)
	VPSLLD(Imm(7), half, half)
	VPXOR(sum, sum, sum)
	Label("step")
	for i := range 2 { // 32 columns: four vectors of eight become one of bytes
		var hi, lo [4]VecVirtual
		for j := range 4 {
			v, h := YMM(), YMM()
			VMULPS(Mem{Base: x, Disp: 128*i + 32*j}, inv, v)
			VCVTPS2DQ(v, v)
			VPADDD(v, sum, sum)
			VPADDD(half, v, h)
			VPSRAD(Imm(8), h, h)
			t := YMM()
			VPSLLD(Imm(8), h, t)
			VPSUBD(t, v, v)
			hi[j], lo[j] = h, v
		}
		for k, q := range [][4]VecVirtual{hi, lo} {
			VPACKSSDW(q[1], q[0], q[0])
			VPACKSSDW(q[3], q[2], q[2])
			VPACKSSWB(q[2], q[0], q[0])
			order := YMM()
			VMOVDQU(packOrder, order)
			VPERMD(q[0], order, q[0])
			VMOVDQU(q[0], Mem{Base: out, Disp: 32*i + 64*k})
		}
	}
	ADDQ(U32(256), x)
	ADDQ(U32(128), out)
	DECQ(steps)
	JNZ(LabelRef("step"))
	reduce256(sum, Mem{Base: args, Disp: quantSum})
	VZEROUPPER()
	RET()
}

// newPackOrder undoes the lane-wise order of two rounds of packing.
func newPackOrder() Mem {
	m := GLOBL("packOrder", RODATA|NOPTR)
	for i, d := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(d))
	}
	return m
}
