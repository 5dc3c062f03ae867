package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A step of 8-bit activations in memory: 64 bytes q, its factor twice in 32 bits, the factor of the nibbles likewise, and nibbles
// n + 8, the low ones of columns 0 to 31, the high ones of columns 32 to 63. The nibbles count where their factor is not 0.
const (
	narrowFactor  = 64
	nibbleFactor  = 68
	narrowNibbles = 96
	narrowBytes   = 128
)

// narrowDotter generates the dot product of rows of packed codes with 8-bit activations for AVX2. VPMADDUBSW multiplies bytes and
// adds pairs, exactly while two or four products fit 16 bits; VPMADDWD, which widens them, multiplies by the step's factor. Four
// rows at a time share the loads of activations.
type narrowDotter struct {
	c               *avx2Consts
	args, out       Register
	xp, left        GPVirtual
	nib, bits       [4]GPVirtual
	u               *unpacker256 // nil: whole bytes
	low             VecVirtual   // nibble mask for codes of 8 bits
	width, mainSize int
	acc, upper      [4]VecVirtual // upper: of the upper nibbles of codes of 8 bits
	labels          int
}

// narrow256 is dot256 for 8-bit activations; with bytes set, codes are whole bytes below 1<<width.
func narrow256(name string, width int, bytes bool, c *avx2Consts) {
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " multiplies rows of packed codes with one vector of 8-bit activations with AVX2.")
	d := &narrowDotter{c: c, args: Load(Param("a"), GP64()), width: width, mainSize: 64}
	d.out, d.xp, d.left = argLoader(d.args)(dotOut), GP64(), GP64()
	if !bytes {
		d.u = newUnpacker256(width, c)
		d.mainSize = d.u.mainBytes()
	}
	if width == 8 {
		d.low = YMM()
		VMOVDQU(c.low, d.low)
	}
	for r := range d.acc {
		d.nib[r], d.bits[r], d.acc[r] = GP64(), GP64(), YMM()
		if width == 8 {
			d.upper[r] = YMM()
		}
	}
	Label("rows")
	SUBQ(Imm(4), Mem{Base: d.args, Disp: dotRows})
	JL(LabelRef("last"))
	d.group("four", 4)
	JMP(LabelRef("rows"))
	Label("last")
	ADDQ(Imm(4), Mem{Base: d.args, Disp: dotRows})
	JZ(LabelRef("done"))
	Label("row")
	d.group("one", 1)
	DECQ(Mem{Base: d.args, Disp: dotRows})
	JNZ(LabelRef("row"))
	Label("done")
	VZEROUPPER()
	RET()
}

// stepsNarrow is how many steps follow each other in the loop.
const stepsNarrow = 2

// group multiplies the next rows.
func (d *narrowDotter) group(label string, rows int) {
	d.point(rows)
	MOVQ(Mem{Base: d.args, Disp: dotX}, d.xp)
	MOVQ(Mem{Base: d.args, Disp: dotSteps}, d.left)
	for r := range rows {
		VPXOR(d.acc[r], d.acc[r], d.acc[r])
		if d.width == 8 {
			VPXOR(d.upper[r], d.upper[r], d.upper[r])
		}
	}
	SUBQ(Imm(stepsNarrow), d.left)
	JL(LabelRef(label + "rest"))
	Label(label + "some")
	for j := range stepsNarrow {
		d.step(rows, j)
	}
	d.move(rows, stepsNarrow)
	SUBQ(Imm(stepsNarrow), d.left)
	JGE(LabelRef(label + "some"))
	Label(label + "rest")
	ADDQ(Imm(stepsNarrow), d.left)
	JZ(LabelRef(label + "sum"))
	d.step(rows, 0) // stepsNarrow is 2: one is left
	Label(label + "sum")
	for r := 0; r < rows; r += 2 {
		d.store(r, min(2, rows-r))
	}
	ADDQ(U32(uint32(8*rows)), d.out)
}

