package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets after dotScaleStride in type dotArgs, for rows with escapes.
const (
	dotEscape      = dotScaleStride + 8 + 8*iota // escapes of all rows
	dotStart                                     // uint32: where a row's escapes start; moved on
	dotStartStride                               // bytes from one row's start to the next
	dotTrips                                     // into how many vectors the rows' escapes are expanded
	dotExpanded                                  // where the next row's go
	dotCurrent                                   // where this row's are
)

// Offsets after steps in type packArgs.
const (
	packEscape  = 32 + 8*iota // where the row's escapes go, then the address after their end
	packLow                   // what is subtracted from codes
	packScratch               // expanded escapes
)

// regular is the code of the number 0 of the planes, and below how many escapes in nibbles stand for smaller codes.
const (
	regular = 128
	below   = 7
)

// escapes holds what inserts the codes that do not fit the planes. In the planes their place is taken by the largest number.
type escapes struct {
	marker, nibble, wide, table VecVirtual
	ep                          GPVirtual // the next expanded escape
}

func newEscapes(u *planeUnpacker, width int, table Mem) *escapes {
	e := &escapes{marker: constant(regular + 1<<width - 1), nibble: constant(15), table: ZMM(), ep: GP64()}
	u.or = constant(regular)
	if u.planes.low == 4 {
		e.nibble = u.low
	}
	VBROADCASTI32X4(table, e.table)
	return e
}

// expandNext expands the escapes of the row that is next in dotStart.
func (e *escapes) expandNext(args Register, name string) {
	p, to, trips := GP64(), GP64(), GP64()
	MOVQ(Mem{Base: args, Disp: dotStart}, to)
	MOVL(Mem{Base: to}, p.As32())
	ADDQ(Mem{Base: args, Disp: dotEscape}, p)
	ADDQ(Mem{Base: args, Disp: dotStartStride}, to)
	MOVQ(to, Mem{Base: args, Disp: dotStart})
	MOVQ(Mem{Base: args, Disp: dotExpanded}, to)
	MOVQ(Mem{Base: args, Disp: dotTrips}, trips)
	e.expand(p, to, trips, name)
}

// swap exchanges the memory of the row just expanded with the one that is done.
func (e *escapes) swap(args Register) {
	t := GP64()
	MOVQ(Mem{Base: args, Disp: dotExpanded}, e.ep)
	MOVQ(Mem{Base: args, Disp: dotCurrent}, t)
	MOVQ(e.ep, Mem{Base: args, Disp: dotCurrent})
	MOVQ(t, Mem{Base: args, Disp: dotExpanded})
}

// expand turns the escapes at p to bytes, 64 in each of some trips. Their number is the same for all rows of a product, so that
// it is easy to predict; what is beyond a row's last escape has no meaning.
func (e *escapes) expand(p, to, trips GPVirtual, name string) {
	bytes := GP64()
	MOVWQZX(Mem{Base: p}, bytes)
	INCQ(bytes)
	SHRQ(Imm(1), bytes)
	LEAQ(Mem{Base: p, Index: bytes, Scale: 1, Disp: 2}, bytes)
	ADDQ(U8(2), p)
	TESTQ(trips, trips)
	JZ(LabelRef(name + "_done"))
	Label(name + "_more")
	v, high, k, n, b := ZMM(), ZMM(), K(), GP64(), ZMM()
	prefetch(Mem{Base: p})
	VPMOVZXBW(Mem{Base: p}, v)
	VPSLLW(Imm(4), v, high)
	VPTERNLOGD(U8(0xa8), e.nibble, high, v) // (v | high) & nibble
	VPCMPEQB(e.nibble, v, k)
	KMOVQ(k, n)
	POPCNTQ(n, n)
	VPSHUFB(v, e.table, v)
	VMOVDQU8(Mem{Base: bytes}, b)
	VPEXPANDB(b, k, v)
	VMOVDQU8(v, Mem{Base: to})
	ADDQ(n, bytes)
	ADDQ(U8(32), p)
	ADDQ(U8(64), to)
	DECQ(trips)
	JNZ(LabelRef(name + "_more"))
	Label(name + "_done")
}

// insert completes the 64 codes w of a step.
func (e *escapes) insert(w VecVirtual) {
	k, n, v := K(), GP64(), ZMM()
	VPCMPEQB(e.marker, w, k)
	KMOVQ(k, n)
	POPCNTQ(n, n)
	VMOVDQU8(Mem{Base: e.ep}, v)
	VPEXPANDB(v, k, w)
	ADDQ(n, e.ep)
}

// escapeTable returns the codes of the escapes in nibbles.
func escapeTable(width int) Mem {
	m := GLOBL(fmt.Sprintf("escapeTable%d", width), RODATA|NOPTR)
	for i := range 16 {
		code := regular - below + i
		if i >= below {
			code += 1<<width - 1
		}
		DATA(i, U8(code))
	}
	return m
}

