package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Constant vectors behind the per-lane arrays, 8 × uint32 each, for instruction sets without embedded broadcasts.
const (
	vecMask = laneTail + 128 + 32*iota
	vec31
	vec32
	vecFFFF
	vecOne
	vecLowMask0
	vecLowMask1
)

// quarter256 is the state of 8 lanes; inc and limit stay in the argument structure.
type quarter256 struct {
	off               int // byte offset of its lanes in a per-lane array, without the pass
	cur, nxt, pos, ix VecVirtual
}

type gen256 struct {
	args, lanes, dst, words, lut, low Register
	q                                 [2]quarter256
	lowPos, lowStep                   GPVirtual
	withLow                           bool
}

func (g *gen256) konst(disp int) Mem { return Mem{Base: g.args, Disp: disp} }

func (g *gen256) lane(array int, p *quarter256) Mem {
	return Mem{Base: g.lanes, Disp: array + p.off}
}

// advance loads the next word of the lanes selected by k into nxt and moves ix on.
func (g *gen256) advance(p *quarter256, k VecVirtual, name string) {
	k2, t := YMM(), YMM()
	VMOVDQA(k, k2)
	VPGATHERDD(k2, Mem{Base: g.words, Index: p.ix, Scale: 4}, p.nxt)
	VPAND(g.lane(laneInc, p), k, t)
	VPADDD(t, p.ix, p.ix)
	VPCMPEQD(g.lane(laneLimit, p), p.ix, t)
	VPAND(k, t, t)
	VPTEST(t, t)
	JZ(LabelRef(name))
	v := YMM()
	VMOVDQU(g.lane(laneTail, p), v)
	VPBLENDVB(t, v, p.ix, p.ix)
	VMOVDQU(g.lane(laneInc, p), v)
	VPBLENDVB(t, g.konst(vecOne), v, v)
	VMOVDQU(v, g.lane(laneInc, p))
	VPOR(g.lane(laneLimit, p), t, v) // −1: never reached
	VMOVDQU(v, g.lane(laneLimit, p))
	Label(name)
}

// lowBits adds the low bits of one pair per lane to the entries.
func (g *gen256) lowBits(e [2]VecVirtual, name string) {
	var v [2]VecVirtual
	cnt := XMM()
	VMOVD(g.lowPos.As32(), cnt)
	for i := range v {
		v[i] = YMM()
		VMOVDQU(Mem{Base: g.low, Disp: g.q[i].off}, v[i])
		VPSRLD(cnt, v[i], v[i])
	}
	ADDQ(g.lowStep, g.lowPos)
	CMPQ(g.lowPos, Imm(32))
	JLT(LabelRef(name))
	JEQ(LabelRef(name + "_word"))
	back, t := GP64(), YMM()
	MOVQ(g.lowPos, back)
	SUBQ(g.lowStep, back)
	NEGQ(back)
	ADDQ(Imm(32), back)
	VMOVD(back.As32(), cnt)
	for i := range v {
		VMOVDQU(Mem{Base: g.low, Disp: 128 + g.q[i].off}, t)
		VPSLLD(cnt, t, t)
		VPOR(t, v[i], v[i])
	}
	Label(name + "_word")
	ADDQ(Imm(128), g.low)
	SUBQ(Imm(32), g.lowPos)
	Label(name)
	t = YMM()
	VMOVD(Mem{Base: g.args, Disp: argMask + 12}, cnt)
	for i := range v {
		VPSLLD(cnt, v[i], t)
		VPAND(g.konst(vecLowMask1), t, t)
		VPAND(g.konst(vecLowMask0), v[i], v[i])
		VPOR(t, v[i], v[i])
		VPADDB(v[i], e[i], e[i])
	}
}