// point sets the pointers to the next rows and moves those in the arguments on.
func (d *narrowDotter) point(rows int) {
	next := func(at, stride int, p *[4]GPVirtual) {
		MOVQ(Mem{Base: d.args, Disp: at}, p[0])
		for r := 1; r < rows; r++ {
			MOVQ(p[r-1], p[r])
			ADDQ(Mem{Base: d.args, Disp: stride}, p[r])
		}
		MOVQ(p[rows-1], d.left)
		ADDQ(Mem{Base: d.args, Disp: stride}, d.left)
		MOVQ(d.left, Mem{Base: d.args, Disp: at})
	}
	next(dotNibble, dotNibbleStride, &d.nib)
	if d.u != nil && d.u.high > 0 {
		next(dotBits, dotBitsStride, &d.bits)
	}
}

// step multiplies the 64 columns of step j after the pointers.
func (d *narrowDotter) step(rows, j int) {
	var x [2]VecVirtual
	for h := range x {
		x[h] = YMM()
		VMOVDQU(Mem{Base: d.xp, Disp: narrowBytes*j + 32*h}, x[h])
	}
	factor := YMM()
	VPBROADCASTD(Mem{Base: d.xp, Disp: narrowBytes*j + narrowFactor}, factor)
	add := func(s, acc VecVirtual) {
		VPMADDWD(factor, s, s)
		VPADDD(s, acc, acc)
	}
	for r := range rows {
		if j*d.mainSize%64 == 0 {
			prefetch(Mem{Base: d.nib[r], Disp: j * d.mainSize})
		}
		if j == 0 && d.u != nil && d.u.high > 0 {
			prefetch(Mem{Base: d.bits[r]})
		}
		var sum, upper VecVirtual
		for half := range 2 {
			w, s := d.codes(r, j, half), YMM()
			if d.width == 8 {
				up := YMM()
				VPSRLW(Imm(4), w, up)
				VPAND(d.low, up, up)
				VPAND(d.low, w, w)
				VPMADDUBSW(x[half], up, up)
				upper = joinSums(upper, up)
			}
			VPMADDUBSW(x[half], w, s)
			if d.width == 7 {
				add(s, d.acc[r])
				continue
			}
			sum = joinSums(sum, s)
		}
		if d.width < 7 || d.width == 8 {
			add(sum, d.acc[r])
		}
		if d.width == 8 {
			add(upper, d.upper[r])
		}
	}
	d.labels++
	skip := fmt.Sprintf("exact%d", d.labels)
	CMPL(Mem{Base: d.xp, Disp: narrowBytes*j + nibbleFactor}, Imm(0))
	JE(LabelRef(skip))
	d.nibbles(rows, j)
	Label(skip)
}

// nibbles adds the products of a step's nibbles: four of them with any codes fit 16 bits.
func (d *narrowDotter) nibbles(rows, j int) {
	n := loadNibbles(d.c, d.xp, narrowBytes*j)
	factor := YMM()
	VPBROADCASTD(Mem{Base: d.xp, Disp: narrowBytes*j + nibbleFactor}, factor)
	for r := range rows {
		var sum VecVirtual
		for half := range 2 {
			w, s := d.codes(r, j, half), YMM()
			VPMADDUBSW(n[half], w, s)
			sum = joinSums(sum, s)
		}
		VPMADDWD(factor, sum, sum)
		VPADDD(sum, d.acc[r], d.acc[r])
	}
}

// loadNibbles returns the nibbles of the two halves of a step.
func loadNibbles(c *avx2Consts, x GPVirtual, at int) [2]VecVirtual {
	n := [2]VecVirtual{YMM(), YMM()}
	VMOVDQU(Mem{Base: x, Disp: at + narrowNibbles}, n[0])
	VPSRLW(Imm(4), n[0], n[1])
	for h := range n {
		VPAND(c.low, n[h], n[h])
		VPSUBB(c.bytes[8], n[h], n[h])
	}
	return n
}

// joinSums adds s to sum, if there is one.
func joinSums(sum, s VecVirtual) VecVirtual {
	if sum == nil {
		return s
	}
	VPADDW(s, sum, sum)
	return sum
}

