package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets after argLowBits in the argument structure of the decoder that takes lane after lane (type laneArgs in cpu/decode).
const (
	laneWords     = argLowFields + 8*iota // the lanes' words, each lane's in one piece
	laneNotMask                           // ^(table entries − 1)
	lanePositions                         // 32 × uint32: position of each lane's next bit
)

// together is how many lanes are decoded side by side: as many as there are registers for. More of a lane's instructions one
// after the other would fill the processor's schedulers with what waits for a lookup.
const together = 8

// laneGen generates a decoder of lanes in 64-bit registers: no gathers, which are slow on many processors with AVX2, and here as
// slow as what they replace. Table entries are values<<16 | length. They are stored whole, two bytes before their values' place:
// lanes follow in descending order, so that the next one's values replace the length.
type laneGen struct {
	args, dst, words, lut, notMask Register
	notSeven                       GPVirtual
}

func rowLanes() {
	TEXT("rowLanes", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc("rowLanes decodes a row with BMI2 and moves on in its arguments.")
	g := &laneGen{args: Load(Param("a"), GP64())}
	load := argLoader(g.args)
	g.words, g.lut, g.notMask = load(laneWords), load(argLut), load(laneNotMask)
	g.notSeven = GP64()
	MOVQ(I32(-8), g.notSeven)
	g.dst = load(argDst)
	decodeRow(Mem{Base: g.args, Disp: argSteps}, g.group)
	RET()
}

// group decodes n (1, 2 or 4) pairs of every lane.
func (g *laneGen) group(n int, _ string) {
	for first := 32 - together; first >= 0; first -= together {
		g.lanes(first, n)
	}
	ADDQ(U32(uint32(64*n)), g.dst)
}

// lanes decodes n pairs of some lanes. A 64-bit word from the byte of its position on holds four pairs of up to 12 bits, and a
// bit above them, whose place tells at last how many were read.
func (g *laneGen) lanes(first, n int) {
	var w [together]GPVirtual
	pos := func(j int) Mem { return Mem{Base: g.args, Disp: lanePositions + 4*(first+j)} }
	for j := together - 1; j >= 0; j-- {
		w[j] = GP64()
		bit := GP64()
		MOVL(pos(j), w[j].As32())
		ANDNL(w[j].As32(), g.notSeven.As32(), bit.As32())
		SHRL(Imm(3), w[j].As32())
		SHRXQ(bit, Mem{Base: g.words, Index: w[j], Scale: 1}, w[j])
		BTSQ(Imm(63), w[j])
	}
	for i := range n {
		for j := together - 1; j >= 0; j-- {
			e := GP64()
			ANDNL(w[j].As32(), asL(g.notMask), e.As32())
			MOVL(Mem{Base: g.lut, Index: e, Scale: 4}, e.As32())
			SHRXQ(e, w[j], w[j]) // by its lowest six bits
			if at := 64*i + 2*(first+j); first+j > 0 {
				MOVL(e.As32(), Mem{Base: g.dst, Disp: at - 2})
			} else {
				SHRL(Imm(16), e.As32())
				MOVW(e.As16(), Mem{Base: g.dst, Disp: at})
			}
		}
	}
	for j := together - 1; j >= 0; j-- {
		LZCNTQ(w[j], w[j])
		ADDL(w[j].As32(), pos(j))
	}
}

func asL(r Register) Register { return r.(GPVirtual).As32() }
