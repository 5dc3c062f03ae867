package dot

import (
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// gemmBlockArgs mirrors the offsets in internal/asm.
type gemmBlockArgs struct {
	acc, rest, tokenScale unsafe.Pointer
	codes                 unsafe.Pointer
	stride                int
	scale                 unsafe.Pointer
	scaleStride           int
	x                     unsafe.Pointer
	xStride               int
	steps                 int
}

// gemmBlockTokens is how many tokens AVX-512 has in registers; AVX2 takes one.
const gemmBlockTokens = 4

func (k Kernels) gemmBlocksASM(acc, rest, scale []float32, w *Rows, block int, x Tokens) {
	most := gemmBlockTokens
	if k.ISA == isa.AVX2 {
		most = 1
	}
	var a gemmBlockArgs
	a.stride, a.scaleStride, a.xStride = w.NibbleStride, 4*w.ScaleStride, x.Stride
	a.codes = unsafe.Pointer(&w.Nibble[:(BlockRows-1)*w.NibbleStride+w.Steps*StepCols][0])
	a.scale = unsafe.Pointer(&w.Scale[:(BlockRows-1)*w.ScaleStride+w.Steps*StepCols/block][0])
	p := (*byte)(unsafe.Pointer(&a))
	for t := 0; t < x.Count; t += most {
		n := min(most, x.Count-t)
		a.steps = w.Steps
		a.acc = unsafe.Pointer(&acc[BlockRows*t:][:BlockRows*n][0])
		a.rest = unsafe.Pointer(&rest[BlockRows*t:][:BlockRows*n][0])
		a.tokenScale = unsafe.Pointer(&scale[t:][:n][0])
		a.x = unsafe.Pointer(&x.from(t)[:(n-1)*x.Stride+2*StepCols*w.Steps][0])
		if k.ISA == isa.AVX2 {
			gemmBlocks256(p, block, w.Width)
		} else {
			gemmBlocks512(p, block, n)
		}
	}
}

func gemmBlocks512(p *byte, block, tokens int) {
	switch {
	case block == 16 && tokens == 1:
		gemmBlock512x1b16(p)
	case block == 16 && tokens == 2:
		gemmBlock512x2b16(p)
	case block == 16 && tokens == 3:
		gemmBlock512x3b16(p)
	case block == 16:
		gemmBlock512x4b16(p)
	case tokens == 1:
		gemmBlock512x1b32(p)
	case tokens == 2:
		gemmBlock512x2b32(p)
	case tokens == 3:
		gemmBlock512x3b32(p)
	default:
		gemmBlock512x4b32(p)
	}
}

func gemmBlocks256(p *byte, block, width int) {
	switch {
	case block == 16 && width == 8:
		gemmBlock256w8b16(p)
	case block == 16:
		gemmBlock256b16(p)
	case width == 8:
		gemmBlock256w8b32(p)
	default:
		gemmBlock256b32(p)
	}
}
