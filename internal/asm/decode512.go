package main

import (
	"fmt"

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
	argLowFields                     // 4 × uint64: where VPMULTISHIFTQB finds the low bits of four pairs
	argMask      = argLowFields + 32 // uint32: (1<<L) − 1
	argLowMask   = argMask + 4       // uint32: low bits of a pair, in bytes 0 and 1
	argOne       = argMask + 8       // uint32: 1
	argAhead     = argMask + 16      // what is fetched ahead of the stream
	argAheadStep = argAhead + 8      // bytes of the stream per group of four pairs
	argLanes     = argAhead + 16
)

// Offsets of the per-lane arrays after argLanes, 32 × int32 each, in the order of the registers.
const (
	laneIx    = argLanes + 128*iota // index of the next word
	laneInc                         // distance to the one after: 32, or 1 in the tail
	laneLimit                       // index at which the interleaved part ends for this lane
	laneTail                        // where its tail starts
)

// half512 is the state of 16 lanes: those with bit 2 of their number clear, or those with it set, so that packing two registers
// restores the order.
type half512 struct {
	h                               int
	c0, c1, c2, pos, ix, inc, limit VecVirtual
}

// gen512 generates a decoder of two chains of 16 lanes. A lane looks at three words: four pairs of up to 12 bits, the first of
// which starts in the first word, never leave them, and the third is not needed before two pairs are decoded, when its gather has
// long ended.
//
// Table entries are values<<16 | length. Positions are sums of whole entries; what stands above bit 15 has no meaning.
type gen512 struct {
	args, dst, words, lut, low Register
	ahead                      GPVirtual
	halves                     [2]half512
	mask, beyond, c32          VecVirtual
	lowCur                     [2]VecVirtual
	lowMask                    VecVirtual
	lowPos, lowStep            GPVirtual
	withLow                    bool
	all                        OpmaskVirtual
}

// load gathers the next word of the lanes in k into the third word and moves ix on; k is destroyed.
func (g *gen512) load(p *half512, k OpmaskVirtual, name string) {
	k2 := K()
	KMOVW(k, k2)
	VPGATHERDD(Mem{Base: g.words, Index: p.ix, Scale: 4}, k2, p.c2)
	VPADDD(p.inc, p.ix, k, p.ix)
	VPCMPEQD(p.limit, p.ix, k, k)
	KORTESTW(k, k)
	JZ(LabelRef(name))
	VMOVDQU32(Mem{Base: g.args, Disp: laneTail + 64*p.h}, k, p.ix)
	VPBROADCASTD(Mem{Base: g.args, Disp: argOne}, k, p.inc)
	VPTERNLOGD(U8(0xff), p.limit, p.limit, k, p.limit) // −1: never reached
	Label(name)
}

// shift moves the lanes in k on by a word; k is destroyed.
func (g *gen512) shift(p *half512, k OpmaskVirtual, name string) {
	VMOVDQA32(p.c1, k, p.c0)
	VMOVDQA32(p.c2, k, p.c1)
	VPSUBD(g.c32, p.pos, k, p.pos)
	g.load(p, k, name)
}

// refill moves the lanes on that have left their first word, then those that have left their second one, too.
func (g *gen512) refill(p *half512, name string) {
	name += fmt.Sprintf("_h%d", p.h)
	k := K()
	VPTESTMD(g.beyond, p.pos, k)
	g.shift(p, k, name)
	k = K()
	VPTESTMD(g.beyond, p.pos, k)
	KORTESTW(k, k)
	JZ(LabelRef(name + "_once"))
	g.shift(p, k, name+"_again")
	Label(name + "_once")
}

// window returns 32 bits of the lanes' streams; inFirst says that they start in the first word.
func (g *gen512) window(p *half512, inFirst bool) VecVirtual {
	w := ZMM()
	if inFirst {
		VMOVDQA32(p.c0, w)
		VPSHRDVD(p.pos, p.c1, w)
		return w
	}
	k, next := K(), ZMM()
	VPTESTMD(g.beyond, p.pos, k)
	VPBLENDMD(p.c1, p.c0, k, w)
	VPBLENDMD(p.c2, p.c1, k, next)
	VPSHRDVD(p.pos, next, w)
	return w
}

// lowWords returns 32 bits of the lanes' low bits and moves on by n pairs.
func (g *gen512) lowWords(n int, name string) (v [2]VecVirtual) {
	cnt := XMM()
	VMOVD(g.lowPos.As32(), cnt)
	for h := range v {
		v[h] = ZMM()
		VPSRLD(cnt, g.lowCur[h], v[h])
	}
	step := g.lowStep
	for ; n > 1; n /= 2 {
		twice := GP64()
		LEAQ(Mem{Base: step, Index: step, Scale: 1}, twice)
		step = twice
	}
	back := GP64()
	MOVQ(U32(32), back)
	SUBQ(g.lowPos, back)
	ADDQ(step, g.lowPos)
	CMPQ(g.lowPos, Imm(32))
	JLE(LabelRef(name))
	// They reach into the next word: bits above those already read come from there.
	VMOVD(back.As32(), cnt)
	g.loadLow()
	for h := range v {
		t := ZMM()
		VPSLLD(cnt, g.lowCur[h], t)
		VPORD(t, v[h], v[h])
	}
	SUBQ(Imm(32), g.lowPos)
	Label(name)
	return v
}

