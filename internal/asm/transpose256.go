package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// strided addresses eight rows some bytes apart.
type strided struct{ stride, three, five, seven Register }

func newStrided(stride Register) strided {
	s := strided{stride, GP64(), GP64(), GP64()}
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, s.three)
	LEAQ(Mem{Base: stride, Index: stride, Scale: 4}, s.five)
	LEAQ(Mem{Base: s.three, Index: stride, Scale: 4}, s.seven)
	return s
}

// at returns the address of byte disp of row i from base on.
func (s strided) at(base Register, i, disp int) Mem {
	m := Mem{Base: base, Disp: disp, Scale: 1}
	switch i {
	case 0:
		return Mem{Base: base, Disp: disp}
	case 3, 6:
		m.Index, m.Scale = s.three, uint8(i/3)
	case 5:
		m.Index = s.five
	case 7:
		m.Index = s.seven
	default:
		m.Index, m.Scale = s.stride, uint8(i)
	}
	return m
}

// transpose exchanges rows and columns of 8 × 8 words. from gives the address of half a row.
func transpose(from func(row, half int) Mem, to func(row int) Mem) {
	for half := range 2 {
		// Rows i and i + 4 side by side: so shuffles within halves of registers do all of the rest.
		var v [4]VecVirtual
		for i := range v {
			v[i] = YMM()
			VBROADCASTI128(from(i, half), v[i])
			VINSERTI128(Imm(1), from(i+4, half), v[i], v[i])
		}
		low, high := [2]VecVirtual{YMM(), YMM()}, [2]VecVirtual{YMM(), YMM()}
		for i := range 2 {
			VPUNPCKLDQ(v[2*i+1], v[2*i], low[i])
			VPUNPCKHDQ(v[2*i+1], v[2*i], high[i])
		}
		for i, pair := range [2][2]VecVirtual{low, high} {
			first, second := YMM(), YMM()
			VPUNPCKLQDQ(pair[1], pair[0], first)
			VMOVDQU(first, to(4*half+2*i))
			VPUNPCKHQDQ(pair[1], pair[0], second)
			VMOVDQU(second, to(4*half+2*i+1))
		}
	}
}

// splitLanes generates what puts each lane's words, which are interleaved in memory, in one piece.
func splitLanes() {
	TEXT("splitLanes", NOSPLIT, "func(dst *uint32, stride int, words *uint32, n int)")
	Pragma("noescape")
	Doc("splitLanes writes 8·n words of each of 32 lanes, interleaved at words, to dst, lanes stride bytes apart.")
	dst, stride, words, n := Load(Param("dst"), GP64()), Load(Param("stride"), GP64()), Load(Param("words"), GP64()),
		Load(Param("n"), GP64())
	rows, to, left := newStrided(stride), GP64(), GP64()
	Label("block")
	MOVQ(dst, to)
	MOVQ(U32(4), left)
	Label("lanes")
	transpose(
		func(row, half int) Mem { return Mem{Base: words, Disp: 128*row + 16*half} },
		func(row int) Mem { return rows.at(to, row, 0) },
	)
	ADDQ(Imm(32), words)
	LEAQ(Mem{Base: to, Index: stride, Scale: 8}, to)
	DECQ(left)
	JNZ(LabelRef("lanes"))
	ADDQ(U32(7*128), words)
	ADDQ(Imm(32), dst)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// panel256 generates what reorders rows for gemmNarrow256.
func panel256() {
	TEXT("panel256", NOSPLIT, "func(dst *byte, codes *byte, stride int, steps int)")
	Pragma("noescape")
	Doc("panel256 reorders 32 rows of codes so that 4 columns of 32 rows follow each other.")
	dst, codes, stride, steps := Load(Param("dst"), GP64()), Load(Param("codes"), GP64()), Load(Param("stride"), GP64()),
		Load(Param("steps"), GP64())
	rows, from, left := newStrided(stride), GP64(), GP64()
	Label("step")
	MOVQ(codes, from)
	MOVQ(U32(4), left)
	Label("rows")
	for part := range 2 {
		transpose(
			func(row, half int) Mem { return rows.at(from, row, 32*part+16*half) },
			func(row int) Mem { return Mem{Base: dst, Disp: 1024*part + 128*row} },
		)
	}
	LEAQ(Mem{Base: from, Index: stride, Scale: 8}, from)
	ADDQ(Imm(32), dst)
	DECQ(left)
	JNZ(LabelRef("rows"))
	ADDQ(U32(2048-128), dst)
	ADDQ(Imm(64), codes)
	DECQ(steps)
	JNZ(LabelRef("step"))
	VZEROUPPER()
	RET()
}
