package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dotter256 generates the dot product of rows of packed codes, one plane layout each, for AVX2: bytes are multiplied in pairs
// (VPMADDUBSW, exact while a code times 128 twice fits 16 bits) and widened.
type dotter256 struct {
	c                    *avx2Consts
	args, out, nib, bits Register
	np, bp, xp, left     GPVirtual
	u                    *unpacker256 // nil: whole bytes
	acc                  [2]VecVirtual
	sum                  [2]VecVirtual // 16-bit sums of the products since the last flush
	filled               bool          // sum holds some
	ones                 VecVirtual
	most                 int // how many products of 32 columns fit 16-bit sums
	whole                bool
	low                  VecVirtual
}

// dot256 is dot512 for AVX2. Whole bytes (width 8) go in two nibbles.
func dot256(width int, c *avx2Consts) {
	dotRows256(fmt.Sprintf("dot256w%d", width), width, width == 8, c)
}

// dotBytes256 is dot256 for codes of one byte below 1<<width.
func dotBytes256(width int, c *avx2Consts) {
	dotRows256(fmt.Sprintf("dot256b%d", width), width, true, c)
}

func dotRows256(name string, width int, bytes bool, c *avx2Consts) {
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " multiplies rows of packed codes with one vector of 16-bit activations with AVX2.")
	d := &dotter256{c: c, args: Load(Param("a"), GP64()), most: 1, whole: width == 8}
	load := argLoader(d.args)
	d.out, d.nib = load(dotOut), load(dotNibble)
	d.ones = YMM()
	VMOVDQU(c.ones, d.ones)
	if !bytes {
		d.bits = load(dotBits)
		d.u = newUnpacker256(width, c)
	}
	if width < 8 {
		d.most = 1 << (7 - width)
	}
	if d.whole {
		d.low = YMM()
		VMOVDQU(c.low, d.low)
	}
	for h := range d.acc {
		d.acc[h], d.sum[h] = YMM(), YMM()
	}
	d.np, d.bp, d.xp, d.left = GP64(), GP64(), GP64(), GP64()
	Label("row")
	d.row()
	ADDQ(U32(8), d.out)
	ADDQ(Mem{Base: d.args, Disp: dotNibbleStride}, d.nib)
	if d.u != nil {
		ADDQ(Mem{Base: d.args, Disp: dotBitsStride}, d.bits)
	}
	DECQ(Mem{Base: d.args, Disp: dotRows})
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// steps256 is how many steps follow each other in the loop.
const steps256 = 4

// row multiplies one row.
func (d *dotter256) row() {
	for h := range d.acc {
		VPXOR(d.acc[h], d.acc[h], d.acc[h])
	}
	MOVQ(d.nib, d.np)
	if d.u != nil {
		MOVQ(d.bits, d.bp)
	}
	MOVQ(Mem{Base: d.args, Disp: dotX}, d.xp)
	MOVQ(Mem{Base: d.args, Disp: dotSteps}, d.left)
	SUBQ(Imm(steps256), d.left)
	JL(LabelRef("rest"))
	Label("some")
	d.prefetch()
	for j := range steps256 {
		d.step(j)
	}
	d.flush()
	d.move(steps256)
	SUBQ(Imm(steps256), d.left)
	JGE(LabelRef("some"))
	Label("rest")
	ADDQ(Imm(steps256), d.left)
	JZ(LabelRef("sum"))
	Label("one")
	d.step(0)
	d.flush()
	d.move(1)
	DECQ(d.left)
	JNZ(LabelRef("one"))
	Label("sum")
	for h := range d.acc {
		reduce256(d.acc[h], Mem{Base: d.out, Disp: 4 * h})
	}
}

// prefetch fetches what is multiplied a while later.
func (d *dotter256) prefetch() {
	for at := 0; at < steps256*d.mainBytes(); at += 64 {
		prefetch(Mem{Base: d.np, Disp: at})
	}
	if d.u != nil && d.u.high > 0 {
		prefetch(Mem{Base: d.bp})
	}
}

func (d *dotter256) mainBytes() int {
	if d.u == nil {
		return 64
	}
	return d.u.mainBytes()
}

// step multiplies the 64 columns of step j after the pointers.
func (d *dotter256) step(j int) {
	for half := range 2 {
		var w VecVirtual
		if d.u == nil {
			w = YMM()
			VMOVDQU(Mem{Base: d.np, Disp: 64*j + 32*half}, w)
		} else {
			w = d.u.half(d.np, d.bp, j, half)
		}
		if d.whole {
			hi := YMM()
			VPSRLW(Imm(4), w, hi)
			VPAND(d.low, w, w)
			VPAND(d.low, hi, hi)
			d.mac(hi, j, half)
			d.widen(d.c.sixt)
		}
		d.mac(w, j, half)
		if (2*j+half+1)%d.most == 0 {
			d.flush()
		}
	}
}

// mac adds w (32 codes) times the activations of a half step to the 16-bit sums.
func (d *dotter256) mac(w VecVirtual, j, half int) {
	for h, s := range d.sum {
		x := Mem{Base: d.xp, Disp: 128*j + 64*h + 32*half}
		if !d.filled {
			VPMADDUBSW(x, w, s)
			continue
		}
		t := YMM()
		VPMADDUBSW(x, w, t)
		VPADDW(t, s, s)
	}
	d.filled = true
}

// flush adds the 16-bit sums to the others.
func (d *dotter256) flush() {
	if d.filled {
		d.widen(d.ones)
	}
}

func (d *dotter256) widen(factor Op) {
	for h, s := range d.sum {
		VPMADDWD(factor, s, s)
		VPADDD(s, d.acc[h], d.acc[h])
	}
	d.filled = false
}

// move moves on by n steps.
func (d *dotter256) move(n int) {
	ADDQ(U32(uint32(d.mainBytes()*n)), d.np)
	ADDQ(U32(uint32(128*n)), d.xp)
	if d.u != nil && d.u.high > 0 {
		ADDQ(U32(uint32(d.u.maskBytes()*n)), d.bp)
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

// join256 generates what joins the halves of activations.
func join256() {
	TEXT("join256", NOSPLIT, "func(v *int16, x *int8, steps int)")
	Pragma("noescape")
	Doc("join256 sets v to 256·hi + lo of steps · 64 activations.")
	v, x, steps := Load(Param("v"), GP64()), Load(Param("x"), GP64()), Load(Param("steps"), GP64())
	Label("step")
	for i := range 4 {
		hi, lo := YMM(), YMM()
		VPMOVSXBW(Mem{Base: x, Disp: 16 * i}, hi)
		VPMOVSXBW(Mem{Base: x, Disp: 64 + 16*i}, lo)
		VPSLLW(Imm(8), hi, hi)
		VPADDW(lo, hi, hi)
		VMOVDQU(hi, Mem{Base: v, Disp: 32 * i})
	}
	ADDQ(U32(128), x)
	ADDQ(U32(128), v)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}
