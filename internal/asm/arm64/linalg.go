package main

// Offsets in type tileArgs of internal/linalg; strides are in bytes.
const (
	tileC = 8 * iota // float32[4][16]
	tileCRow
	tileA // float32[4][k]
	tileARow
	tileAK
	tileB // float32[k][16]
	tileBK
	tileK
)

// gemmF32 adds the product of a 4 × k and a k × 16 matrix to C: sixteen sums of four numbers each.
func gemmF32() *function {
	f := &function{name: "gemmNEON", doc: "adds the product of A, 4 × k, and B, k × 16, to a tile of C."}
	f.begin(tileC, tileCRow, tileA, tileARow, tileAK, tileB, tileBK, tileK)
	f.raw("MOVD R3, R9")
	for r := 1; r < 4; r++ {
		f.raw("ADD R4, R%d, R%d", 8+r, 9+r)
	}
	for i := v(0); i < 16; i++ {
		f.zero(i)
	}
	f.label("step")
	f.ldpQ(16, 17, 6, 0)
	f.ldpQ(18, 19, 6, 32)
	f.raw("ADD R7, R6")
	for r := v(0); r < 4; r++ {
		f.ldrRepeated(20+r, 9+x(r))
		f.raw("ADD R5, R%d", 9+r)
		for j := v(0); j < 4; j++ {
			f.fmac(4*r+j, 16+j, 20+r)
		}
	}
	f.loop("step", 8, 1)
	for r := v(0); r < 4; r++ {
		for j := v(0); j < 4; j += 2 {
			f.ldpQ(16, 17, 1, 16*int(j))
			f.fadd(16, 16, 4*r+j)
			f.fadd(17, 17, 4*r+j+1)
			f.stpQ(16, 17, 1, 16*int(j))
		}
		f.raw("ADD R2, R1")
	}
	return f
}