// packEscape512 is the inverse of unpackRows512. After the escapes there must be room for 64 bytes.
func packEscape512(width int) {
	name := fmt.Sprintf("pack512w%de", width)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of codes of one byte each into planes and escapes.")
	args, codes, nibble, bits, steps := packRegisters()
	to := GP64()
	MOVQ(Mem{Base: args, Disp: packScratch}, to)
	marker, zero, low := constant(1<<width-1), constant(regular), ZMM()
	VPBROADCASTB(Mem{Base: args, Disp: packLow}, low)
	pl := planesOf(width)
	var bit []VecVirtual
	for i := range pl.high {
		bit = append(bit, constant(1<<(pl.low+i)))
	}
	mask := constant(1<<pl.low - 1)
	Label("step")
	u, n, k, cnt := ZMM(), ZMM(), K(), GP64()
	VMOVDQU8(Mem{Base: codes}, u)
	VPSUBB(low, u, u)
	VPSUBB(zero, u, n)
	VPMINUB(marker, n, n)
	VPCMPEQB(marker, n, k)
	KMOVQ(k, cnt)
	POPCNTQ(cnt, cnt)
	VPCOMPRESSB_Z(u, k, u)
	VMOVDQU8(u, Mem{Base: to})
	ADDQ(cnt, to)
	for i, v := range bit {
		b := K()
		VPTESTMB(n, v, b)
		KMOVQ(b, Mem{Base: bits, Disp: 8 * i})
	}
	VPANDD(mask, n, n)
	upper := YMM()
	VEXTRACTI64X4(Imm(1), n, upper)
	if pl.low == 2 {
		// Quarters 0 | 1 at bits 0–3 of two halves of 16 bytes, then the halves.
		VPSLLW(Imm(4), upper, upper)
		VPOR(n.AsY(), upper, upper)
		quarter := XMM()
		VEXTRACTI128(Imm(1), upper, quarter)
		VPSLLW(Imm(2), quarter, quarter)
		VPOR(upper.AsX(), quarter, quarter)
		VMOVDQU(quarter, Mem{Base: nibble})
	} else {
		VPSLLW(Imm(4), upper, upper)
		VPOR(n.AsY(), upper, upper)
		VMOVDQU(upper, Mem{Base: nibble})
	}
	ADDQ(U32(64), codes)
	ADDQ(U32(uint32(pl.mainBytes())), nibble)
	ADDQ(U32(uint32(pl.maskBytes())), bits)
	DECQ(steps)
	JNZ(LabelRef("step"))
	storeEscapes(args, to, width)
	VZEROUPPER()
	RET()
}

// storeEscapes writes the escapes between packScratch and end as a row has them: their number, nibbles, bytes.
func storeEscapes(args Register, end GPVirtual, width int) {
	from, out, rest, left := GP64(), GP64(), GP64(), GP64()
	MOVQ(Mem{Base: args, Disp: packScratch}, from)
	MOVQ(Mem{Base: args, Disp: packEscape}, out)
	MOVQ(end, left)
	SUBQ(from, left)
	MOVW(left.As16(), Mem{Base: out})
	ADDQ(U8(2), out)
	after := GP64()
	LEAQ(Mem{Base: left, Disp: 1}, after)
	SHRQ(Imm(1), after)
	ADDQ(out, after)
	MOVQ(from, rest) // bytes are gathered where escapes were already read
	first, last, seven, pair := constant(regular-below), constant(regular+1<<width-1), constant(below), ZMM()
	t := GP64()
	MOVQ(U64(0x1001100110011001), t) // first escape in the low nibble
	VPBROADCASTQ(t, pair)
	fifteen, eight := constant(15), constant(8)
	TESTQ(left, left)
	JLE(LabelRef("stored"))
	Label("nibbles")
	valid, c, v, above := K(), ZMM(), ZMM(), ZMM()
	some, all := GP64(), GP64()
	MOVQ(U64(64), some)
	CMPQ(left, some)
	CMOVQLT(left, some)
	MOVQ(I64(-1), all)
	BZHIQ(some, all, all)
	KMOVQ(all, valid)
	VMOVDQU8(Mem{Base: from}, c)
	kb, ka := K(), K()
	VPSUBB(first, c, v)
	VPSUBB(last, c, above)
	VPCMPUB(U8(1), seven, v, kb) // v < 7
	VPCMPUB(U8(1), eight, above, ka)
	nib := ZMM()
	VMOVDQA64(fifteen, nib)
	VMOVDQU8(v, kb, nib)
	VPADDB(seven, above, ka, nib)
	VMOVDQU8_Z(nib, valid, nib)
	half := YMM()
	VPMADDUBSW(pair, nib, nib)
	VPMOVWB(nib, half)
	VMOVDQU(half, Mem{Base: out})
	KORQ(ka, kb, kb)
	KANDNQ(valid, kb, kb) // valid and neither
	KMOVQ(kb, t)
	POPCNTQ(t, t)
	VPCOMPRESSB_Z(c, kb, c)
	VMOVDQU8(c, Mem{Base: rest})
	ADDQ(t, rest)
	ADDQ(U8(64), from)
	ADDQ(U8(32), out)
	SUBQ(U8(64), left)
	JG(LabelRef("nibbles"))
	Label("stored")
	MOVQ(Mem{Base: args, Disp: packScratch}, from)
	SUBQ(from, rest)
	LEAQ(Mem{Base: after, Index: rest, Scale: 1}, t)
	MOVQ(t, Mem{Base: args, Disp: packEscape})
	TESTQ(rest, rest)
	JLE(LabelRef("copied"))
	Label("bytes")
	b := ZMM()
	VMOVDQU8(Mem{Base: from}, b)
	VMOVDQU8(b, Mem{Base: after})
	ADDQ(U8(64), from)
	ADDQ(U8(64), after)
	SUBQ(U8(64), rest)
	JG(LabelRef("bytes"))
	Label("copied")
}
