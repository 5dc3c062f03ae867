package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// decoders generates a decoder of chunks without and one with low bits, which body emits.
func decoders(name, doc string, body func(withLow bool)) {
	for _, withLow := range []bool{false, true} {
		full := name
		if withLow {
			full += "Low"
		}
		TEXT(full, NOSPLIT, "func(a *byte)")
		Pragma("noescape")
		Doc(full + " decodes one chunk with " + doc)
		body(withLow)
	}
}

// argLoader returns what loads arguments of a structure by their offsets.
func argLoader(args Register) func(disp int) GPVirtual {
	return func(disp int) GPVirtual {
		r := GP64()
		MOVQ(Mem{Base: args, Disp: disp}, r)
		return r
	}
}

// decodeRows generates the loops around group, which decodes n pairs of every lane to dst. rows is how many rows are left.
func decodeRows(args, row, dst Register, rows Op, group func(n int, name string)) {
	Label("row")
	MOVQ(row, dst)
	decodeRow(argLoader(args)(argSteps), group)
	ADDQ(Mem{Base: args, Disp: argStride}, row)
	DECQ(rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// decodeRow decodes the pairs of a row, of which `left` are left: four at a time, then two and one.
func decodeRow(left Op, group func(n int, name string)) {
	SUBQ(Imm(4), left)
	JL(LabelRef("rest"))
	Label("four")
	group(4, "a")
	SUBQ(Imm(4), left)
	JGE(LabelRef("four"))
	Label("rest")
	TESTQ(U32(2), left)
	JZ(LabelRef("last"))
	group(2, "b")
	Label("last")
	TESTQ(U32(1), left)
	JZ(LabelRef("next"))
	group(1, "c")
	Label("next")
}
