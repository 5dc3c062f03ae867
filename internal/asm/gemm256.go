package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// gemm256 multiplies a tile with 1 to 3 tokens with AVX2. VPMADDUBSW saturates, so codes must be below 128; below 64 two products can be added before they are
// widened. Width 8 adds a second product for the upper nibbles and takes 1 or 2 tokens.
func gemm256(tokens, width int, c *avx2Consts) {
	name := fmt.Sprintf("gemm256w%dx%d", width, tokens)
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	Doc(name + fmt.Sprintf(" multiplies a tile of 32 rows with %d tokens with AVX2, 16 rows a pass. Codes must be below %d.", tokens, 1<<width))
	args := Load(Param("a"), GP64())
	load := argLoader(args)
	stride, out, tile := load(gemmXStride), load(gemmOut), load(gemmW)
	w, x, x2, steps, pass := GP64(), GP64(), GP64(), GP64(), GP64()
	MOVQ(U32(2), pass)
	acc := make([][2][2]VecVirtual, tokens)
	for t := range acc {
		for h := range 2 {
			acc[t][h] = [2]VecVirtual{YMM(), YMM()}
		}
	}
	at := func(token, disp int) Mem {
		switch token {
		case 0:
			return Mem{Base: x, Disp: disp}
		case 1:
			return Mem{Base: x, Index: stride, Scale: 1, Disp: disp}
		}
		return Mem{Base: x2, Disp: disp}
	}
	Label("pass")
	for t := range acc {
		for h := range 2 {
			for r := range 2 {
				VPXOR(acc[t][h][r], acc[t][h][r], acc[t][h][r])
			}
		}
	}
	MOVQ(tile, w)
	MOVQ(Mem{Base: args, Disp: gemmX}, x)
	LEAQ(Mem{Base: x, Index: stride, Scale: 2}, x2)
	MOVQ(Mem{Base: args, Disp: gemmSteps}, steps)
	Label("step")
	part := func(t, h, r, g int, b VecVirtual) VecVirtual {
		p := YMM()
		VMOVDQU(Mem{Base: w, Disp: 128*g + 32*r}, p)
		if width == 8 {
			up := YMM()
			VPSRLW(Imm(4), p, up)
			VPAND(c.low, up, up)
			VPAND(c.low, p, p)
			VPMADDUBSW(b, up, up)
			VPMADDWD(c.sixt, up, up)
			VPADDD(up, acc[t][h][r], acc[t][h][r])
		}
		VPMADDUBSW(b, p, p)
		return p
	}
	at16 := 1 // groups whose products fit 16 bits
	if width < 7 {
		at16 = 2
	}
	for g := 0; g < 16; g += at16 {
		for t := range acc {
			for h := range 2 {
				b := [2]VecVirtual{YMM(), YMM()}
				for i := range at16 {
					VPBROADCASTD(at(t, 4*(g+i)+64*h), b[i])
				}
				for r := range 2 {
					p := part(t, h, r, g, b[0])
					if at16 == 2 {
						VPADDW(part(t, h, r, g+1, b[1]), p, p)
					}
					VPMADDWD(c.ones, p, p)
					VPADDD(p, acc[t][h][r], acc[t][h][r])
				}
			}
		}
	}
	ADDQ(U32(128*16), w)
	ADDQ(U32(128), x)
	ADDQ(U32(128), x2)
	DECQ(steps)
	JNZ(LabelRef("step"))
	for t := range acc {
		for h := range 2 {
			for r := range 2 {
				VMOVDQU(acc[t][h][r], Mem{Base: out, Disp: 256*t + 128*h + 32*r})
			}
		}
	}
	ADDQ(U32(64), tile)
	ADDQ(U32(64), out)
	DECQ(pass)
	JNZ(LabelRef("pass"))
	VZEROUPPER()
	RET()
}
