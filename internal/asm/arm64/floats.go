package main

import (
	"fmt"
	"math"
)

// Offsets in type neonArgs of package cpu/vec.
const (
	fltDst     = 8 * iota // what is written
	fltA                  // what is read
	fltB                  // what is read, too
	fltStrideA            // bytes from one row of A to the next
	fltStrideB            // likewise
	fltN                  // floats of a row, a multiple of 16
	fltRows               // rows
	fltValue              // float32: a factor, or a sum
)

// floats generates package vec's kernels.
func floats() []*function {
	return []*function{dot4(1), dot4(2), weighted(), half(), scaled(), expSum(), swiglu()}
}

// begin loads arguments to registers 1, 2, ….
func (f *function) begin(offsets ...int) {
	for i, o := range offsets {
		f.raw("MOVD %d(R0), R%d", o, i+1)
	}
}

// loop ends a loop of r, by step.
func (f *function) loop(label string, r x, step int) {
	f.raw("SUBS $%d, R%d, R%d", step, r, r)
	f.raw("BNE %s", label)
}

// dot4 multiplies four rows with some tokens. Each product has eight sums: column c goes to sum c mod 8.
func dot4(tokens int) *function {
	f := &function{name: fmt.Sprintf("dot4NEON%d", tokens),
		doc: "adds the products of four rows of A with rows of B to Dst, [row of B][row of A]."}
	f.begin(fltDst, fltA, fltB, fltStrideA, fltStrideB, fltN)
	row := func(r int) x { return x(8 + r) }
	f.raw("MOVD R2, R%d", row(0))
	for r := 1; r < 4; r++ {
		f.raw("ADD R4, R%d, R%d", row(r-1), row(r))
	}
	f.raw("ADD R5, R3, R7")
	acc := func(t, r, i int) v { return v(8*t + 2*r + i) }
	for i := range 8 * tokens {
		f.zero(v(i))
	}
	f.label("step")
	for t := range tokens {
		f.ldpQ(v(16+2*t), v(17+2*t), x(3+4*t), 0)
		f.raw("ADD $32, R%d", 3+4*t)
	}
	for r := range 4 {
		f.ldpQ(v(20+2*r), v(21+2*r), row(r), 0)
		f.raw("ADD $32, R%d", row(r))
		for t := range tokens {
			f.fmac(acc(t, r, 0), v(20+2*r), v(16+2*t))
			f.fmac(acc(t, r, 1), v(21+2*r), v(17+2*t))
		}
	}
	f.loop("step", 6, 8)
	for t := range tokens {
		for r := range 4 {
			f.fadd(acc(t, r, 0), acc(t, r, 0), acc(t, r, 1))
		}
		f.fpairs(16, acc(t, 0, 0), acc(t, 1, 0))
		f.fpairs(17, acc(t, 2, 0), acc(t, 3, 0))
		f.fpairs(16, 16, 17)
		f.ldrQ(17, 1, 16*t)
		f.fadd(16, 16, 17)
		f.strQ(16, 1, 16*t)
	}
	return f
}

// weighted adds rows of B times numbers of A to Dst, 16 columns at a time, row after row.
func weighted() *function {
	f := &function{name: "weightedNEON", doc: "adds the rows of B, times the numbers A, to Dst."}
	f.begin(fltDst, fltA, fltB, fltStrideB, fltN, fltRows)
	f.label("columns")
	f.ldpQ(0, 1, 1, 0)
	f.ldpQ(2, 3, 1, 32)
	f.raw("MOVD R2, R7")
	f.raw("MOVD R3, R8")
	f.raw("MOVD R6, R9")
	f.label("step")
	f.ldrRepeated(16, 7)
	f.ldpQ(4, 5, 8, 0)
	f.ldpQ(6, 7, 8, 32)
	f.raw("ADD $4, R7")
	f.raw("ADD R4, R8")
	for i := v(0); i < 4; i++ {
		f.fmac(i, 4+i, 16)
	}
	f.loop("step", 9, 1)
	f.stpQ(0, 1, 1, 0)
	f.stpQ(2, 3, 1, 32)
	f.raw("ADD $64, R1")
	f.raw("ADD $64, R3")
	f.loop("columns", 5, 16)
	return f
}

// half widens float16 numbers.
func half() *function {
	f := &function{name: "halfNEON", doc: "widens the float16 numbers A to Dst."}
	f.begin(fltDst, fltA, fltN)
	f.label("step")
	f.ldpQ(0, 1, 2, 0)
	f.raw("ADD $32, R2")
	for i := v(0); i < 4; i++ {
		f.fromHalf(4+i, i/2, i%2 == 1)
	}
	f.stpQ(4, 5, 1, 0)
	f.stpQ(6, 7, 1, 32)
	f.raw("ADD $64, R1")
	f.loop("step", 3, 16)
	return f
}

// scaled multiplies rows of bytes by the same numbers.
func scaled() *function {
	f := &function{name: "scaledNEON", doc: "sets the rows of Dst, which follow each other, to the bytes A times the numbers B."}
	f.begin(fltDst, fltA, fltB, fltN, fltRows)
	f.label("row")
	f.raw("MOVD R3, R6")
	f.raw("MOVD R4, R7")
	f.label("step")
	f.ldrQ(0, 2, 0)
	f.ldpQ(16, 17, 6, 0)
	f.ldpQ(18, 19, 6, 32)
	f.raw("ADD $16, R2")
	f.raw("ADD $64, R6")
	for h := v(0); h < 2; h++ {
		f.widenBytes(1+h, 0, true, h == 1)
		for i := v(0); i < 2; i++ {
			t := 4 + 2*h + i
			f.widenHalves(t, 1+h, i == 1)
			f.toFloat(t, t)
			f.fmul(t, t, 12+t)
		}
	}
	f.stpQ(4, 5, 1, 0)
	f.stpQ(6, 7, 1, 32)
	f.raw("ADD $64, R1")
	f.loop("step", 7, 16)
	f.loop("row", 5, 1)
	return f
}

