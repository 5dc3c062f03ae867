package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets in the argument structure (type chunkArgs in cpu/decode).
const (
	argDst = 8 * iota
	argStride
	argWords
	argLut
	argLow
	argSteps
	argRows
	argLowBits
	argMask  // uint32: (1<<L) − 1, then three uint32 of padding-free neighbours
	argLanes = argMask + 16
	// argMask+4: mask of the even weight's low bits; +8: of the odd one's, shifted by 8; +12: unused
)

// Offsets of the per-lane arrays behind argLanes, 32 × int32 each.
const (
	laneIx    = argLanes + 128*iota // index of the next word
	laneInc                         // distance to the one after: 32, or 1 in the tail
	laneLimit                       // index at which the interleaved part ends for this lane
	laneTail                        // where its tail starts
)

// half512 is the state of 16 lanes.
type half512 struct {
	h                             int
	cur, nxt, pos, ix, inc, limit VecVirtual
}

type gen512 struct {
	args, dst, words, lut, low Register
	halves                     [2]half512
	mask, c31, ones            VecVirtual
	lowCur                     [2]VecVirtual
	lowPos, lowStep            GPVirtual
	withLow                    bool
	all                        OpmaskVirtual
}

// advance loads the next word of the lanes in k into nxt and moves ix on; k is destroyed.
func (g *gen512) advance(p *half512, k OpmaskVirtual, name string) {
	k2 := K()
	KMOVW(k, k2)
	VPGATHERDD(Mem{Base: g.words, Index: p.ix, Scale: 4}, k2, p.nxt)
	VPADDD(p.inc, p.ix, k, p.ix)
	at := K()
	VPCMPEQD(p.limit, p.ix, k, at)
	KORTESTW(at, at)
	JZ(LabelRef(name))
	VMOVDQU32(Mem{Base: g.args, Disp: laneTail + 64*p.h}, at, p.ix)
	VMOVDQA32(g.ones, at, p.inc)
	VPTERNLOGD(U8(0xff), p.limit, p.limit, at, p.limit) // −1: never reached
	Label(name)
}

// pair decodes one code per lane from w (whose low bits are the code) and returns the table entry: values in bits 0–15, length above.
func (g *gen512) pair(w VecVirtual) (entry VecVirtual) {
	idx, k := ZMM(), K()
	entry = ZMM()
	VPANDD(g.mask, w, idx)
	KMOVW(g.all, k)
	VPXORD(entry, entry, entry)
	VPGATHERDD(Mem{Base: g.lut, Index: idx, Scale: 4}, k, entry)
	return entry
}

// lowBits returns the low bits of one pair per lane, even weight in byte 0, odd one in byte 1, for both halves.
func (g *gen512) lowBits(name string) [2]VecVirtual {
	var v [2]VecVirtual
	cnt := XMM()
	VMOVD(g.lowPos.As32(), cnt)
	for h := range v {
		v[h] = ZMM()
		VPSRLD(cnt, g.lowCur[h], v[h])
	}
	ADDQ(g.lowStep, g.lowPos)
	CMPQ(g.lowPos, Imm(32))
	JLE(LabelRef(name))
	// The pair reaches into the next word: bits above those already read come from there.
	back, t := GP64(), ZMM()
	MOVQ(g.lowPos, back)
	SUBQ(g.lowStep, back)
	NEGQ(back)
	ADDQ(Imm(32), back)
	VMOVD(back.As32(), cnt)
	for h := range v {
		VMOVDQU32(Mem{Base: g.low, Disp: 64 * h}, g.lowCur[h])
		VPSLLD(cnt, g.lowCur[h], t)
		VPORD(t, v[h], v[h])
	}
	ADDQ(Imm(128), g.low)
	SUBQ(Imm(32), g.lowPos)
	Label(name)
	// (v & mask0) | ((v << (8−s)) & mask1)
	sh, up := XMM(), ZMM()
	VMOVD(Mem{Base: g.args, Disp: argMask + 12}, sh)
	for h := range v {
		VPSLLD(sh, v[h], up)
		VPANDD_BCST(Mem{Base: g.args, Disp: argMask + 8}, up, up)
		VPANDD_BCST(Mem{Base: g.args, Disp: argMask + 4}, v[h], v[h])
		VPORD(up, v[h], v[h])
	}
	return v
}

