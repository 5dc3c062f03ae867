package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The rest of a lane's state, behind the arrays that AVX-512 keeps in registers.
const (
	laneC0 = laneTail + 128*(1+iota) // three words of the stream
	laneC1
	laneC2
	lanePos // of the next bit, counted from the first of these words
)

// Constant vectors behind the per-lane arrays, 8 × uint32 each, for instruction sets without embedded broadcasts.
const (
	vecMask = lanePos + 128 + 32*iota
	vec31
	vec32
	vecFFFF
	vecOne
	vecLowEven   // the low bits of an even weight
	vecLowOdd    // of an odd one, in the second byte
	vecLowFactor // in 16 bits: moves them there
)

// gen256 generates a decoder of 32 lanes in four chains of 8, whose state is in memory between groups of up to four pairs. Quarters 2p and 2p + 1 hold the
// lanes 16p … 16p + 15 with bit 2 of their number clear, and set: so packing the two restores the order. Table entries are values | length<<16.
type gen256 struct {
	args, dst, words, lut, low Register
	lowPos, lowStep            GPVirtual
	withLow                    bool
}

func (g *gen256) konst(disp int) Mem          { return Mem{Base: g.args, Disp: disp} }
func (g *gen256) lane(array, quarter int) Mem { return Mem{Base: g.args, Disp: array + 32*quarter} }

func (g *gen256) read(array, quarter int) VecVirtual {
	v := YMM()
	VMOVDQU(g.lane(array, quarter), v)
	return v
}

// load gathers the next word of the lanes in k into c2 and moves their index on; k is destroyed.
func (g *gen256) load(q int, k, c2 VecVirtual, name string) {
	ix, k2, t := g.read(laneIx, q), YMM(), YMM()
	VMOVDQA(k, k2)
	VPGATHERDD(k2, Mem{Base: g.words, Index: ix, Scale: 4}, c2)
	VPAND(g.lane(laneInc, q), k, t)
	VPADDD(t, ix, ix)
	VPCMPEQD(g.lane(laneLimit, q), ix, t)
	VPAND(k, t, t)
	VPTEST(t, t)
	JZ(LabelRef(name))
	v := YMM()
	VMOVDQU(g.lane(laneTail, q), v)
	VPBLENDVB(t, v, ix, ix)
	VMOVDQU(g.lane(laneInc, q), v)
	VPBLENDVB(t, g.konst(vecOne), v, v)
	VMOVDQU(v, g.lane(laneInc, q))
	VPOR(g.lane(laneLimit, q), t, v) // −1: never reached
	VMOVDQU(v, g.lane(laneLimit, q))
	Label(name)
	VMOVDQU(ix, g.lane(laneIx, q))
}

// shift moves the lanes in k on by a word; k is destroyed.
func (g *gen256) shift(q int, k, c0, c1, c2, pos VecVirtual, name string) {
	t := YMM()
	VPBLENDVB(k, c1, c0, c0)
	VPBLENDVB(k, c2, c1, c1)
	VPAND(g.konst(vec32), k, t)
	VPSUBD(t, pos, pos)
	g.load(q, k, c2, name)
}

// refill moves the lanes of a quarter on that have left their first word, then those that have left their second one, too. It returns the first 32 bits from
// the lanes' positions on, and these.
func (g *gen256) refill(q int, name string) (w, pos VecVirtual) {
	name += fmt.Sprintf("_q%d", q)
	c0, c1, c2 := g.read(laneC0, q), g.read(laneC1, q), g.read(laneC2, q)
	pos = g.read(lanePos, q)
	k := YMM()
	VPCMPGTD(g.konst(vec31), pos, k)
	g.shift(q, k, c0, c1, c2, pos, name)
	VPCMPGTD(g.konst(vec31), pos, k)
	VPTEST(k, k)
	JZ(LabelRef(name + "_once"))
	g.shift(q, k, c0, c1, c2, pos, name+"_again")
	Label(name + "_once")
	VMOVDQU(c0, g.lane(laneC0, q))
	VMOVDQU(c1, g.lane(laneC1, q))
	VMOVDQU(c2, g.lane(laneC2, q))
	w = YMM()
	t := YMM()
	VPSRLVD(pos, c0, w)
	VMOVDQU(g.konst(vec32), t)
	VPSUBD(pos, t, t)
	VPSLLVD(t, c1, t)
	VPOR(t, w, w)
	return w, pos
}

// window returns 32 bits from a position in the first or second word on. Shifts by 32 and more, and by what is negative, give 0.
func (g *gen256) window(q int, pos VecVirtual) VecVirtual {
	c0, c1, c2, c32 := g.read(laneC0, q), g.read(laneC1, q), g.read(laneC2, q), g.read(vec32, 0)
	w, t := YMM(), YMM()
	VPSRLVD(pos, c0, w)
	VPSUBD(pos, c32, t) // 32 − pos
	VPSLLVD(t, c1, c0)
	VPOR(c0, w, w)
	VPADDD(c32, t, t)
	VPSLLVD(t, c2, c2)
	VPOR(c2, w, w)
	VPSUBD(c32, pos, t)
	VPSRLVD(t, c1, c1)
	VPOR(c1, w, w)
	return w
}

