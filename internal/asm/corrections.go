package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// Offsets in type correctArgs of cpu/dot.
const (
	correctOut       = 8 * iota // int32[rows][2]
	correctStart                // uint32[rows + 1]
	correctList                 // uint16[entries], the first row's first
	correctV                    // int16: the activations
	correctSums                 // int32[entries + 1]
	correctRows                 // at least 1
	correctEntries              // start[rows] − start[0]
	correctAhead                // what is fetched meanwhile
	correctAheadStep            // bytes; 0: nothing
)

// correctRows256 generates what adds corrections to the sums of rows. The running sums of all rows' corrections come first, so
// that the end of a row is no branch; a row's sum is a difference of two.
func correctRows256() {
	TEXT("correctRows256", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc("correctRows256 adds the corrections of some rows to the second parts of their sums, and fetches memory that is read next.")
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	list, v, sums, ahead, step := load(correctList), load(correctV), load(correctSums), load(correctAhead), load(correctAheadStep)
	left, sum := GP64(), GP32()
	XORL(sum, sum)
	MOVL(sum, Mem{Base: sums})
	entry := func(i int) {
		delta, value, col := GP64(), GP64(), GP64()
		MOVWQSX(Mem{Base: list, Disp: 2 * i}, delta)
		MOVL(delta.As32(), col.As32())
		ANDL(U32(2047), col.As32())
		SARL(Imm(11), delta.As32())
		MOVWLSX(Mem{Base: v, Index: col, Scale: 2}, value.As32())
		IMULL(delta.As32(), value.As32())
		ADDL(value.As32(), sum)
		MOVL(sum, Mem{Base: sums, Disp: 4 + 4*i})
	}
	move := func(n int) {
		ADDQ(Imm(uint64(2*n)), list)
		ADDQ(Imm(uint64(4*n)), sums)
	}
	MOVQ(Mem{Base: args, Disp: correctEntries}, left)
	SUBQ(Imm(4), left)
	JL(LabelRef("rest"))
	Label("four")
	PREFETCHT1(Mem{Base: ahead})
	ADDQ(step, ahead)
	for i := range 4 {
		entry(i)
	}
	move(4)
	SUBQ(Imm(4), left)
	JGE(LabelRef("four"))
	Label("rest")
	ADDQ(Imm(4), left)
	JZ(LabelRef("rows"))
	Label("one")
	entry(0)
	move(1)
	DECQ(left)
	JNZ(LabelRef("one"))
	Label("rows")
	out, start, rows := load(correctOut), load(correctStart), load(correctRows)
	MOVQ(Mem{Base: args, Disp: correctSums}, sums)
	first, before := GP32(), GP32()
	MOVL(Mem{Base: start}, first)
	XORL(before, before)
	Label("row")
	end, s, d := GP64(), GP32(), GP32()
	MOVL(Mem{Base: start, Disp: 4}, end.As32())
	SUBL(first, end.As32())
	MOVL(Mem{Base: sums, Index: end, Scale: 4}, s)
	MOVL(s, d)
	SUBL(before, d)
	MOVL(s, before)
	ADDL(d, Mem{Base: out, Disp: 4})
	ADDQ(Imm(4), start)
	ADDQ(Imm(8), out)
	DECQ(rows)
	JNZ(LabelRef("row"))
	RET()
}

// fetchLines generates what fetches memory.
func fetchLines() {
	TEXT("fetchLines", NOSPLIT, "func(p *byte, bytes int)")
	Pragma("noescape")
	Doc("fetchLines fetches memory into the cache, without waiting. Addresses that are not mapped are allowed.")
	p, left := Load(Param("p"), GP64()), Load(Param("bytes"), GP64())
	Label("line")
	PREFETCHT0(Mem{Base: p})
	ADDQ(Imm(64), p)
	SUBQ(Imm(64), left)
	JG(LabelRef("line"))
	RET()
}
