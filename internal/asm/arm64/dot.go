package main

import "fmt"

// Offsets in type neonArgs of cpu/dot.
const (
	argOut          = 8 * iota // int64[rows], or float32[rows]
	argNibble                  // main planes
	argNibbleStride            // bytes from one row to the next
	argBits                    // bit planes
	argBitsStride
	argX // int16[steps][64]
	argSteps
	argRows
	argScale       // float32[rows][blocks]
	argScaleStride // bytes from one row to the next
)

// Where the kernels keep what they read from these.
const (
	rOut x = 1 + iota
	rRows
	rNibble
	rBits
	rScale
	rStrideN
	rStrideB
	rStrideS
	rX
	rSteps
	rTable // a constant
	rNib   // of this row and step
	rBit
	rPtr
	rLeft
	rScl
)

// Vector registers with a fixed meaning.
const (
	vWeight v = 16 // four registers of 16 codes
	// four registers: which bits of a plane's byte j mod 8 belong to their lanes j, 2k in the lower half and 2k + 1 in the upper one
	vBits  v = 26
	vPlane v = 30 // the value of plane 0; of plane 1, the next
	vLow   v = 15 // 0x0f
)

// dotData has the first of vBits.
const dotData = `
DATA ·neonBits+0(SB)/8, $0x0101010101010101
DATA ·neonBits+8(SB)/8, $0x0202020202020202
GLOBL ·neonBits(SB), RODATA|NOPTR, $16
`

// dots generates package dot's kernels.
func dots() []*function {
	list := []*function{join(), absMax(), split()}
	for _, planes := range []int{-1, 0, 1, 2} {
		list = append(list, dot(planes), dotBlock(planes, 16), dotBlock(planes, 32))
	}
	return list
}

// width returns the bits of codes with some planes; −1: whole bytes.
func width(planes int) int {
	if planes < 0 {
		return 8
	}
	return 4 + planes
}

// begin loads the arguments and constants of a product.
func begin(f *function, planes int) {
	for _, a := range []struct {
		r      x
		offset int
	}{
		{rOut, argOut}, {rRows, argRows}, {rNibble, argNibble}, {rBits, argBits}, {rScale, argScale}, {rStrideN, argNibbleStride},
		{rStrideB, argBitsStride}, {rStrideS, argScaleStride}, {rX, argX}, {rSteps, argSteps},
	} {
		f.raw("MOVD %d(R0), R%d", a.offset, a.r)
	}
	if planes >= 0 {
		f.bytes(vLow, 15)
	}
	if planes > 0 {
		f.raw("MOVD $·neonBits(SB), R%d", rTable)
		f.ldrQ(vBits, rTable, 0)
		for g := v(1); g < 4; g++ {
			f.shiftBytesLeft(vBits+g, vBits+g-1, 2)
		}
		for p := range planes {
			f.bytes(vPlane+v(p), 16<<p)
		}
	}
	f.label("row")
	f.raw("MOVD R%d, R%d", rNibble, rNib)
	f.raw("MOVD R%d, R%d", rBits, rBit)
	f.raw("MOVD R%d, R%d", rX, rPtr)
	f.raw("MOVD R%d, R%d", rSteps, rLeft)
}

// weights loads 64 codes to four registers. Signed codes are lower by half of their number: a plane then takes one instruction
// less for 16 of them, which puts its bit in the place of all bits above, and what is missing is the same for all rows.
func weights(f *function, planes int, signed bool) {
	if planes < 0 {
		f.ldpQ(vWeight, vWeight+1, rNib, 0)
		f.ldpQ(vWeight+2, vWeight+3, rNib, 32)
		f.raw("ADD $64, R%d", rNib)
		return
	}
	f.ldpQ(vWeight, vWeight+1, rNib, 0)
	f.raw("ADD $32, R%d", rNib)
	for g := v(0); g < 2; g++ {
		f.shiftBytes(vWeight+2+g, vWeight+g, 4)
		f.and(vWeight+g, vWeight+g, vLow)
	}
	for p := range planes {
		bits := v(20)
		f.ldrTwice(bits, rBit)
		f.raw("ADD $8, R%d", rBit)
		if signed && p == planes-1 {
			f.not(bits, bits)
		}
		for g := v(0); g < 4; g++ {
			t := 4 + g
			f.test(t, bits, vBits+g)
			if signed {
				f.insert(vWeight+g, t, 4+p)
				continue
			}
			f.and(t, t, vPlane+v(p))
			f.orr(vWeight+g, vWeight+g, t)
		}
	}
}