// codes returns half of step j of a row.
func (d *narrowDotter) codes(r, j, half int) VecVirtual {
	if d.u != nil {
		return d.u.half(d.nib[r], d.bits[r], j, half)
	}
	w := YMM()
	VMOVDQU(Mem{Base: d.nib[r], Disp: 64*j + 32*half}, w)
	return w
}

// move moves on by n steps.
func (d *narrowDotter) move(rows, n int) {
	for r := range rows {
		ADDQ(U32(uint32(d.mainSize*n)), d.nib[r])
		if d.u != nil && d.u.high > 0 {
			ADDQ(U32(uint32(d.u.maskBytes()*n)), d.bits[r])
		}
	}
	ADDQ(U32(uint32(narrowBytes*n)), d.xp)
}

// store stores the sums of one or two rows in two parts, 256·hi + lo, which have the same sum as the lanes' parts.
func (d *narrowDotter) store(first, n int) {
	var pair [2]VecVirtual
	mask := YMM()
	VPCMPEQD(mask, mask, mask)
	VPSRLD(Imm(24), mask, mask)
	for i := range n {
		acc := d.acc[first+i]
		if d.width == 8 {
			VPSLLD(Imm(4), d.upper[first+i], d.upper[first+i])
			VPADDD(d.upper[first+i], acc, acc)
		}
		hi := YMM()
		VPSRAD(Imm(8), acc, hi)
		VPAND(mask, acc, acc)
		VPHADDD(acc, hi, hi)
		pair[i] = hi
	}
	if n == 1 {
		pair[1] = pair[0]
	}
	VPHADDD(pair[1], pair[0], pair[0])
	x := XMM()
	VEXTRACTI128(Imm(1), pair[0], x)
	VPADDD(pair[0].AsX(), x, x)
	to := Mem{Base: d.out, Disp: 8 * first}
	if n == 1 {
		VMOVQ(x, to)
	} else {
		VMOVDQU(x, to)
	}
}

// Offsets in type narrowArgs of cpu/dot.
const (
	narrowX = 8 * iota // float32[steps][64]
	narrowSteps
	narrowOut    // int8[steps][128]
	narrowScales // float32[steps][4]: what a step's activations are multiplied by, its factor, the same of what is left, for nibbles
	narrowSum    // int64: Σ v
)

