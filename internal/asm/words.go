package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets in type wordArgs of cpu/dot.
const (
	wordOut     = 8 * iota // int32[tokens][2][32 rows], at the first of the kernel's rows
	wordCodes              // uint8[rows][64·steps]
	wordStride             // bytes from one row to the next
	wordX                  // first token's int16[steps][2][32]: the even columns, then the odd ones
	wordXStride            // bytes from one token to the next
	wordSteps
	wordAhead     // memory that is fetched meanwhile, two lines a step
	wordAheadStep // bytes from one step's to the next one's
)

const (
	wordToken = 256 // bytes of a token's results
	wordPart  = 128 // of their first part
)

// wordGemm generates the product of some rows of codes, one byte each, with the 16-bit activations of some tokens. Even and odd
// columns of a row are taken apart where they lie: a word's low and high byte. A lane's sum of a whole tile fits 32 bits:
// 2048 columns / 8 lanes · 255 · 32,640.
type wordGemm struct {
	w, x             []GPVirtual
	steps, out       GPVirtual
	ahead, aheadStep GPVirtual
	low              VecVirtual     // 255 in every word
	acc              [][]VecVirtual // [token][row]
}

func newWordGemm(name string, rows, tokens int, set string, vec func() VecVirtual) *wordGemm {
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s multiplies %d rows of codes of one byte each with %d tokens with %s.", name, rows, tokens, set))
	args := GP64()
	Load(Param("a"), args)
	load := argLoader(args)
	g := &wordGemm{steps: load(wordSteps), out: load(wordOut), low: vec(), ahead: load(wordAhead), aheadStep: load(wordAheadStep)}
	pointers := func(first, stride GPVirtual, n int) (all []GPVirtual) {
		for i := range n {
			p := first
			if i > 0 {
				p = GP64()
				LEAQ(Mem{Base: all[i-1], Index: stride, Scale: 1}, p)
			}
			all = append(all, p)
		}
		return all
	}
	g.w = pointers(load(wordCodes), load(wordStride), rows)
	g.x = pointers(load(wordX), load(wordXStride), tokens)
	for range tokens {
		var a []VecVirtual
		for range rows {
			a = append(a, vec())
		}
		g.acc = append(g.acc, a)
	}
	return g
}

// loop multiplies all steps.
func (g *wordGemm) loop(step func()) {
	Label("step")
	PREFETCHT1(Mem{Base: g.ahead})
	PREFETCHT1(Mem{Base: g.ahead, Disp: 64})
	ADDQ(g.aheadStep, g.ahead)
	step()
	for _, p := range g.w {
		ADDQ(Imm(64), p)
	}
	for _, p := range g.x {
		ADDQ(U32(128), p)
	}
	DECQ(g.steps)
	JNZ(LabelRef("step"))
}

// wordRows512 and wordTokens512 are the most rows and tokens of a kernel for AVX-512: 24 registers of sums.
const (
	wordRows512   = 4
	wordTokens512 = 6
)

func gemmWords512(tokens int) {
	g := newWordGemm(fmt.Sprintf("gemmWords512x%d", tokens), wordRows512, tokens, "AVX-512 VNNI",
		func() VecVirtual { return ZMM() })
	VPTERNLOGD(U8(0xff), g.low, g.low, g.low)
	VPSRLW(Imm(8), g.low, g.low)
	for _, a := range g.acc {
		for _, v := range a {
			VPXORD(v, v, v)
		}
	}
	codes, x := [wordRows512]VecVirtual{ZMM(), ZMM(), ZMM(), ZMM()}, [2]VecVirtual{ZMM(), ZMM()}
	g.loop(func() {
		for odd := range 2 {
			for r, v := range codes {
				if from := (Mem{Base: g.w[r]}); odd == 0 {
					VPANDD(from, g.low, v)
				} else {
					VPSRLW(Imm(8), from, v)
				}
			}
			for t, acc := range g.acc {
				VMOVDQU32(Mem{Base: g.x[t], Disp: 64 * odd}, x[t%2])
				for r, v := range codes {
					VPDPWSSD(x[t%2], v, acc[r])
				}
			}
		}
	})
	mask := ZMM()
	VPTERNLOGD(U8(0xff), mask, mask, mask)
	VPSRLD(Imm(24), mask, mask)
	for t, acc := range g.acc {
		g.store512(acc, mask, wordToken*t)
	}
	VZEROUPPER()
	RET()
}