// group decodes n (1 or 2) pairs of 16 lanes, writes them at dst, and refills.
func (g *gen256) group(n int, name string) {
	var w, e [2]VecVirtual
	for i := range g.q {
		p, t := &g.q[i], YMM()
		w[i] = YMM()
		VPSRLVD(p.pos, p.cur, w[i])
		VMOVDQU(g.konst(vec32), t)
		VPSUBD(p.pos, t, t)
		VPSLLVD(t, p.nxt, t)
		VPOR(t, w[i], w[i])
	}
	for j := range n {
		for i := range g.q {
			idx, k := YMM(), YMM()
			e[i] = YMM()
			VPAND(g.konst(vecMask), w[i], idx)
			VPCMPEQD(k, k, k)
			VPXOR(e[i], e[i], e[i])
			VPGATHERDD(k, Mem{Base: g.lut, Index: idx, Scale: 4}, e[i])
		}
		for i := range g.q {
			t := YMM()
			VPSRLD(Imm(16), e[i], t)
			if j+1 < n {
				VPSRLVD(t, w[i], w[i])
			}
			VPADDD(t, g.q[i].pos, g.q[i].pos)
		}
		if g.withLow {
			g.lowBits(e, name+"_low"+string(rune('0'+j)))
		}
		for i := range e {
			VPAND(g.konst(vecFFFF), e[i], e[i])
		}
		VPACKUSDW(e[1], e[0], e[0])
		VPERMQ(Imm(0xd8), e[0], e[0])
		VMOVDQU(e[0], Mem{Base: g.dst, Disp: 64 * j})
	}
	for i := range g.q {
		p, k := &g.q[i], YMM()
		VPCMPGTD(g.konst(vec31), p.pos, k)
		VPAND(g.konst(vec31), p.pos, p.pos)
		VPBLENDVB(k, p.nxt, p.cur, p.cur)
		g.advance(p, k, name+"_q"+string(rune('0'+i)))
	}
	ADDQ(Imm(uint64(64*n)), g.dst)
}

func chunk256() {
	for _, withLow := range []bool{false, true} {
		name := "chunk256"
		if withLow {
			name = "chunk256Low"
		}
		TEXT(name, NOSPLIT, "func(a *byte)")
		Pragma("noescape")
		Doc(name + " decodes one chunk with AVX2, 16 lanes a pass. It changes the per-lane arrays of its arguments.")
		body256(withLow)
	}
}

func body256(withLow bool) {
	g := &gen256{withLow: withLow}
	g.args = Load(Param("a"), GP64())
	lanes := GP64()
	MOVQ(g.args, lanes)
	g.lanes = lanes
	load := func(disp int) GPVirtual {
		r := GP64()
		MOVQ(Mem{Base: g.args, Disp: disp}, r)
		return r
	}
	g.words, g.lut = load(argWords), load(argLut)
	first := load(argDst)
	passes := GP64()
	MOVQ(U32(2), passes)
	low, row, dst := GP64(), GP64(), GP64()
	if withLow {
		g.lowStep, g.lowPos = load(argLowBits), GP64()
		SHLQ(Imm(1), g.lowStep)
	}
	g.low, g.dst = low, dst
	Label("pass")
	if withLow {
		MOVQ(Mem{Base: g.args, Disp: argLow}, low)
		ADDQ(lanes, low)
		SUBQ(g.args, low)
		XORQ(g.lowPos, g.lowPos)
	}
	MOVQ(first, row)
	rows := load(argRows)
	for i := range g.q {
		g.start(i)
	}
	Label("row")
	MOVQ(row, dst)
	left := load(argSteps)
	SUBQ(Imm(2), left)
	JL(LabelRef("odd"))
	Label("two")
	g.group(2, "a")
	SUBQ(Imm(2), left)
	JGE(LabelRef("two"))
	Label("odd")
	ADDQ(Imm(2), left)
	JZ(LabelRef("next"))
	g.group(1, "b")
	Label("next")
	ADDQ(Mem{Base: g.args, Disp: argStride}, row)
	DECQ(rows)
	JNZ(LabelRef("row"))
	ADDQ(Imm(64), lanes)
	ADDQ(Imm(32), first)
	DECQ(passes)
	JNZ(LabelRef("pass"))
	VZEROUPPER()
	RET()
}

// start loads the first two words of quarter i.
func (g *gen256) start(i int) {
	p := &g.q[i]
	*p = quarter256{off: 32 * i, cur: YMM(), nxt: YMM(), pos: YMM(), ix: YMM()}
	VMOVDQU(g.lane(laneIx, p), p.ix)
	VPXOR(p.pos, p.pos, p.pos)
	VPXOR(p.nxt, p.nxt, p.nxt)
	for j := range 2 {
		k := YMM()
		VPCMPEQD(k, k, k)
		g.advance(p, k, "start"+string(rune('0'+i))+string(rune('0'+j)))
		if j == 0 {
			VMOVDQA(p.nxt, p.cur)
		}
	}
}