// Constants of exp in registers: those of Cody and Waite's reduction x = n·ln(2) + r, the coefficients of r⁷ … r², and limits of
// x.
const (
	eLog2e v = 16 + iota
	eLn2Hi
	eLn2Lo
	eCoefficient
	eOne  = eCoefficient + 6
	eBias = eOne + 1 // whole number 127
	eMin  = eOne + 2
	eMax  = eOne + 3
)

// expConstants are in the order of the registers.
func expConstants() []uint32 {
	var c []uint32
	for _, f := range []float32{1.44269504088896341, 0.693359375, -2.12194440e-4, 1. / 5040, 1. / 720, 1. / 120, 1. / 24,
		1. / 6, 1. / 2, 1} {
		c = append(c, math.Float32bits(f))
	}
	return append(c, 127, math.Float32bits(-87), math.Float32bits(88))
}

func expData() string {
	s := "\n"
	for i, c := range expConstants() {
		s += fmt.Sprintf("DATA ·neonExp+%d(SB)/4, $0x%08x\n", 4*i, c)
	}
	return s + fmt.Sprintf("GLOBL ·neonExp(SB), RODATA|NOPTR, $%d\n", 4*len(expConstants()))
}

// expBegin loads the constants; R15 is used.
func (f *function) expBegin() {
	f.raw("MOVD $·neonExp(SB), R15")
	for i := range expConstants() {
		f.ldrRepeated(eLog2e+v(i), 15)
		f.raw("ADD $4, R15")
	}
}

// exp sets registers 4 and 5 to exp of 0 and 1, between eMin and eMax; it uses up to register 7.
func (f *function) exp() {
	both := func(do func(i v)) { do(0); do(1) }
	both(func(i v) { f.fmul(2+i, i, eLog2e) })
	both(func(i v) { f.round(2+i, 2+i) })
	both(func(i v) { f.fmsub(i, 2+i, eLn2Hi) })
	both(func(i v) { f.fmsub(i, 2+i, eLn2Lo) })
	both(func(i v) { f.orr(4+i, eCoefficient, eCoefficient) })
	sum, next := v(4), v(6)
	for _, c := range []v{eCoefficient + 1, eCoefficient + 2, eCoefficient + 3, eCoefficient + 4, eCoefficient + 5, eOne, eOne} {
		both(func(i v) { f.orr(next+i, c, c) })
		both(func(i v) { f.fmac(next+i, sum+i, i) })
		sum, next = next, sum
	}
	both(func(i v) { f.fromFloat(2+i, 2+i) })
	both(func(i v) { f.addInts(2+i, 2+i, eBias) })
	both(func(i v) { f.shiftIntsLeft(2+i, 2+i, 23) })
	both(func(i v) { f.fmul(4+i, sum+i, 2+i) })
}

// expSum replaces numbers by exp(x − fltValue), 0 below eMin, and adds them up: column c goes to sum c mod 8.
func expSum() *function {
	f := &function{name: "expNEON", doc: "replaces the numbers Dst by exp(x − Value), 0 for arguments below −87, and sets Value " +
		"to their sum."}
	f.begin(fltDst, fltN)
	f.expBegin()
	f.raw("ADD $%d, R0, R15", fltValue)
	f.ldrRepeated(31, 15)
	f.zero(12)
	f.zero(13)
	f.label("step")
	f.ldpQ(0, 1, 1, 0)
	for i := v(0); i < 2; i++ {
		f.fsub(i, i, 31)
		f.fatLeast(14+i, i, eMin)
		f.fmax(i, i, eMin)
	}
	f.exp()
	for i := v(0); i < 2; i++ {
		f.and(4+i, 4+i, 14+i)
		f.fadd(12+i, 12+i, 4+i)
	}
	f.stpQ(4, 5, 1, 0)
	f.raw("ADD $32, R1")
	f.loop("step", 2, 8)
	f.fadd(12, 12, 13)
	f.fpairs(12, 12, 12)
	f.fpairs(12, 12, 12)
	f.strS(12, 0, fltValue)
	return f
}

// swiglu multiplies silu(A) = A / (1 + exp(−A)) by B.
func swiglu() *function {
	f := &function{name: "swigluNEON", doc: "sets Dst to silu(A) · B."}
	f.begin(fltDst, fltA, fltB, fltN)
	f.expBegin()
	f.label("step")
	f.ldpQ(8, 9, 2, 0)
	f.ldpQ(10, 11, 3, 0)
	for i := v(0); i < 2; i++ {
		f.fneg(i, 8+i)
		f.fmin(i, i, eMax)
		f.fmax(i, i, eMin)
	}
	f.exp()
	for i := v(0); i < 2; i++ {
		f.fadd(4+i, 4+i, eOne)
		f.fdiv(4+i, 8+i, 4+i)
		f.fmul(4+i, 4+i, 10+i)
	}
	f.stpQ(4, 5, 1, 0)
	for r := 1; r <= 3; r++ {
		f.raw("ADD $32, R%d", r)
	}
	f.loop("step", 4, 8)
	return f
}
