package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const ones = 0x0101010101010101

// constant returns a vector of 64 equal bytes.
func constant(b uint64) VecVirtual {
	v, t := ZMM(), GP64()
	MOVQ(U64(ones*b), t)
	VPBROADCASTQ(t, v)
	return v
}

// planes says where the bits of codes are: the low ones, 4 (or 2 of codes of 3 bits), in the main plane, each of the others in a
// mask of 64 bits.
type planes struct{ low, high int }

func planesOf(width int) planes {
	switch width {
	case 3:
		return planes{2, 1}
	case 8:
		return planes{8, 0}
	}
	return planes{4, width - 4}
}

func (p planes) mainBytes() int { return 8 * p.low }
func (p planes) maskBytes() int { return 8 * p.high }

// planeUnpacker holds what turns planes back into bytes.
type planeUnpacker struct {
	planes
	shift, low VecVirtual
	or         VecVirtual // set in every code, or nil
	add        []VecVirtual
}

func newPlaneUnpacker(p planes) *planeUnpacker {
	u := &planeUnpacker{planes: p, shift: ZMM(), low: constant(1<<p.low - 1)}
	t, m, k := GP64(), GP32(), K()
	// 16-bit shift counts: 0, 4 in the halves of the vector, or 0, 2, 4, 6 in its quarters. Bits that cross bytes are masked off.
	VPXORD(u.shift, u.shift, u.shift)
	parts := 8 / p.low
	for i := 1; i < parts; i++ {
		MOVQ(U64(0x0001000100010001*uint64(i*p.low)), t)
		MOVL(U32((1<<(8/parts)-1)<<(8/parts*i)), m)
		KMOVW(m, k)
		VPBROADCASTQ(t, k, u.shift)
	}
	for i := range p.high {
		u.add = append(u.add, constant(1<<(p.low+i)))
	}
	return u
}

// step returns the 64 codes of step j after the pointers.
func (u *planeUnpacker) step(nibble, bits GPVirtual, j int) VecVirtual {
	w := ZMM()
	if u.planes.low == 2 {
		VBROADCASTI32X4(Mem{Base: nibble, Disp: 16 * j}, w)
	} else {
		VBROADCASTI64X4(Mem{Base: nibble, Disp: 32 * j}, w)
	}
	VPSRLVW(u.shift, w, w)
	if u.or != nil {
		VPTERNLOGD(U8(0xea), u.or, u.low, w) // (w & low) | or
	} else {
		VPANDD(u.low, w, w)
	}
	for i, v := range u.add {
		k := K()
		KMOVQ(Mem{Base: bits, Disp: 8 * (u.high*j + i)}, k)
		VPADDB(v, w, k, w)
	}
	return w
}

// packRegisters loads type packArgs of cpu/dot: a row of codes, one byte each, and the same row as planes.
func packRegisters() (args Register, codes, nibble, bits, steps GPVirtual) {
	args = Load(Param("a"), GP64())
	codes, nibble, bits, steps = GP64(), GP64(), GP64(), GP64()
	for i, r := range []GPVirtual{codes, nibble, bits, steps} {
		MOVQ(Mem{Base: args, Disp: 8 * i}, r)
	}
	return args, codes, nibble, bits, steps
}

func unpack512(width int) {
	name := fmt.Sprintf("unpack512w%d", width)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of planes into codes of one byte each.")
	_, codes, nibble, bits, steps := packRegisters()
	u := newPlaneUnpacker(planesOf(width))
	Label("step")
	VMOVDQU8(u.step(nibble, bits, 0), Mem{Base: codes})
	ADDQ(U32(64), codes)
	ADDQ(U32(32), nibble)
	ADDQ(U32(uint32(u.maskBytes())), bits)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

func pack512(width int) {
	name := fmt.Sprintf("pack512w%d", width)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of codes of one byte each into planes.")
	_, codes, nibble, bits, steps := packRegisters()
	low, t, p := YMM(), GP64(), planesOf(width)
	MOVQ(U64(0x0f*ones), t)
	VPBROADCASTQ(t, low)
	var bit []VecVirtual
	for i := range p.high {
		bit = append(bit, constant(1<<(p.low+i)))
	}
	Label("step")
	a, b := YMM(), YMM()
	VMOVDQU(Mem{Base: codes}, a)
	VMOVDQU(Mem{Base: codes, Disp: 32}, b)
	VPAND(low, a, a)
	VPAND(low, b, b)
	VPSLLW(Imm(4), b, b)
	VPOR(a, b, b)
	VMOVDQU(b, Mem{Base: nibble})
	for i, v := range bit {
		k := K()
		VPTESTMB(Mem{Base: codes}, v, k)
		KMOVQ(k, Mem{Base: bits, Disp: 8 * i})
	}
	ADDQ(U32(64), codes)
	ADDQ(U32(32), nibble)
	ADDQ(U32(uint32(p.maskBytes())), bits)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}