// loadLow loads the next word of low bits, in the order of the registers.
func (g *gen512) loadLow() {
	a, b := ZMM(), ZMM()
	PREFETCHT0(Mem{Base: g.low, Disp: 1024})
	PREFETCHT0(Mem{Base: g.low, Disp: 1024 + 64})
	VMOVDQU32(Mem{Base: g.low}, a)
	VMOVDQU32(Mem{Base: g.low, Disp: 64}, b)
	VSHUFI32X4(U8(0x88), b, a, g.lowCur[0])
	VSHUFI32X4(U8(0xdd), b, a, g.lowCur[1])
	ADDQ(U32(128), g.low)
}

// group decodes n (1, 2 or 4) pairs of every lane and writes them at dst.
func (g *gen512) group(n int, name string) {
	if n == 4 {
		for i := range 3 {
			PREFETCHT0(Mem{Base: g.ahead, Disp: 64 * i})
		}
		ADDQ(Mem{Base: g.args, Disp: argAheadStep}, g.ahead)
	}
	for h := range g.halves {
		g.refill(&g.halves[h], name)
	}
	var low [2]VecVirtual
	if g.withLow {
		low = g.lowWords(n, name+"_low")
	}
	var w [2]VecVirtual
	for i := range n {
		var e [2]VecVirtual
		for h := range g.halves {
			if i%2 == 0 {
				w[h] = g.window(&g.halves[h], i == 0)
			}
			idx, k := ZMM(), K()
			e[h] = ZMM()
			VPANDD(g.mask, w[h], idx)
			KMOVW(g.all, k)
			VMOVDQA32(idx, e[h]) // all of it is replaced
			VPGATHERDD(Mem{Base: g.lut, Index: idx, Scale: 4}, k, e[h])
		}
		for h := range g.halves {
			if i%2 == 0 && i+1 < n {
				VPSHRDVD(e[h], w[h], w[h]) // shifts by the length, which is what counts modulo 32
			}
			VPADDD(e[h], g.halves[h].pos, g.halves[h].pos)
		}
		g.store(e, low, i)
	}
	ADDQ(U32(64*n), g.dst)
}

// store writes the values of pair i of a group.
func (g *gen512) store(e, low [2]VecVirtual, i int) {
	var fields VecVirtual
	if g.withLow {
		fields = ZMM()
		VPBROADCASTQ(Mem{Base: g.args, Disp: argLowFields + 8*i}, fields)
	}
	for h := range e {
		VPSRLD(Imm(16), e[h], e[h])
		if g.withLow {
			t := ZMM()
			VPMULTISHIFTQB(low[h], fields, t)
			VPTERNLOGD(U8(0xf8), g.lowMask, t, e[h]) // e | t & lowMask
		}
	}
	VPACKUSDW(e[1], e[0], e[0])
	VMOVDQU32(e[0], Mem{Base: g.dst, Disp: 64 * i})
}

func chunk512() {
	decoders("chunk512", "AVX-512 (F, BW, VBMI, VBMI2), lanes in two chains of 16. It changes its arguments.", body512)
}

func body512(withLow bool) {
	g := &gen512{withLow: withLow}
	g.args = Load(Param("a"), GP64())
	load := argLoader(g.args)
	broadcast := func(v uint64) VecVirtual {
		t, z := GP32(), ZMM()
		MOVL(U32(v), t)
		VPBROADCASTD(t, z)
		return z
	}
	row := load(argDst)
	g.words, g.lut, g.ahead = load(argWords), load(argLut), load(argAhead)
	g.all = K()
	KXNORW(g.all, g.all, g.all)
	g.mask, g.beyond, g.c32 = ZMM(), broadcast(0xffe0), broadcast(32)
	VPBROADCASTD(Mem{Base: g.args, Disp: argMask}, g.mask)
	if withLow {
		g.low, g.lowStep, g.lowPos, g.lowMask = load(argLow), load(argLowBits), GP64(), ZMM()
		SHLQ(Imm(1), g.lowStep)
		MOVQ(U32(32), g.lowPos)
		VPBROADCASTD(Mem{Base: g.args, Disp: argLowMask}, g.lowMask)
		for h := range g.lowCur {
			g.lowCur[h] = ZMM()
			VPXORD(g.lowCur[h], g.lowCur[h], g.lowCur[h])
		}
	}
	for h := range g.halves {
		g.start(h)
	}
	g.dst = GP64()
	decodeRows(g.args, row, g.dst, Mem{Base: g.args, Disp: argRows}, g.group)
}

// start loads the first three words of half h.
func (g *gen512) start(h int) {
	p := &g.halves[h]
	*p = half512{h: h, c0: ZMM(), c1: ZMM(), c2: ZMM(), pos: ZMM(), ix: ZMM(), inc: ZMM(), limit: ZMM()}
	VMOVDQU32(Mem{Base: g.args, Disp: laneIx + 64*h}, p.ix)
	VMOVDQU32(Mem{Base: g.args, Disp: laneInc + 64*h}, p.inc)
	VMOVDQU32(Mem{Base: g.args, Disp: laneLimit + 64*h}, p.limit)
	VPXORD(p.pos, p.pos, p.pos)
	VPXORD(p.c2, p.c2, p.c2)
	for i, to := range []VecVirtual{p.c0, p.c1, nil} {
		k := K()
		KMOVW(g.all, k)
		g.load(p, k, fmt.Sprintf("start%d%d", h, i))
		if to != nil {
			VMOVDQA32(p.c2, to)
		}
	}
}
