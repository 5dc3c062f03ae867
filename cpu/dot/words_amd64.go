package dot

import (
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// wordArgs mirrors the offsets in internal/asm.
type wordArgs struct {
	out, codes unsafe.Pointer
	stride     int
	x          unsafe.Pointer
	xStride    int
	steps      int
	ahead      unsafe.Pointer
	aheadStep  int
}

// Rows and tokens whose sums are in registers.
const (
	wordRows512, wordTokens512 = 4, 6
	wordRows256, wordTokens256 = 2, 4
)

func wordsAVX2(v []int16, x []int8, steps int) {
	words256(&v[:steps*StepCols][0], &x[:2*steps*StepCols][0], steps)
}

// gemmWordsASM takes as many tokens at a time as have their sums in registers, in parts of about the same size.
func (k Kernels) gemmWordsASM(out []int32, codes []byte, stride, rows, steps int, x Words) {
	most, step := wordTokens512, wordRows512
	if k.ISA == isa.AVX2 {
		most, step = wordTokens256, wordRows256
	}
	codes = codes[:(rows-1)*stride+steps*StepCols]
	a := wordArgs{stride: stride, xStride: 2 * x.Stride, steps: steps}
	parts := (x.Count + most - 1) / most
	ahead, each := x.Ahead, len(x.Ahead)/(parts*rows/step) // of each call
	a.aheadStep = min(each/steps, 2*64)
	for part := range parts {
		first, end := part*x.Count/parts, (part+1)*x.Count/parts
		a.x = unsafe.Pointer(&x.V[first*x.Stride:][:(end-first-1)*x.Stride+steps*StepCols][0])
		for r := 0; r < rows; r += step {
			a.out = unsafe.Pointer(&out[first*2*PanelRows : end*2*PanelRows][r])
			a.codes = unsafe.Pointer(&codes[r*stride])
			a.ahead = a.codes
			if each > 0 {
				a.ahead, ahead = unsafe.Pointer(&ahead[0]), ahead[each:]
			}
			if p := (*byte)(unsafe.Pointer(&a)); k.ISA == isa.AVX2 {
				gemmWordsAVX2(p, end-first)
			} else {
				gemmWordsAVX512(p, end-first)
			}
		}
	}
}

func gemmWordsAVX512(p *byte, tokens int) {
	switch tokens {
	case 1:
		gemmWords512x1(p)
	case 2:
		gemmWords512x2(p)
	case 3:
		gemmWords512x3(p)
	case 4:
		gemmWords512x4(p)
	case 5:
		gemmWords512x5(p)
	default:
		gemmWords512x6(p)
	}
}

func gemmWordsAVX2(p *byte, tokens int) {
	switch tokens {
	case 1:
		gemmWords256x1(p)
	case 2:
		gemmWords256x2(p)
	case 3:
		gemmWords256x3(p)
	default:
		gemmWords256x4(p)
	}
}

func addScaledAVX2(acc []float32, hi, lo []int32, scale float32, offset int64) {
	n := len(acc)
	addScaled256(&acc[0], &hi[:n][0], &lo[:n][0], n/4, scale, float64(offset))
}

func addPairsAVX2(acc []float32, sums []int32, scale float32, offset int64) {
	n := len(acc)
	addPairs256(&acc[0], &sums[:2*n][0], n/4, scale, float64(offset))
}

func raiseAVX2(b []byte, n uint8) { raise256(&b[0], len(b)/StepCols, uint64(n)) }
