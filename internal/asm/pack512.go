package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// planeUnpacker holds what turns planes back into bytes.
type planeUnpacker struct {
	planes     int
	shift, low VecVirtual
	or         VecVirtual // set in every code, or nil
	add        []VecVirtual
}

func newPlaneUnpacker(planes int) *planeUnpacker {
	u := &planeUnpacker{planes: planes, shift: ZMM(), low: ZMM()}
	t, m, k := GP64(), GP32(), K()
	MOVQ(U64(0x0f0f0f0f0f0f0f0f), t)
	VPBROADCASTQ(t, u.low)
	// 16-bit shift counts: 0 in the lower half, 4 in the upper one; bits that cross bytes are masked off.
	MOVQ(U64(0x0004000400040004), t)
	VPXORD(u.shift, u.shift, u.shift)
	MOVL(U32(0xf0), m)
	KMOVW(m, k)
	VPBROADCASTQ(t, k, u.shift)
	for i := range planes {
		MOVQ(U64(0x0101010101010101<<(4+i)), t)
		v := ZMM()
		VPBROADCASTQ(t, v)
		u.add = append(u.add, v)
	}
	return u
}

// step returns the 64 codes of step j behind the pointers.
func (u *planeUnpacker) step(nibble, bits GPVirtual, j int) VecVirtual {
	w := ZMM()
	VBROADCASTI64X4(Mem{Base: nibble, Disp: 32 * j}, w)
	VPSRLVW(u.shift, w, w)
	if u.or != nil {
		VPTERNLOGD(U8(0xea), u.or, u.low, w) // (w & low) | or
	} else {
		VPANDD(u.low, w, w)
	}
	for i, v := range u.add {
		k := K()
		KMOVQ(Mem{Base: bits, Disp: 8 * (u.planes*j + i)}, k)
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

func unpack512(planes int) {
	name := fmt.Sprintf("unpack512w%d", 4+planes)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of planes into codes of one byte each.")
	_, codes, nibble, bits, steps := packRegisters()
	u := newPlaneUnpacker(planes)
	Label("step")
	VMOVDQU8(u.step(nibble, bits, 0), Mem{Base: codes})
	ADDQ(U32(64), codes)
	ADDQ(U32(32), nibble)
	ADDQ(U32(uint32(8*planes)), bits)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}

func pack512(planes int) {
	name := fmt.Sprintf("pack512w%d", 4+planes)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns a row of codes of one byte each into planes.")
	_, codes, nibble, bits, steps := packRegisters()
	low, t := YMM(), GP64()
	MOVQ(U64(0x0f0f0f0f0f0f0f0f), t)
	VPBROADCASTQ(t, low)
	var bit []VecVirtual
	for i := range planes {
		v := ZMM()
		MOVQ(U64(0x0101010101010101<<(4+i)), t)
		VPBROADCASTQ(t, v)
		bit = append(bit, v)
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
	ADDQ(U32(uint32(8*planes)), bits)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}
