package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets in type tileArgs of internal/linalg. Strides are in bytes.
const (
	f32C    = 8 * iota // float32[rows][columns]
	f32CRow            // from one row to the next
	f32A               // float32[rows][k]
	f32ARow
	f32AK
	f32B // float32[k][columns]
	f32BK
	f32K
)

// gemmF32 adds the product of an A of m rows and a B of two vectors to C. An element of A is broadcast, so A may be strided any
// way.
func gemmF32(name, isa string, m, width int, vector func() VecVirtual) {
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s adds the product of %d rows of A and %d columns of B to a tile of C, with %s.", name, m, width/2, isa))
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	k, a, as, ak, b, bk := load(f32K), load(f32A), load(f32ARow), load(f32AK), load(f32B), load(f32BK)
	// Three rows can be reached from one pointer.
	pa := []GPVirtual{a}
	for len(pa) < (m+2)/3 {
		p := GP64()
		LEAQ(Mem{Base: pa[len(pa)-1], Index: as, Scale: 2}, p)
		ADDQ(as, p)
		pa = append(pa, p)
	}
	acc := make([][2]VecVirtual, m)
	for i := range acc {
		acc[i] = [2]VecVirtual{vector(), vector()}
		VXORPS(acc[i][0].AsX(), acc[i][0].AsX(), acc[i][0].AsX())
		VXORPS(acc[i][1].AsX(), acc[i][1].AsX(), acc[i][1].AsX())
	}
	Label("next")
	b0, b1 := vector(), vector()
	VMOVUPS(Mem{Base: b}, b0)
	VMOVUPS(Mem{Base: b, Disp: width}, b1)
	for i := range acc {
		at := Mem{Base: pa[i/3]}
		if i%3 > 0 {
			at.Index, at.Scale = as, uint8(i%3)
		}
		x := vector()
		VBROADCASTSS(at, x)
		VFMADD231PS(b0, x, acc[i][0])
		VFMADD231PS(b1, x, acc[i][1])
	}
	for _, p := range pa {
		ADDQ(ak, p)
	}
	ADDQ(bk, b)
	DECQ(k)
	JNZ(LabelRef("next"))
	c, cs := load(f32C), load(f32CRow)
	for i := range acc {
		VADDPS(Mem{Base: c}, acc[i][0], acc[i][0])
		VADDPS(Mem{Base: c, Disp: width}, acc[i][1], acc[i][1])
		VMOVUPS(acc[i][0], Mem{Base: c})
		VMOVUPS(acc[i][1], Mem{Base: c, Disp: width})
		ADDQ(cs, c)
	}
	VZEROUPPER()
	RET()
}
