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

// How many bytes ahead planes are fetched: they lie in memory in the order of their use, and one core alone asks for too few
// lines at a time. The first level has the fewest lines on their way, so that they come to the second level from memory, and to
// the first from there.
const prefetchFar, prefetchNear = 8192, 1024

// prefetch fetches the line that is needed a while after the one at m.
func prefetch(m Mem) {
	disp := m.Disp
	m.Disp = disp + prefetchFar
	PREFETCHT1(m)
	m.Disp = disp + prefetchNear
	PREFETCHT0(m)
}

// dot512 generates the dot product of rows of packed codes with 16-bit activations.
// A step's 64 codes of 4 bits are 32 bytes, the low nibbles being columns 0–31 and the high ones columns 32–63; each extra bit is
// a mask of 64.
func dot512(width int) { dotRows512(fmt.Sprintf("dot512w%d", width), width, nil) }

// dotEscape512 is dot512 for rows with escapes.
func dotEscape512(width int, table Mem) { dotRows512(fmt.Sprintf("dot512w%de", width), width, &table) }

// dotter generates the loops over rows and steps; table is that of the escapes, if there are any.
type dotter struct {
	args, out, rows, nib, bits Register
	np, bp, xp, left           GPVirtual
	p                          planes
	u                          *planeUnpacker   // nil: whole bytes
	e                          *escapes         // or nil
	acc                        [2][2]VecVirtual // [step parity][half]
	unpack                     bool             // codes are stored instead of multiplied
}

func dotRows512(name string, width int, table *Mem) {
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " multiplies rows of packed codes with one vector of 16-bit activations with AVX-512 VNNI, four steps of " +
		"accumulators in flight.")
	d := &dotter{}
	d.body(width, table)
}

// unpackRows512 generates what turns rows of packed codes into bytes, 64·steps of each row at dotOut. Like the dot product it
// expands the escapes of a row while it works on the row before: what was just stored in parts cannot be loaded at once.
func unpackRows512(width int, table *Mem) {
	name := fmt.Sprintf("unpackRows512w%d", width)
	if table != nil {
		name += "e"
	}
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + " turns rows of packed codes into codes of one byte each with AVX-512.")
	d := &dotter{unpack: true}
	d.body(width, table)
}

func (d *dotter) body(width int, table *Mem) {
	d.args, d.p = Load(Param("a"), GP64()), planesOf(width)
	load := func(disp int) Register {
		r := GP64()
		MOVQ(Mem{Base: d.args, Disp: disp}, r)
		return r
	}
	d.out, d.rows, d.nib = load(dotOut), load(dotRows), load(dotNibble)
	if d.p.high > 0 {
		d.bits = load(dotBits)
	}
	if width < 8 {
		d.u = newPlaneUnpacker(d.p)
	}
	for i := range d.acc {
		d.acc[i] = [2]VecVirtual{ZMM(), ZMM()}
	}
	if table != nil {
		d.e = newEscapes(d.u, width, *table)
		d.e.expandNext(d.args, "first")
	}
	Label("row")
	if table != nil {
		d.e.swap(d.args)
		CMPQ(d.rows, U8(1))
		JE(LabelRef("expanded"))
		d.e.expandNext(d.args, "next")
		Label("expanded")
	}
	d.row()
	if !d.unpack {
		ADDQ(U8(8), d.out)
	}
	ADDQ(Mem{Base: d.args, Disp: dotNibbleStride}, d.nib)
	if d.p.high > 0 {
		ADDQ(Mem{Base: d.args, Disp: dotBitsStride}, d.bits)
	}
	DECQ(d.rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// row multiplies one row.
func (d *dotter) row() {
	for i := range d.acc {
		for h := range 2 {
			if !d.unpack {
				VPXORD(d.acc[i][h], d.acc[i][h], d.acc[i][h])
			}
		}
	}
	d.np, d.bp, d.xp, d.left = GP64(), GP64(), GP64(), GP64()
	MOVQ(d.nib, d.np)
	if d.p.high > 0 {
		MOVQ(d.bits, d.bp)
	}
	if !d.unpack {
		MOVQ(Mem{Base: d.args, Disp: dotX}, d.xp)
	}
	MOVQ(Mem{Base: d.args, Disp: dotSteps}, d.left)
	SUBQ(Imm(4), d.left)
	JL(LabelRef("rest"))
	Label("four")
	if d.p.high > 0 {
		prefetch(Mem{Base: d.bp})
	}
	for j := range 4 {
		d.step(j)
	}
	d.move(4)
	SUBQ(Imm(4), d.left)
	JGE(LabelRef("four"))
	Label("rest")
	ADDQ(Imm(4), d.left)
	JZ(LabelRef("sum"))
	Label("one")
	d.step(0)
	d.move(1)
	DECQ(d.left)
	JNZ(LabelRef("one"))
	Label("sum")
	if d.unpack {
		return
	}
	for h := range 2 {
		VPADDD(d.acc[1][h], d.acc[0][h], d.acc[0][h])
		reduce512(d.acc[0][h], Mem{Base: d.out, Disp: 4 * h})
	}
}

func (d *dotter) step(j int) {
	size := d.p.mainBytes()
	if j*size%64 == 0 {
		prefetch(Mem{Base: d.np, Disp: size * j})
	}
	var w VecVirtual
	if d.u == nil {
		w = ZMM()
		VMOVDQU8(Mem{Base: d.np, Disp: 64 * j}, w)
	} else {
		w = d.u.step(d.np, d.bp, j)
	}
	if d.e != nil {
		d.e.insert(w)
	}
	if d.unpack {
		VMOVDQU8(w, Mem{Base: d.out, Disp: 64 * j})
		return
	}
	for h := range 2 {
		VPDPBUSD(Mem{Base: d.xp, Disp: 128*j + 64*h}, w, d.acc[j%2][h])
	}
}

// move moves on by n steps.
func (d *dotter) move(n int) {
	ADDQ(U32(d.p.mainBytes()*n), d.np)
	if d.unpack {
		ADDQ(U32(64*n), d.out)
	} else {
		ADDQ(U32(128*n), d.xp)
	}
	if d.p.high > 0 {
		ADDQ(U32(d.p.maskBytes()*n), d.bp)
	}
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