// stepMax256 generates what finds the largest magnitude of every step.
func stepMax256() {
	TEXT("stepMax256", NOSPLIT, "func(x *float32, steps int, out *float32)")
	Pragma("noescape")
	Doc("stepMax256 sets out to the largest magnitude of every step of 64 values, NaN if there is one.")
	x, steps, out := Load(Param("x"), GP64()), Load(Param("steps"), GP64()), Load(Param("out"), GP64())
	mask := YMM()
	VPCMPEQD(mask, mask, mask)
	VPSRLD(Imm(1), mask, mask)
	Label("step")
	var m [8]VecVirtual
	for i := range m { // as whole numbers: bits of magnitudes have their order, NaNs above all
		m[i] = YMM()
		VPAND(Mem{Base: x, Disp: 32 * i}, mask, m[i])
	}
	for n := 4; n > 0; n /= 2 {
		for i := range n {
			VPMAXSD(m[i+n], m[i], m[i])
		}
	}
	a, b := XMM(), XMM()
	VEXTRACTI128(Imm(1), m[0], a)
	VPMAXSD(m[0].AsX(), a, a)
	VPSHUFD(Imm(0xee), a, b)
	VPMAXSD(b, a, a)
	VPSHUFD(Imm(0x55), a, b)
	VPMAXSD(b, a, a)
	VMOVD(a, Mem{Base: out})
	ADDQ(Imm(4), out)
	ADDQ(U32(256), x)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

// splitNarrow256 generates the quantizer of 8-bit activations.
func splitNarrow256(packOrder Mem, c *avx2Consts) {
	TEXT("splitNarrow256", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc("splitNarrow256 rounds values times their step's scale to bytes, writes each step's factor after them, and adds up " +
		"factor times byte.")
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	x, steps, out, scales := load(narrowX), load(narrowSteps), load(narrowOut), load(narrowScales)
	sum := YMM()
	VPXOR(sum, sum, sum)
	Label("step")
	factors := [2]VecVirtual{YMM(), YMM()}
	for i, f := range factors {
		VBROADCASTSS(Mem{Base: scales, Disp: 4 + 8*i}, f)
		VCVTPS2DQ(f, f)
		VPACKSSDW(f, f, f)
		VMOVD(f.AsX(), Mem{Base: out, Disp: narrowFactor + 4*i})
	}
	var nibble [2]VecVirtual
	for i := range 2 {
		var q [4]VecVirtual
		n := [4]VecVirtual{YMM(), YMM(), YMM(), YMM()}
		scale, more := YMM(), YMM()
		VBROADCASTSS(Mem{Base: scales}, scale)
		VBROADCASTSS(Mem{Base: scales, Disp: 8}, more)
		for j := range q {
			q[j] = YMM()
			VMULPS(Mem{Base: x, Disp: 128*i + 32*j}, scale, n[j])
			VCVTPS2DQ(n[j], q[j])
			t := YMM()
			VCVTDQ2PS(q[j], t)
			VSUBPS(t, n[j], n[j])
			VMULPS(more, n[j], n[j])
			VCVTPS2DQ(n[j], n[j])
		}
		bytes := packBytes(q, packOrder)
		VMOVDQU(bytes, Mem{Base: out, Disp: 32 * i})
		nibble[i] = packBytes(n, packOrder)
		VPMINSB(c.bytes[7], nibble[i], nibble[i])
		VPMAXSB(c.bytes[-8&255], nibble[i], nibble[i])
		for k, v := range []VecVirtual{bytes, nibble[i]} {
			one := YMM()
			VMOVDQU(c.bytes[1], one)
			VPMADDUBSW(v, one, one)
			VPMADDWD(factors[k], one, one)
			VPADDD(one, sum, sum)
		}
		VPADDB(c.bytes[8], nibble[i], nibble[i])
	}
	VPSLLW(Imm(4), nibble[1], nibble[1])
	VPOR(nibble[0], nibble[1], nibble[1])
	VMOVDQU(nibble[1], Mem{Base: out, Disp: narrowNibbles})
	ADDQ(U32(256), x)
	ADDQ(U32(narrowBytes), out)
	ADDQ(Imm(16), scales)
	DECQ(steps)
	JNZ(LabelRef("step"))
	lo, hi := XMM(), YMM()
	VEXTRACTI128(Imm(1), sum, lo)
	VPMOVSXDQ(lo, hi)
	wide := YMM()
	VPMOVSXDQ(sum.AsX(), wide)
	VPADDQ(hi, wide, wide)
	VEXTRACTI128(Imm(1), wide, lo)
	VPADDQ(wide.AsX(), lo, lo)
	top := XMM()
	VPSHUFD(Imm(0xee), lo, top)
	VPADDQ(top, lo, lo)
	VMOVQ(lo, Mem{Base: args, Disp: narrowSum})
	VZEROUPPER()
	RET()
}

// packBytes packs 32 whole numbers.
func packBytes(v [4]VecVirtual, packOrder Mem) VecVirtual {
	VPACKSSDW(v[1], v[0], v[0])
	VPACKSSDW(v[3], v[2], v[2])
	VPACKSSWB(v[2], v[0], v[0])
	order := YMM()
	VMOVDQU(packOrder, order)
	VPERMD(v[0], order, order)
	return order
}

// joinNarrow256 generates what multiplies bytes by their factors.
func joinNarrow256() {
	TEXT("joinNarrow256", NOSPLIT, "func(v *int16, x *int8, steps int)")
	Pragma("noescape")
	Doc("joinNarrow256 sets v to factor · q and what the nibbles add, of steps · 64 activations.")
	v, x, steps := Load(Param("v"), GP64()), Load(Param("x"), GP64()), Load(Param("steps"), GP64())
	low, eight := YMM(), YMM() // in words
	VPCMPEQW(low, low, low)
	VPSRLW(Imm(15), low, eight)
	VPSLLW(Imm(3), eight, eight)
	VPSRLW(Imm(12), low, low)
	Label("step")
	factor, more := YMM(), YMM()
	VPBROADCASTW(Mem{Base: x, Disp: narrowFactor}, factor)
	VPBROADCASTW(Mem{Base: x, Disp: nibbleFactor}, more)
	for i := range 4 {
		q, n := YMM(), YMM()
		VPMOVSXBW(Mem{Base: x, Disp: 16 * i}, q)
		VPMULLW(factor, q, q)
		VPMOVZXBW(Mem{Base: x, Disp: narrowNibbles + 16*(i%2)}, n)
		if i > 1 {
			VPSRLW(Imm(4), n, n)
		}
		VPAND(low, n, n)
		VPSUBW(eight, n, n)
		VPMULLW(more, n, n)
		VPADDW(n, q, q)
		VMOVDQU(q, Mem{Base: v, Disp: 32 * i})
	}
	ADDQ(U32(narrowBytes), x)
	ADDQ(U32(128), v)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

// Offsets in type gemmArgs of cpu/dot.
const (
	gemmOut     = 8 * iota // int32[tokens][2][32 rows]
	gemmW                  // uint8[16·steps][32 rows][4 columns]
	gemmX                  // first token's int8[steps][2][64]
	gemmXStride            // bytes from one token to the next
	gemmSteps
)

// gemmNarrow256 generates the product of a panel with 1 to 4 tokens of 8-bit activations, 16 rows a pass. Codes are below 64 or
// 128: the products of two groups of columns, or one, fit 16 bits. Codes of 8 bits go in two nibbles. A caller passes no more
// steps than 32 bits hold the sums of.
func gemmNarrow256(tokens, width int, c *avx2Consts) {
	name := fmt.Sprintf("gemmNarrow256w%dx%d", width, tokens)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + fmt.Sprintf(" adds the product of a panel of 32 rows and %d tokens of 8-bit activations to out with AVX2, "+
		"16 rows a pass. Codes must be below %d.", tokens, 1<<width))
	g := &narrowGemm{args: Load(Param("a"), GP64()), c: c, width: width, w: GP64(), local: AllocLocal(64)}
	load := argLoader(g.args)
	out, panel, steps, pass := load(gemmOut), load(gemmW), GP64(), GP64()
	for t := range tokens {
		g.x = append(g.x, GP64())
		g.acc = append(g.acc, [2]VecVirtual{YMM(), YMM()})
		_ = t
	}
	MOVQ(U32(2), pass)
	Label("pass")
	MOVQ(panel, g.w)
	MOVQ(Mem{Base: g.args, Disp: gemmX}, g.x[0])
	MOVQ(Mem{Base: g.args, Disp: gemmSteps}, steps)
	for t, acc := range g.acc {
		if t > 0 {
			MOVQ(g.x[t-1], g.x[t])
			ADDQ(Mem{Base: g.args, Disp: gemmXStride}, g.x[t])
		}
		for _, a := range acc {
			VPXOR(a, a, a)
		}
	}
	Label("step")
	g.step()
	ADDQ(U32(128*16), g.w)
	for _, x := range g.x {
		ADDQ(U32(narrowBytes), x)
	}
	DECQ(steps)
	JNZ(LabelRef("step"))
	g.store(out)
	ADDQ(U32(64), panel)
	ADDQ(U32(64), out)
	DECQ(pass)
	JNZ(LabelRef("pass"))
	VZEROUPPER()
	RET()
}

// narrowGemm holds the registers of gemmNarrow256.
type narrowGemm struct {
	args  Register
	c     *avx2Consts
	width int
	w     GPVirtual
	x     []GPVirtual
	acc   [][2]VecVirtual // [token][8 rows]
	local Mem             // nibbles of a step, one byte each
}

// step multiplies the 16 groups of 4 columns of a step.
func (g *narrowGemm) step() {
	groups := 1 // whose products fit 16 bits
	if g.width == 6 {
		groups = 2
	}
	for first := 0; first < 16; first += groups {
		for r := range 2 {
			var p [2]VecVirtual
			for i := range groups {
				p[i] = YMM()
				VMOVDQU(Mem{Base: g.w, Disp: 128*(first+i) + 32*r}, p[i])
			}
			if g.width == 8 {
				g.whole(p[0], first, r)
				continue
			}
			for t := range g.acc {
				sum := g.multiply(p[0], t, first)
				if groups == 2 {
					VPADDW(g.multiply(p[1], t, first+1), sum, sum)
				}
				factor := YMM()
				VPBROADCASTD(Mem{Base: g.x[t], Disp: narrowFactor}, factor)
				VPMADDWD(factor, sum, sum)
				VPADDD(sum, g.acc[t][r], g.acc[t][r])
			}
		}
	}
	for t := range g.acc {
		skip := fmt.Sprintf("exact%d", t)
		CMPL(Mem{Base: g.x[t], Disp: nibbleFactor}, Imm(0))
		JE(LabelRef(skip))
		g.nibbles(t)
		Label(skip)
	}
}

// nibbles adds the products of a step's nibbles of one token: those of four groups of columns fit 16 bits.
func (g *narrowGemm) nibbles(t int) {
	for h, n := range loadNibbles(g.c, g.x[t], 0) {
		VMOVDQU(n, g.local.Offset(32*h))
	}
	factor := YMM()
	VPBROADCASTD(Mem{Base: g.x[t], Disp: nibbleFactor}, factor)
	for first := 0; first < 16; first += 4 {
		for r := range 2 {
			var sum VecVirtual
			for i := first; i < first+4; i++ {
				p, n := YMM(), YMM()
				VMOVDQU(Mem{Base: g.w, Disp: 128*i + 32*r}, p)
				VPBROADCASTD(g.local.Offset(4*i), n)
				VPMADDUBSW(n, p, n)
				sum = joinSums(sum, n)
			}
			VPMADDWD(factor, sum, sum)
			VPADDD(sum, g.acc[t][r], g.acc[t][r])
		}
	}
}

// multiply returns the products of a group of columns, in 16 bits.
func (g *narrowGemm) multiply(p VecVirtual, t, group int) VecVirtual {
	s := YMM()
	VPBROADCASTD(Mem{Base: g.x[t], Disp: 4 * group}, s)
	VPMADDUBSW(s, p, s)
	return s
}

// whole multiplies a group of columns of codes of 8 bits: the upper nibbles' sums, times 16, and the lower ones' add up in 32
// bits.
func (g *narrowGemm) whole(p VecVirtual, group, r int) {
	up := YMM()
	VPSRLW(Imm(4), p, up)
	VPAND(g.c.low, up, up)
	VPAND(g.c.low, p, p)
	for t := range g.acc {
		lo, hi := g.multiply(p, t, group), g.multiply(up, t, group)
		factor := YMM()
		VPBROADCASTD(Mem{Base: g.x[t], Disp: narrowFactor}, factor)
		VPMADDWD(factor, lo, lo)
		VPMADDWD(factor, hi, hi)
		VPSLLD(Imm(4), hi, hi)
		VPADDD(lo, g.acc[t][r], g.acc[t][r])
		VPADDD(hi, g.acc[t][r], g.acc[t][r])
	}
}

// store adds the sums to the results in two parts, 256·hi + lo.
func (g *narrowGemm) store(out Register) {
	mask := YMM()
	VPCMPEQD(mask, mask, mask)
	VPSRLD(Imm(24), mask, mask)
	for t, acc := range g.acc {
		for r, a := range acc {
			hi := YMM()
			VPSRAD(Imm(8), a, hi)
			VPAND(mask, a, a)
			for part, v := range []VecVirtual{hi, a} {
				to := Mem{Base: out, Disp: 256*t + 128*part + 32*r}
				VPADDD(to, v, v)
				VMOVDQU(v, to)
			}
		}
	}
}