// group decodes n (1 or 2) pairs of every lane, writes them at dst, and refills.
func (g *gen512) group(n int, name string) {
	var w, total [2]VecVirtual
	for h := range g.halves {
		p := &g.halves[h]
		w[h] = ZMM()
		VMOVDQA32(p.cur, w[h])
		VPSHRDVD(p.pos, p.nxt, w[h])
	}
	for i := range n {
		var e, length [2]VecVirtual
		for h := range g.halves {
			e[h] = g.pair(w[h])
		}
		for h := range g.halves {
			length[h] = ZMM()
			VPSRLD(U8(16), e[h], length[h])
			if i+1 < n {
				VPSRLVD(length[h], w[h], w[h])
			}
			if i == 0 {
				total[h] = length[h]
			} else {
				VPADDD(length[h], total[h], total[h])
			}
		}
		if g.withLow {
			lo := g.lowBits(name + "_low" + string(rune('0'+i)))
			for h := range lo {
				VPADDB(lo[h], e[h], e[h])
			}
		}
		for h := range g.halves {
			VPMOVDW(e[h], Mem{Base: g.dst, Disp: 64*i + 32*h})
		}
	}
	for h := range g.halves {
		p := &g.halves[h]
		k := K()
		VPADDD(total[h], p.pos, p.pos)
		VPCMPGTD(g.c31, p.pos, k)
		VPANDD(g.c31, p.pos, p.pos)
		VMOVDQA32(p.nxt, k, p.cur)
		g.advance(p, k, name+"_h"+string(rune('0'+h)))
	}
	ADDQ(Imm(uint64(64*n)), g.dst)
}

func chunk512() {
	for _, withLow := range []bool{false, true} {
		name := "chunk512"
		if withLow {
			name = "chunk512Low"
		}
		TEXT(name, NOSPLIT, "func(a *byte)")
		Pragma("noescape")
		Doc(name + " decodes one chunk with AVX-512 (F, BW, VBMI2): lanes 0–15 and 16–31 are two chains of 16 windows of 64 bits.")
		body512(withLow)
	}
}

func body512(withLow bool) {
	g := &gen512{withLow: withLow}
	g.args = Load(Param("a"), GP64())
	load := func(disp int) GPVirtual {
		r := GP64()
		MOVQ(Mem{Base: g.args, Disp: disp}, r)
		return r
	}
	row := load(argDst)
	stride := load(argStride)
	g.words, g.lut = load(argWords), load(argLut)
	rows := load(argRows)
	g.all = K()
	KXNORW(g.all, g.all, g.all)
	g.mask, g.c31, g.ones = ZMM(), ZMM(), ZMM()
	VPBROADCASTD(Mem{Base: g.args, Disp: argMask}, g.mask)
	t := GP32()
	MOVL(U32(31), t)
	VPBROADCASTD(t, g.c31)
	MOVL(U32(1), t)
	VPBROADCASTD(t, g.ones)
	if withLow {
		g.low, g.lowStep, g.lowPos = load(argLow), load(argLowBits), GP64()
		SHLQ(Imm(1), g.lowStep)
		MOVQ(U32(32), g.lowPos)
		for h := range g.lowCur {
			g.lowCur[h] = ZMM()
			VPXORD(g.lowCur[h], g.lowCur[h], g.lowCur[h])
		}
	}
	for h := range g.halves {
		g.start(h)
	}
	g.dst = GP64()
	Label("row")
	MOVQ(row, g.dst)
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
	ADDQ(stride, row)
	DECQ(rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// start loads the first two words of half h.
func (g *gen512) start(h int) {
	p := &g.halves[h]
	*p = half512{h: h, cur: ZMM(), nxt: ZMM(), pos: ZMM(), ix: ZMM(), inc: ZMM(), limit: ZMM()}
	VMOVDQU32(Mem{Base: g.args, Disp: laneIx + 64*h}, p.ix)
	VMOVDQU32(Mem{Base: g.args, Disp: laneInc + 64*h}, p.inc)
	VMOVDQU32(Mem{Base: g.args, Disp: laneLimit + 64*h}, p.limit)
	VPXORD(p.pos, p.pos, p.pos)
	VPXORD(p.nxt, p.nxt, p.nxt)
	suffix := string(rune('0' + h))
	for i := range 2 {
		k := K()
		KMOVW(g.all, k)
		g.advance(p, k, "start"+suffix+string(rune('0'+i)))
		if i == 0 {
			VMOVDQA32(p.nxt, p.cur)
		}
	}
}