// store512 stores the sums of four rows in two parts, 256·hi + lo. Two lanes' sums still fit 32 bits, four do not.
func (g *wordGemm) store512(acc []VecVirtual, mask VecVirtual, to int) {
	var hi, lo [2]VecVirtual
	for i := range 2 {
		a, b := ZMM(), ZMM()
		VPUNPCKLDQ(acc[2*i+1], acc[2*i], a)
		VPUNPCKHDQ(acc[2*i+1], acc[2*i], b)
		VPADDD(a, b, a)
		hi[i], lo[i] = b, a
		VPSRAD(Imm(8), a, b)
		VPANDD(mask, a, a)
	}
	for part, v := range [][2]VecVirtual{hi, lo} {
		a, b := ZMM(), ZMM()
		VPUNPCKLQDQ(v[1], v[0], a)
		VPUNPCKHQDQ(v[1], v[0], b)
		VPADDD(a, b, a)
		y, x := YMM(), XMM()
		VEXTRACTI64X4(Imm(1), a, y)
		VPADDD(a.AsY(), y, y)
		VEXTRACTI128(Imm(1), y, x)
		VPADDD(y.AsX(), x, x)
		VMOVDQU(x, Mem{Base: g.out, Disp: to + wordPart*part})
	}
}

// wordRows256 and wordTokens256 are the most rows and tokens of a kernel for AVX2.
const (
	wordRows256   = 2
	wordTokens256 = 4
)

func gemmWords256(tokens int) {
	g := newWordGemm(fmt.Sprintf("gemmWords256x%d", tokens), wordRows256, tokens, "AVX2", func() VecVirtual { return YMM() })
	VPCMPEQW(g.low, g.low, g.low)
	VPSRLW(Imm(8), g.low, g.low)
	for _, a := range g.acc {
		for _, v := range a {
			VPXOR(v, v, v)
		}
	}
	g.loop(func() {
		for half := range 2 {
			whole := [wordRows256]VecVirtual{YMM(), YMM()}
			for r, v := range whole {
				VMOVDQU(Mem{Base: g.w[r], Disp: 32 * half}, v)
			}
			for odd := range 2 {
				codes := whole
				for r, v := range whole {
					if odd == 0 {
						codes[r] = YMM()
						VPAND(g.low, v, codes[r])
					} else {
						VPSRLW(Imm(8), v, v)
					}
				}
				for t, acc := range g.acc {
					x, p := YMM(), YMM()
					VMOVDQU(Mem{Base: g.x[t], Disp: 64*odd + 32*half}, x)
					VPMADDWD(codes[0], x, p)
					VPADDD(p, acc[0], acc[0])
					VPMADDWD(codes[1], x, x)
					VPADDD(x, acc[1], acc[1])
				}
			}
		}
	})
	mask := YMM()
	VPCMPEQD(mask, mask, mask)
	VPSRLD(Imm(24), mask, mask)
	for t, acc := range g.acc {
		g.store256(acc, mask, wordToken*t)
	}
	VZEROUPPER()
	RET()
}

// store256 stores the sums of two rows in two parts.
func (g *wordGemm) store256(acc []VecVirtual, mask VecVirtual, to int) {
	var hi [wordRows256]VecVirtual
	for r, v := range acc {
		hi[r] = YMM()
		VPSRAD(Imm(8), v, hi[r])
		VPAND(mask, v, v)
	}
	pairs := func(a, b VecVirtual) VecVirtual {
		t := YMM()
		VPUNPCKLDQ(b, a, t)
		VPUNPCKHDQ(b, a, a)
		VPADDD(t, a, a)
		return a
	}
	high, low, t, x := pairs(hi[0], hi[1]), pairs(acc[0], acc[1]), YMM(), XMM()
	VPUNPCKLQDQ(low, high, t)
	VPUNPCKHQDQ(low, high, high)
	VPADDD(t, high, high)
	VEXTRACTI128(Imm(1), high, x)
	VPADDD(high.AsX(), x, x)
	VMOVQ(x, Mem{Base: g.out, Disp: to})
	VPEXTRQ(Imm(1), x, Mem{Base: g.out, Disp: to + wordPart})
}

