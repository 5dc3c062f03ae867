package dot

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// Available returns the instruction sets of this processor, the fastest last.
func Available() []ISA {
	x := &cpu.X86
	all := []ISA{Generic}
	if x.HasAVX2 && x.HasFMA {
		all = append(all, AVX2)
	}
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VBMI2 && x.HasAVX512VNNI {
		all = append(all, AVX512)
	}
	return all
}

// The argument structures mirror the offsets in internal/asm. Slices are checked before their pointers go there.

type dotArgs struct {
	out, nibble  unsafe.Pointer
	nibbleStride int
	bits         unsafe.Pointer
	bitsStride   int
	x            unsafe.Pointer
	steps, rows  int
	scale        unsafe.Pointer
	scaleStride  int
	escape       unsafe.Pointer
	start        unsafe.Pointer
	startStride  int
	trips        int
	expanded     unsafe.Pointer
	current      unsafe.Pointer
}

// set fills a in place: arguments made here would be allocated.
func (a *dotArgs) set(w *Rows, x []int8) {
	*a = dotArgs{nibbleStride: w.NibbleStride, bitsStride: w.BitsStride, x: unsafe.Pointer(&x[:w.Steps*2*StepCols][0]), steps: w.Steps, rows: w.Count}
	a.nibble = unsafe.Pointer(&w.Nibble[:(w.Count-1)*w.NibbleStride+w.Steps*NibbleBytes(w.Width)][0])
	if bb := BitBytes(w.Width); bb > 0 {
		a.bits = unsafe.Pointer(&w.Bits[:(w.Count-1)*w.BitsStride+w.Steps*bb][0])
	}
}

func (i ISA) dotASM(out []int32, w *Rows, x []int8) {
	var a dotArgs
	a.set(w, x)
	a.out = unsafe.Pointer(&out[:2*w.Count][0])
	p := (*byte)(unsafe.Pointer(&a))
	if w.Escaped {
		a.setEscapes(w)
		dotEscapes512(p, w.Width)
		return
	}
	wide := i == AVX512
	switch {
	case w.Width == 4 && wide:
		dot512w4(p)
	case w.Width == 5 && wide:
		dot512w5(p)
	case w.Width == 6 && wide:
		dot512w6(p)
	case wide:
		dot512w8(p)
	case w.Width == 4:
		dot256w4(p)
	case w.Width == 5:
		dot256w5(p)
	case w.Width == 6:
		dot256w6(p)
	case w.Width == 7:
		dotBytes256(p, w.Below)
	default:
		dot256w8(p)
	}
}

func dotBytes256(p *byte, below int) {
	switch below {
	case 1, 2, 3, 4:
		dot256b4(p)
	case 5:
		dot256b5(p)
	case 6:
		dot256b6(p)
	default:
		dot256b7(p)
	}
}

func (i ISA) dotBlocksASM(out []float32, w *Rows, block int, x []int8) {
	var a dotArgs
	a.set(w, x)
	a.out = unsafe.Pointer(&out[:w.Count][0])
	a.scale = unsafe.Pointer(&w.Scale[:(w.Count-1)*w.ScaleStride+w.Steps*StepCols/block][0])
	a.scaleStride = 4 * w.ScaleStride
	p := (*byte)(unsafe.Pointer(&a))
	if i == AVX512 {
		dotBlocks512(p, w.Width, block)
	} else {
		dotBlocks256(p, w.Width, block)
	}
}

func dotBlocks512(p *byte, width, block int) {
	switch {
	case width == 4 && block == 16:
		dotBlock512w4b16(p)
	case width == 4:
		dotBlock512w4b32(p)
	case width == 5 && block == 16:
		dotBlock512w5b16(p)
	case width == 5:
		dotBlock512w5b32(p)
	case width == 6 && block == 16:
		dotBlock512w6b16(p)
	case width == 6:
		dotBlock512w6b32(p)
	case block == 16:
		dotBlock512w8b16(p)
	default:
		dotBlock512w8b32(p)
	}
}

func dotBlocks256(p *byte, width, block int) {
	switch {
	case width == 4 && block == 16:
		dotBlock256w4b16(p)
	case width == 4:
		dotBlock256w4b32(p)
	case width == 5 && block == 16:
		dotBlock256w5b16(p)
	case width == 5:
		dotBlock256w5b32(p)
	case width == 6 && block == 16:
		dotBlock256w6b16(p)
	case width == 6:
		dotBlock256w6b32(p)
	case block == 16:
		dotBlock256w8b16(p)
	default:
		dotBlock256w8b32(p)
	}
}

type packArgs struct {
	codes, nibble, bits unsafe.Pointer
	steps               int
}

func (a *packArgs) set(width int, codes, nibble, bits []byte, steps int) {
	*a = packArgs{codes: unsafe.Pointer(&codes[:steps*StepCols][0]), nibble: unsafe.Pointer(&nibble[:steps*NibbleBytes(width)][0]), steps: steps}
	if bb := BitBytes(width); bb > 0 {
		a.bits = unsafe.Pointer(&bits[:steps*bb][0])
	}
}