// lowWords returns 32 bits of the low bits of quarters q and q + 1, of which n pairs will be used.
func (g *gen256) lowWords(q, n int, name string) (v [2]VecVirtual) {
	row := func(disp int) (v [2]VecVirtual) {
		a := YMM()
		VMOVDQU(Mem{Base: g.low, Disp: disp + 32*q}, a)
		for h, pick := range []Constant{Imm(0x20), Imm(0x31)} {
			v[h] = YMM()
			VPERM2I128(pick, Mem{Base: g.low, Disp: disp + 32*q + 32}, a, v[h])
		}
		return v
	}
	cnt := XMM()
	VMOVD(g.lowPos.As32(), cnt)
	v = row(0)
	for h := range v {
		VPSRLD(cnt, v[h], v[h])
	}
	end := g.lowEnd(n)
	CMPQ(end, Imm(32))
	JLE(LabelRef(name))
	back := GP64()
	MOVQ(U32(32), back)
	SUBQ(g.lowPos, back)
	VMOVD(back.As32(), cnt)
	for h, t := range row(128) {
		VPSLLD(cnt, t, t)
		VPOR(t, v[h], v[h])
	}
	Label(name)
	return v
}

// lowEnd returns the position in the low bits after n pairs.
func (g *gen256) lowEnd(n int) GPVirtual {
	end := GP64()
	MOVQ(g.lowStep, end)
	for ; n > 1; n /= 2 {
		ADDQ(end, end)
	}
	ADDQ(g.lowPos, end)
	return end
}

// addLow adds the low bits of a pair to entries and moves their words on.
func (g *gen256) addLow(e, v [2]VecVirtual) {
	cnt := XMM()
	VMOVD(g.lowStep.As32(), cnt)
	for h := range v {
		t := YMM()
		VPMULLW(g.konst(vecLowFactor), v[h], t)
		VPAND(g.konst(vecLowOdd), t, t)
		VPOR(t, e[h], e[h])
		VPAND(g.konst(vecLowEven), v[h], t)
		VPOR(t, e[h], e[h])
		VPSRLD(cnt, v[h], v[h])
	}
}

// half decodes n (1, 2 or 4) pairs of quarters q and q + 1 and writes them at dst.
func (g *gen256) half(q, n int, name string) {
	var w, pos, e, low [2]VecVirtual
	for h := range w {
		w[h], pos[h] = g.refill(q+h, name)
	}
	if g.withLow {
		low = g.lowWords(q, n, fmt.Sprintf("%s_low%d", name, q))
	}
	for i := range n {
		for h := range w {
			if i == 2 {
				w[h] = g.window(q+h, pos[h])
			}
			idx, k := YMM(), YMM()
			e[h] = YMM()
			VPAND(g.konst(vecMask), w[h], idx)
			VPXOR(k, k, k) // avo knows that this does not depend on k
			VPCMPEQD(k, k, k)
			VPXOR(e[h], e[h], e[h])
			VPGATHERDD(k, Mem{Base: g.lut, Index: idx, Scale: 4}, e[h])
		}
		for h := range w {
			t := YMM()
			VPSRLD(Imm(16), e[h], t)
			if i%2 == 0 && i+1 < n {
				VPSRLVD(t, w[h], w[h])
			}
			VPADDD(t, pos[h], pos[h])
		}
		if g.withLow {
			g.addLow(e, low)
		}
		for h := range e {
			VPAND(g.konst(vecFFFF), e[h], e[h])
		}
		VPACKUSDW(e[1], e[0], e[0])
		VMOVDQU(e[0], Mem{Base: g.dst, Disp: 64*i + 16*q})
	}
	for h := range pos {
		VMOVDQU(pos[h], g.lane(lanePos, q+h))
	}
}

// group decodes n pairs of every lane.
func (g *gen256) group(n int, name string) {
	g.half(0, n, name)
	g.half(2, n, name)
	ADDQ(U32(64*n), g.dst)
	if !g.withLow {
		return
	}
	end := g.lowEnd(n)
	MOVQ(end, g.lowPos)
	CMPQ(g.lowPos, Imm(32))
	JL(LabelRef(name + "_word"))
	ADDQ(U32(128), g.low)
	SUBQ(Imm(32), g.lowPos)
	Label(name + "_word")
}

func chunk256() {
	decoders("chunk256", "AVX2, lanes in four chains of 8. It changes the per-lane arrays of its arguments.", body256)
}

func body256(withLow bool) {
	g := &gen256{withLow: withLow}
	g.args = Load(Param("a"), GP64())
	load := argLoader(g.args)
	g.words, g.lut = load(argWords), load(argLut)
	row, rows := load(argDst), load(argRows)
	if withLow {
		g.low, g.lowStep, g.lowPos = load(argLow), load(argLowBits), GP64()
		SHLQ(Imm(1), g.lowStep)
		XORQ(g.lowPos, g.lowPos)
	}
	for q := range 4 {
		g.start(q)
	}
	g.dst = GP64()
	decodeRows(g.args, row, g.dst, rows, g.group)
}

// start loads the first three words of quarter q.
func (g *gen256) start(q int) {
	c2 := YMM()
	VPXOR(c2, c2, c2)
	VMOVDQU(c2, g.lane(lanePos, q))
	for i, array := range []int{laneC0, laneC1, laneC2} {
		k := YMM()
		VPXOR(k, k, k)
		VPCMPEQD(k, k, k)
		g.load(q, k, c2, fmt.Sprintf("start%d%d", q, i))
		VMOVDQU(c2, g.lane(array, q))
	}
}
