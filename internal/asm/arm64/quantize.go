package main

// Offsets in type neonQuantArgs of cpu/dot.
const (
	quantX = 8 * iota // float32[steps][64]; of join, int8[steps][2][64]
	quantSteps
	quantOut // int8[steps][2][64]; of join, int16[steps][64]
	quantInv // float32
	quantSum // int32, or the largest magnitude
)

func beginQuant(f *function) {
	f.raw("MOVD %d(R0), R1", quantX)
	f.raw("MOVD %d(R0), R2", quantSteps)
	f.raw("MOVD %d(R0), R3", quantOut)
}

func endQuant(f *function) {
	f.raw("SUBS $1, R2, R2")
	f.raw("BNE step")
}

// join makes 16-bit numbers of their bytes.
func join() *function {
	f := &function{name: "joinNEON", doc: "joins the two bytes of quantized activations, 256·hi + lo, and adds them up."}
	beginQuant(f)
	f.zero(31)
	f.label("step")
	for i := v(0); i < 8; i += 2 {
		f.ldpQ(i, i+1, 1, 16*int(i))
	}
	f.raw("ADD $128, R1")
	for g := v(0); g < 4; g++ {
		for h := v(0); h < 2; h++ {
			t := 16 + 2*g + h
			f.highBytes(t, g, h == 1)
			f.addWide(t, t, 4+g, h == 1)
			f.addPairHalves(31, t)
		}
		f.stpQ(16+2*g, 17+2*g, 3, 32*int(g))
	}
	f.raw("ADD $128, R3")
	endQuant(f)
	storeSum(f)
	return f
}

// absMax finds the largest magnitude.
func absMax() *function {
	f := &function{name: "absMaxNEON", doc: "finds the largest magnitude, NaN if there is one."}
	beginQuant(f)
	for a := v(16); a < 20; a++ {
		f.zero(a)
	}
	f.label("step")
	for half := range 2 {
		for i := v(0); i < 8; i += 2 {
			f.ldpQ(i, i+1, 1, 128*half+16*int(i))
		}
		for i := v(0); i < 8; i++ {
			f.fabs(i, i)
			f.fmax(16+i%4, 16+i%4, i)
		}
	}
	f.raw("ADD $256, R1")
	endQuant(f)
	f.fmax(16, 16, 17)
	f.fmax(18, 18, 19)
	f.fmax(16, 16, 18)
	f.fmaxAll(16, 16)
	f.strS(16, 0, quantSum)
	return f
}

// split multiplies by quantInv, rounds to the nearest whole numbers, even ones from the middle, and writes their high and low
// bytes and their sum.
func split() *function {
	f := &function{name: "splitNEON", doc: "rounds x · inv to whole numbers, as two bytes each, and adds them up."}
	beginQuant(f)
	f.raw("ADD $%d, R0, R4", quantInv)
	f.ldrRepeated(30, 4)
	f.zero(31)
	f.label("step")
	for g := range 4 { // 16 columns
		for i := v(0); i < 4; i += 2 {
			f.ldpQ(i, i+1, 1, 64*g+16*int(i))
		}
		for i := v(0); i < 4; i++ {
			f.fmul(i, i, 30)
			f.fromFloat(i, i)
		}
		for h := v(0); h < 2; h++ {
			f.narrow(4+h, 2*h, false)
			f.narrow(4+h, 2*h+1, true)
			f.addPairHalves(31, 4+h)
			f.roundHalves(6, 4+h, h == 1)
			f.narrowHalves(7, 4+h, h == 1)
		}
		f.strQ(6, 3, 16*g)
		f.strQ(7, 3, 64+16*g)
	}
	f.raw("ADD $256, R1")
	f.raw("ADD $128, R3")
	endQuant(f)
	storeSum(f)
	return f
}

// storeSum stores the sum of four numbers.
func storeSum(f *function) {
	f.pairInts(31, 31)
	f.addLast(31, 31)
	f.strS(31, 0, quantSum)
}