func packAVX512(width int, nibble, bits, codes []byte, steps int) {
	var a packArgs
	a.set(width, codes, nibble, bits, steps)
	p := (*byte)(unsafe.Pointer(&a))
	switch width {
	case 4:
		pack512w4(p)
	case 5:
		pack512w5(p)
	default:
		pack512w6(p)
	}
}

func unpackAVX512(width int, codes, nibble, bits []byte, steps int) {
	var a packArgs
	a.set(width, codes, nibble, bits, steps)
	p := (*byte)(unsafe.Pointer(&a))
	switch width {
	case 4:
		unpack512w4(p)
	case 5:
		unpack512w5(p)
	default:
		unpack512w6(p)
	}
}

type quantArgs struct {
	x     unsafe.Pointer
	steps int
	out   unsafe.Pointer
	inv   float32
	_     uint32
	sum   int32 // or the bits of a float32
	_     uint32
}

func (i ISA) quantizeASM(dst []int8, x []float32, steps int) (scale float32, sum int64) {
	a := quantArgs{x: unsafe.Pointer(&x[0]), steps: steps, out: unsafe.Pointer(&dst[:2*StepCols*steps][0])}
	p := (*byte)(unsafe.Pointer(&a))
	if i == AVX2 {
		scale, a.inv = scales(absMax(x))
		split256(p)
		return scale, int64(a.sum)
	}
	absMax512(p)
	scale, a.inv = scales(*(*float32)(unsafe.Pointer(&a.sum)))
	split512(p)
	return scale, int64(a.sum)
}

type tileArgs struct {
	codes  unsafe.Pointer
	stride int
	out    unsafe.Pointer
	steps  int
}

func tileAVX512(dst, codes []byte, stride, steps int) {
	a := tileArgs{codes: unsafe.Pointer(&codes[:(TileRows-1)*stride+steps*StepCols][0]), stride: stride, out: unsafe.Pointer(&dst[:TileBytes(steps)][0]), steps: steps}
	tile512((*byte)(unsafe.Pointer(&a)))
}

type gemmArgs struct {
	out, tile, x unsafe.Pointer
	xStride      int
	steps        int
}

// How many tokens have their sums in registers; codes of 8 bits need more registers with AVX2.
const (
	gemmTokens512      = 6
	gemmTokens256      = 3
	gemmTokens256Whole = 2
)

func gemmAVX512(out []int32, tile []byte, x []int8, xStride, steps, tokens int) {
	var a gemmArgs
	for t := 0; t < tokens; t += gemmTokens512 {
		n := min(gemmTokens512, tokens-t)
		a.set(out[t*2*TileRows:], tile, x[t*xStride:], xStride, steps, n)
		p := (*byte)(unsafe.Pointer(&a))
		switch n {
		case 1:
			gemm512x1(p)
		case 2:
			gemm512x2(p)
		case 3:
			gemm512x3(p)
		case 4:
			gemm512x4(p)
		case 5:
			gemm512x5(p)
		default:
			gemm512x6(p)
		}
	}
}

func gemmAVX2(out []int32, tile []byte, width int, x []int8, xStride, steps, tokens int) {
	most := gemmTokens256
	if width == 8 {
		most = gemmTokens256Whole
	}
	var a gemmArgs
	for t := 0; t < tokens; t += most {
		n := min(most, tokens-t)
		a.set(out[t*2*TileRows:], tile, x[t*xStride:], xStride, steps, n)
		p := (*byte)(unsafe.Pointer(&a))
		switch {
		case width == 8 && n == 1:
			gemm256w8x1(p)
		case width == 8:
			gemm256w8x2(p)
		case width == 7 && n == 1:
			gemm256w7x1(p)
		case width == 7 && n == 2:
			gemm256w7x2(p)
		case width == 7:
			gemm256w7x3(p)
		case n == 1:
			gemm256w6x1(p)
		case n == 2:
			gemm256w6x2(p)
		default:
			gemm256w6x3(p)
		}
	}
}

func (a *gemmArgs) set(out []int32, tile []byte, x []int8, xStride, steps, tokens int) {
	*a = gemmArgs{
		out:     unsafe.Pointer(&out[:tokens*2*TileRows][0]),
		tile:    unsafe.Pointer(&tile[:TileBytes(steps)][0]),
		x:       unsafe.Pointer(&x[:(tokens-1)*xStride+2*StepCols*steps][0]),
		xStride: xStride,
		steps:   steps,
	}
}

// gemmNEON is never reached: Available does not return NEON.
func gemmNEON(out []int32, tile []byte, x []int8, xStride, steps, tokens int) {
	gemmGeneric(out, tile, x, xStride, steps, tokens)
}

func joinAVX2(v *[MaxSteps * StepCols]int16, x []int8, steps int) {
	join256(&v[:steps*StepCols][0], &x[:2*StepCols*steps][0], steps)
}

func tileAVX2(dst, codes []byte, stride, steps int) {
	tile256(&dst[:TileBytes(steps)][0], &codes[:(TileRows-1)*stride+steps*StepCols][0], stride, steps)
}

// sumJoined is never reached: Available does not return NEON.
func sumJoined(*[MaxSteps * StepCols]int16, []int8, int) int64 { return 0 }
