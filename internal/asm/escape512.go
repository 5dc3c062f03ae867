package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets behind dotScaleStride in type dotArgs, for rows with escapes.
const (
	dotEscape      = dotScaleStride + 8 + 8*iota // escapes of all rows
	dotStart                                     // uint32: where a row's escapes start
	dotStartStride                               // bytes from one row's start to the next
	dotLow                                       // what is added to numbers of the planes, escapes of bytes only
)

// Offsets behind steps in type packArgs.
const (
	packEscape = 32 + 8*iota // in: where escapes go; out: behind the last
	packLow                  // see dotLow
)

// escapes holds what inserts the codes that do not fit the planes. In the planes their place is taken by the largest number.
type escapes struct {
	nibbles            bool
	marker, low, table VecVirtual
}

// escapeForm returns the name of a form in function names.
func escapeForm(planes int, nibbles bool) string {
	if nibbles {
		return fmt.Sprintf("w%dn", 4+planes)
	}
	return fmt.Sprintf("w%db", 4+planes)
}

// newEscapes prepares constants; lowAt is the argument with the sum's start of the planes' numbers. With nibbles, numbers 0–14 of the planes stand for
// codes 16–30, and table maps escapes to codes 8–15 and 31–38.
func newEscapes(u *planeUnpacker, nibbles bool, lowAt Mem, table Mem) *escapes {
	e := &escapes{nibbles: nibbles, marker: ZMM()}
	t := GP64()
	if nibbles {
		e.low, e.table, u.or = u.low, ZMM(), ZMM()
		MOVQ(U64(0x1010101010101010), t)
		VPBROADCASTQ(t, u.or)
		MOVQ(U64(0x1f1f1f1f1f1f1f1f), t)
		VPBROADCASTQ(t, e.marker)
		VBROADCASTI32X4(table, e.table)
		return e
	}
	e.low = ZMM()
	VPBROADCASTB(lowAt, e.low)
	MOVQ(U64(0x0101010101010101*(16<<u.planes-1)), t)
	VPBROADCASTQ(t, e.marker)
	return e
}

// insert completes the 64 codes w of a step; p points to the escapes and is moved behind them.
func (e *escapes) insert(w VecVirtual, p GPVirtual) {
	k, n, v := K(), GP64(), ZMM()
	VPCMPEQB(e.marker, w, k)
	KMOVQ(k, n)
	POPCNTQ(n, n)
	if !e.nibbles {
		VPADDB(e.low, w, w)
		VMOVDQU8(Mem{Base: p}, v)
		VPEXPANDB(v, k, w)
		ADDQ(n, p)
		return
	}
	high := ZMM()
	VPMOVZXBW(Mem{Base: p}, v)
	VPSLLW(Imm(4), v, high)
	VPTERNLOGD(U8(0xa8), e.low, high, v) // (v | high) & low
	VPSHUFB(v, e.table, v)
	VPEXPANDB(v, k, w)
	INCQ(n)
	SHRQ(Imm(1), n)
	ADDQ(n, p)
}

// escapeTable returns the codes of the escapes in nibbles.
func escapeTable() Mem {
	m := GLOBL("escapeTable", RODATA|NOPTR)
	for i := range 16 {
		code := 8 + i
		if i >= 8 {
			code = 23 + i
		}
		DATA(i, U8(code))
	}
	return m
}

// unpackEscape512 is unpack512 for rows with escapes.
func unpackEscape512(planes int, nibbles bool, table Mem) {
	name := "unpack512" + escapeForm(planes, nibbles)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of planes and escapes into codes of one byte each.")
	args, codes, nibble, bits, steps := packRegisters()
	u := newPlaneUnpacker(planes)
	e := newEscapes(u, nibbles, Mem{Base: args, Disp: packLow}, table)
	p := GP64()
	MOVQ(Mem{Base: args, Disp: packEscape}, p)
	Label("step")
	w := u.step(nibble, bits, 0)
	e.insert(w, p)
	VMOVDQU8(w, Mem{Base: codes})
	ADDQ(U32(64), codes)
	ADDQ(U32(32), nibble)
	ADDQ(U32(uint32(8*planes)), bits)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

// packEscape512 is the inverse of unpackEscape512. Behind the escapes there must be room for 64 bytes.
func packEscape512(planes int, nibbles bool) {
	name := "pack512" + escapeForm(planes, nibbles)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of codes of one byte each into planes and escapes.")
	args, codes, nibble, bits, steps := packRegisters()
	p, t := GP64(), GP64()
	MOVQ(Mem{Base: args, Disp: packEscape}, p)
	constant := func(b uint64) VecVirtual {
		v := ZMM()
		MOVQ(U64(0x0101010101010101*b), t)
		VPBROADCASTQ(t, v)
		return v
	}
	marker, nibbleMask := constant(16<<planes-1), constant(15)
	var low, eight, one, pair VecVirtual
	if nibbles {
		low, eight, one, pair = constant(16), constant(8), constant(1), ZMM()
		MOVQ(U64(0x1001100110011001), t) // first escape in the low nibble
		VPBROADCASTQ(t, pair)
	} else {
		low = ZMM()
		VPBROADCASTB(Mem{Base: args, Disp: packLow}, low)
	}
	var bit []VecVirtual
	for i := range planes {
		bit = append(bit, constant(16<<i))
	}
	Label("step")
	u, n, k, cnt := ZMM(), ZMM(), K(), GP64()
	VMOVDQU8(Mem{Base: codes}, u)
	VPSUBB(low, u, n)
	VPMINUB(marker, n, n)
	VPCMPEQB(marker, n, k)
	KMOVQ(k, cnt)
	POPCNTQ(cnt, cnt)
	if nibbles {
		above := K()
		VPCMPUB(U8(5), low, u, above) // not below 16
		VPSUBB(eight, u, u)
		VPADDB(one, u, above, u)
		VPANDD(nibbleMask, u, u)
		VPCOMPRESSB_Z(u, k, u)
		VPMADDUBSW(pair, u, u)
		half := YMM()
		VPMOVWB(u, half)
		VMOVDQU(half, Mem{Base: p})
		INCQ(cnt)
		SHRQ(Imm(1), cnt)
	} else {
		VPCOMPRESSB_Z(u, k, u)
		VMOVDQU8(u, Mem{Base: p})
	}
	ADDQ(cnt, p)
	for i, v := range bit {
		b := K()
		VPTESTMB(n, v, b)
		KMOVQ(b, Mem{Base: bits, Disp: 8 * i})
	}
	upper := YMM()
	VPANDD(nibbleMask, n, n)
	VEXTRACTI64X4(Imm(1), n, upper)
	VPSLLW(Imm(4), upper, upper)
	VPOR(n.AsY(), upper, upper)
	VMOVDQU(upper, Mem{Base: nibble})
	ADDQ(U32(64), codes)
	ADDQ(U32(32), nibble)
	ADDQ(U32(uint32(8*planes)), bits)
	DECQ(steps)
	JNZ(LabelRef("step"))
	MOVQ(p, Mem{Base: args, Disp: packEscape})
	VZEROUPPER()
	RET()
}