// words256 generates what joins the halves of activations for gemmWords512 and gemmWords256.
func words256() {
	TEXT("words256", NOSPLIT, "func(v *int16, x *int8, steps int)")
	Pragma("noescape")
	Doc("words256 sets v to 256·hi + lo of steps · 64 activations, of each step the even columns first.")
	v, x, steps := Load(Param("v"), GP64()), Load(Param("x"), GP64()), Load(Param("steps"), GP64())
	high := YMM()
	VPCMPEQW(high, high, high)
	VPSLLW(Imm(8), high, high)
	Label("step")
	for half := range 2 {
		hi, lo, even, t := YMM(), YMM(), YMM(), YMM()
		VMOVDQU(Mem{Base: x, Disp: 32 * half}, hi)
		VMOVDQU(Mem{Base: x, Disp: 64 + 32*half}, lo)
		VPSLLW(Imm(8), lo, even)
		VPSRAW(Imm(8), even, even)
		VPSLLW(Imm(8), hi, t)
		VPADDW(t, even, even)
		VMOVDQU(even, Mem{Base: v, Disp: 32 * half})
		VPSRAW(Imm(8), lo, lo)
		VPAND(high, hi, hi)
		VPADDW(hi, lo, lo)
		VMOVDQU(lo, Mem{Base: v, Disp: 64 + 32*half})
	}
	ADDQ(U32(128), x)
	ADDQ(U32(128), v)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

// addScaled256 generates what scales the sums of a token.
func addScaled256() {
	TEXT("addScaled256", NOSPLIT, "func(acc *float32, hi *int32, lo *int32, fours int, scale float32, offset float64)")
	Pragma("noescape")
	Doc("addScaled256 adds scale · (256·hi + lo + offset) to four numbers of acc at a time. The sum is exact before it is rounded.")
	acc, his, los, left := Load(Param("acc"), GP64()), Load(Param("hi"), GP64()), Load(Param("lo"), GP64()),
		Load(Param("fours"), GP64())
	s, scale, offset, factor, t := XMM(), XMM(), YMM(), YMM(), GP64()
	Load(Param("scale"), s)
	VBROADCASTSS(s, scale)
	x := XMM()
	Load(Param("offset"), x)
	VBROADCASTSD(x, offset)
	MOVQ(U64(math.Float64bits(256)), t)
	VMOVQ(t, x)
	VBROADCASTSD(x, factor)
	Label("four")
	hi, lo, v := YMM(), YMM(), XMM()
	VCVTDQ2PD(Mem{Base: his}, hi)
	VCVTDQ2PD(Mem{Base: los}, lo)
	VFMADD231PD(factor, hi, lo)
	VADDPD(offset, lo, lo)
	VCVTPD2PSY(lo, v)
	VMULPS(scale, v, v)
	VADDPS(Mem{Base: acc}, v, v)
	VMOVUPS(v, Mem{Base: acc})
	for _, p := range []Register{acc, his, los} {
		ADDQ(Imm(16), p)
	}
	DECQ(left)
	JNZ(LabelRef("four"))
	VZEROUPPER()
	RET()
}

// addPairs256 generates addScaled256 for sums whose two parts lie side by side.
func addPairs256() {
	TEXT("addPairs256", NOSPLIT, "func(acc *float32, sums *int32, fours int, scale float32, offset float64)")
	Pragma("noescape")
	Doc("addPairs256 is addScaled256 with hi and lo of each number side by side.")
	acc, sums, left := Load(Param("acc"), GP64()), Load(Param("sums"), GP64()), Load(Param("fours"), GP64())
	s, scale, offset, factors, t := XMM(), XMM(), YMM(), YMM(), GP64()
	Load(Param("scale"), s)
	VBROADCASTSS(s, scale)
	x, one := XMM(), XMM()
	Load(Param("offset"), x)
	VBROADCASTSD(x, offset)
	MOVQ(U64(math.Float64bits(256)), t)
	VMOVQ(t, x)
	MOVQ(U64(math.Float64bits(1)), t)
	VMOVQ(t, one)
	VPUNPCKLQDQ(one, x, x)
	VINSERTI128(Imm(1), x, x.AsY(), factors)
	Label("four")
	a, b, v := YMM(), YMM(), XMM()
	VCVTDQ2PD(Mem{Base: sums}, a)
	VCVTDQ2PD(Mem{Base: sums, Disp: 16}, b)
	VMULPD(factors, a, a)
	VMULPD(factors, b, b)
	VHADDPD(b, a, a) // 0, 2, 1, 3
	VPERMPD(Imm(0xd8), a, a)
	VADDPD(offset, a, a)
	VCVTPD2PSY(a, v)
	VMULPS(scale, v, v)
	VADDPS(Mem{Base: acc}, v, v)
	VMOVUPS(v, Mem{Base: acc})
	ADDQ(Imm(16), acc)
	ADDQ(Imm(32), sums)
	DECQ(left)
	JNZ(LabelRef("four"))
	VZEROUPPER()
	RET()
}

// raise256 generates what adds a number to bytes.
func raise256() {
	TEXT("raise256", NOSPLIT, "func(b *byte, steps int, n uint64)")
	Pragma("noescape")
	Doc("raise256 adds the lowest byte of n to steps · 64 bytes.")
	b, steps := Load(Param("b"), GP64()), Load(Param("steps"), GP64())
	x, n := XMM(), YMM()
	Load(Param("n"), x)
	VPBROADCASTB(x, n)
	Label("step")
	for half := range 2 {
		v, m := YMM(), Mem{Base: b, Disp: 32 * half}
		VPADDB(m, n, v)
		VMOVDQU(v, m)
	}
	ADDQ(Imm(64), b)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}