// end moves to the next step and, after the last one, has the row's result stored by finish.
func end(f *function, finish func()) {
	f.raw("ADD $128, R%d", rPtr)
	f.raw("SUBS $1, R%d, R%d", rLeft, rLeft)
	f.raw("BNE step")
	finish()
	f.raw("ADD R%d, R%d", rStrideN, rNibble)
	f.raw("ADD R%d, R%d", rStrideB, rBits)
	f.raw("SUBS $1, R%d, R%d", rRows, rRows)
	f.raw("BNE row")
}

// dot multiplies rows with one token. Each of 16 sums of 32 bits takes up to 128 of a tile's 2,048 columns: 255 · 32,512 · 128
// fits.
func dot(planes int) *function {
	f := &function{name: fmt.Sprintf("dotNEONw%d", width(planes)),
		doc: "multiplies rows of codes with 16-bit numbers. It writes int64[rows]."}
	signed := planes > 0
	if signed {
		f.doc += fmt.Sprintf(" The codes are taken as %d less than they are.", 8<<planes)
	}
	begin(f, planes)
	for a := v(0); a < 4; a++ {
		f.zero(a)
	}
	f.label("step")
	weights(f, planes, signed)
	for g := range 4 {
		lo, hi := v(4+2*(g%2)), v(5+2*(g%2))
		f.ldpQ(22+v(g%2)*2, 23+v(g%2)*2, rPtr, 32*g)
		f.widenBytes(lo, vWeight+v(g), signed, false)
		f.widenBytes(hi, vWeight+v(g), signed, true)
		for i, w := range []v{lo, hi} {
			f.mac(v(2*i), w, 22+v(g%2)*2+v(i), false)
			f.mac(v(2*i+1), w, 22+v(g%2)*2+v(i), true)
		}
	}
	end(f, func() {
		f.pairInts(0, 0)
		for a := v(1); a < 4; a++ {
			f.addPairInts(0, a)
		}
		f.addLast(0, 0)
		f.strD(0, rOut, 0)
		f.raw("ADD $8, R%d", rOut)
	})
	return f
}

// dotBlock is dot with a scale for every 16 or 32 columns. Column c goes to partial sum c mod 4, block after block; the row's is
// (0 + 1) + (2 + 3).
func dotBlock(planes, block int) *function {
	f := &function{
		name: fmt.Sprintf("dotBlockNEONw%db%d", width(planes), block),
		doc:  fmt.Sprintf("is the product with one scale per %d columns. It writes float32[rows].", block),
	}
	begin(f, planes)
	f.raw("MOVD R%d, R%d", rScale, rScl)
	f.zero(0)
	f.label("step")
	weights(f, planes, false)
	scales, groups := v(1), block/16
	if block == 16 {
		f.ldrQ(scales, rScl, 0)
	} else {
		f.ldrD(scales, rScl, 0)
	}
	f.raw("ADD $%d, R%d", 4*64/block, rScl)
	for b := range 4 / groups {
		sum := v(2 + b%2)
		for g := b * groups; g < (b+1)*groups; g++ {
			lo, hi := v(4+2*(g%2)), v(5+2*(g%2))
			xs := 22 + v(g%2)*2
			f.ldpQ(xs, xs+1, rPtr, 32*g)
			f.widenBytes(lo, vWeight+v(g), false, false)
			f.widenBytes(hi, vWeight+v(g), false, true)
			if g == b*groups {
				f.mul(sum, lo, xs, false)
			} else {
				f.mac(sum, lo, xs, false)
			}
			f.mac(sum, lo, xs, true)
			f.mac(sum, hi, xs+1, false)
			f.mac(sum, hi, xs+1, true)
		}
		f.toFloat(sum, sum)
		f.fmacBy(0, sum, scales, b)
	}
	end(f, func() {
		f.fpairs(0, 0, 0)
		f.fpairs(0, 0, 0)
		f.strS(0, rOut, 0)
		f.raw("ADD $4, R%d", rOut)
		f.raw("ADD R%d, R%d", rStrideS, rScale)
	})
	return f
}
