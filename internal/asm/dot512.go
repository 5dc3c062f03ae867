package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets in the argument structure of the dot products (type dotArgs in cpu/dot).
const (
	dotOut    = 8 * iota // int32[rows][2]: Σ u·xhi, Σ u·xlo
	dotNibble            // row-major rows × 32·steps bytes; or rows × 64·steps bytes of whole codes
	dotNibbleStride
	dotBits // row-major rows × 8·planes·steps bytes
	dotBitsStride
	dotX // int8[steps][2][64]: high halves, then low halves of 64 activations
	dotSteps
	dotRows
)

// prefetchAhead is how many bytes ahead planes are fetched: they lie in memory in the order of their use, and one core alone asks for too few lines at a time.
const prefetchAhead = 2048

// dot512 generates the dot product of rows of packed codes with 16-bit activations: planes extra bits stand beside the nibbles, or codes are whole bytes (planes < 0).
// A step's 64 codes are 32 bytes, the low nibbles being columns 0–31 and the high ones columns 32–63; each extra bit is a mask of 64.
func dot512(planes int) {
	name := fmt.Sprintf("dot512w%d", 4+planes)
	if planes < 0 {
		name = "dot512w8"
	}
	dotRows512(name, planes, nil)
}

// dotEscape512 is dot512 for rows with escapes.
func dotEscape512(planes int, nibbles bool, table Mem) {
	dotRows512("dot512"+escapeForm(planes, nibbles), planes, func(u *planeUnpacker, args Register) *escapes {
		return newEscapes(u, nibbles, Mem{Base: args, Disp: dotLow}, table)
	})
}

// dotRows512 generates the loops over rows and steps; withEscapes may be nil.
func dotRows512(name string, planes int, withEscapes func(u *planeUnpacker, args Register) *escapes) {
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " multiplies rows of packed codes with one vector of 16-bit activations with AVX-512 VNNI, four steps of accumulators in flight.")
	args := Load(Param("a"), GP64())
	load := func(disp int) GPVirtual {
		r := GP64()
		MOVQ(Mem{Base: args, Disp: disp}, r)
		return r
	}
	out, rows, nib := load(dotOut), load(dotRows), load(dotNibble)
	bits := GP64()
	if planes > 0 {
		MOVQ(Mem{Base: args, Disp: dotBits}, bits)
	}
	var u *planeUnpacker
	if planes >= 0 {
		u = newPlaneUnpacker(planes)
	}
	np, bp, xp, left := GP64(), GP64(), GP64(), GP64()
	var e *escapes
	ep, starts := GP64(), GP64()
	if withEscapes != nil {
		e = withEscapes(u, args)
		MOVQ(Mem{Base: args, Disp: dotStart}, starts)
	}
	var acc [2][2]VecVirtual // [step parity][half]
	for i := range acc {
		acc[i] = [2]VecVirtual{ZMM(), ZMM()}
	}
	step := func(j int) {
		var w VecVirtual
		if planes < 0 {
			w = ZMM()
			VMOVDQU8(Mem{Base: np, Disp: 64 * j}, w)
			PREFETCHT0(Mem{Base: np, Disp: 64*j + prefetchAhead})
		} else {
			w = u.step(np, bp, j)
			if j%2 == 0 {
				PREFETCHT0(Mem{Base: np, Disp: 32*j + prefetchAhead})
			}
		}
		if e != nil {
			e.insert(w, ep)
		}
		for h := range 2 {
			VPDPBUSD(Mem{Base: xp, Disp: 128*j + 64*h}, w, acc[j%2][h])
		}
	}
	move := func(n int) {
		width := 32
		if planes < 0 {
			width = 64
		}
		ADDQ(U32(width*n), np)
		ADDQ(U32(128*n), xp)
		if planes > 0 {
			ADDQ(U32(8*planes*n), bp)
		}
	}
	Label("row")
	for i := range acc {
		for h := range 2 {
			VPXORD(acc[i][h], acc[i][h], acc[i][h])
		}
	}
	MOVQ(nib, np)
	if planes > 0 {
		MOVQ(bits, bp)
	}
	if e != nil {
		MOVL(Mem{Base: starts}, ep.As32())
		ADDQ(Mem{Base: args, Disp: dotEscape}, ep)
		ADDQ(Mem{Base: args, Disp: dotStartStride}, starts)
	}
	MOVQ(Mem{Base: args, Disp: dotX}, xp)
	MOVQ(Mem{Base: args, Disp: dotSteps}, left)
	SUBQ(Imm(4), left)
	JL(LabelRef("rest"))
	Label("four")
	for j := range 4 {
		step(j)
	}
	move(4)
	SUBQ(Imm(4), left)
	JGE(LabelRef("four"))
	Label("rest")
	ADDQ(Imm(4), left)
	JZ(LabelRef("sum"))
	Label("one")
	step(0)
	move(1)
	DECQ(left)
	JNZ(LabelRef("one"))
	Label("sum")
	for h := range 2 {
		VPADDD(acc[1][h], acc[0][h], acc[0][h])
		reduce512(acc[0][h], Mem{Base: out, Disp: 4 * h})
	}
	ADDQ(Imm(8), out)
	ADDQ(Mem{Base: args, Disp: dotNibbleStride}, nib)
	if planes > 0 {
		ADDQ(Mem{Base: args, Disp: dotBitsStride}, bits)
	}
	DECQ(rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// reduce512 stores the sum of 16 int32.
func reduce512(v VecVirtual, to Mem) {
	y, y2 := YMM(), YMM()
	VEXTRACTI64X4(Imm(1), v, y)
	VPADDD(v.AsY(), y, y2)
	x, x2 := XMM(), XMM()
	VEXTRACTI128(Imm(1), y2, x)
	VPADDD(y2.AsX(), x, x2)
	VPSHUFD(Imm(0xee), x2, x)
	VPADDD(x, x2, x2)
	VPSHUFD(Imm(0x55), x2, x)
	VPADDD(x, x2, x2)
	VMOVD(x2, to)
}
