package dot

import (
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// Available returns the functions that this processor can run, the fastest last.
func Available() []Kernels {
	x := &cpu.X86
	all := []Kernels{With(isa.Generic)}
	if x.HasAVX2 && x.HasFMA {
		all = append(all, With(isa.AVX2))
	}
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VBMI2 && x.HasAVX512VNNI {
		all = append(all, With(isa.AVX512))
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
	a.setPlanes(w)
	a.x = unsafe.Pointer(&x[:w.Steps*2*StepCols][0])
}

// setPlanes is set without activations.
func (a *dotArgs) setPlanes(w *Rows) {
	*a = dotArgs{nibbleStride: w.NibbleStride, bitsStride: w.BitsStride, steps: w.Steps, rows: w.Count}
	a.nibble = unsafe.Pointer(&w.Nibble[:(w.Count-1)*w.NibbleStride+w.Steps*NibbleBytes(w.Width)][0])
	if bb := BitBytes(w.Width); bb > 0 {
		a.bits = unsafe.Pointer(&w.Bits[:(w.Count-1)*w.BitsStride+w.Steps*bb][0])
	}
}

func (k Kernels) dotASM(out []int32, w *Rows, x []int8) {
	var a dotArgs
	a.set(w, x)
	a.out = unsafe.Pointer(&out[:2*w.Count][0])
	p := (*byte)(unsafe.Pointer(&a))
	if w.Escaped {
		a.setEscapes(w)
		dotEscapes512(p, w.Width)
		return
	}
	wide := k.ISA == isa.AVX512
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

func (k Kernels) dotBlocksASM(out []float32, w *Rows, block int, x []int8) {
	var a dotArgs
	a.set(w, x)
	a.out = unsafe.Pointer(&out[:w.Count][0])
	a.scale = unsafe.Pointer(&w.Scale[:(w.Count-1)*w.ScaleStride+w.Steps*StepCols/block][0])
	a.scaleStride = 4 * w.ScaleStride
	p := (*byte)(unsafe.Pointer(&a))
	if k.ISA == isa.AVX512 {
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
	*a = packArgs{codes: unsafe.Pointer(&codes[:steps*StepCols][0]),
		nibble: unsafe.Pointer(&nibble[:steps*NibbleBytes(width)][0]), steps: steps}
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

func packAVX2(width int, nibble, bits, codes []byte, steps int) {
	var a packArgs
	a.set(width, codes, nibble, bits, steps)
	p := (*byte)(unsafe.Pointer(&a))
	switch width {
	case 4:
		pack256w4(p)
	case 5:
		pack256w5(p)
	default:
		pack256w6(p)
	}
}

type unpackArgs struct {
	packArgs
	add uint8
}

func unpackAVX2(width int, codes, nibble, bits []byte, steps int, add uint8) {
	a := unpackArgs{add: add}
	a.set(width, codes, nibble, bits, steps)
	p := (*byte)(unsafe.Pointer(&a))
	switch width {
	case 4:
		unpack256w4(p)
	case 5:
		unpack256w5(p)
	default:
		unpack256w6(p)
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

func (k Kernels) quantizeASM(dst []int8, x []float32, steps int) (scale float32, sum int64) {
	a := quantArgs{x: unsafe.Pointer(&x[0]), steps: steps, out: unsafe.Pointer(&dst[:2*StepCols*steps][0])}
	p := (*byte)(unsafe.Pointer(&a))
	if k.ISA == isa.AVX2 {
		var most [MaxSteps]float32
		stepMax(most[:steps], x)
		scale, a.inv = scales(absMax(most[:steps]))
		split256(p)
		return scale, int64(a.sum)
	}
	absMax512(p)
	scale, a.inv = scales(*(*float32)(unsafe.Pointer(&a.sum)))
	split512(p)
	return scale, int64(a.sum)
}

type gemmArgs struct {
	out, panel, x unsafe.Pointer
	xStride       int
	steps         int
}

func (a *gemmArgs) set(out []int32, panel []byte, steps int, x Tokens) {
	*a = gemmArgs{
		out:     unsafe.Pointer(&out[:x.Count*2*PanelRows][0]),
		panel:   unsafe.Pointer(&panel[:PanelBytes(steps)][0]),
		x:       unsafe.Pointer(&x.Q[:(x.Count-1)*x.Stride+2*StepCols*steps][0]),
		xStride: x.Stride,
		steps:   steps,
	}
}

// gemmNEON is never reached: Available does not return NEON.
func gemmNEON(out []int32, panel []byte, steps int, x Tokens) {
	gemmGeneric(out, panel, steps, x)
}

func joinAVX2(v *[MaxSteps * StepCols]int16, x []int8, steps int) {
	join256(&v[:steps*StepCols][0], &x[:2*StepCols*steps][0], steps)
}

func panelAVX2(dst, codes []byte, stride, steps int) {
	panel256(&dst[:PanelBytes(steps)][0], &codes[:(PanelRows-1)*stride+steps*StepCols][0], stride, steps)
}

// sumJoined is never reached: Available does not return NEON.
func sumJoined(*[MaxSteps * StepCols]int16, []int8, int) int64 { return 0 }

type correctArgs struct {
	out, start, list, v, sums unsafe.Pointer
	rows, entries             int
	ahead                     unsafe.Pointer
	aheadStep                 int
}

// fetchedByDot is how far ahead of what they multiply kernels fetch planes (internal/asm).
const fetchedByDot = 8192

// correctRowsAVX2 adds the corrections of rows, `list`, to the second parts of their sums.
func correctRowsAVX2(out []int32, start []uint32, list []uint16, in correctInputs) {
	if len(list) == 0 {
		return
	}
	a := correctArgs{out: unsafe.Pointer(&out[:2*(len(start)-1)][0]), start: unsafe.Pointer(&start[0]),
		list: unsafe.Pointer(&list[0]), v: unsafe.Pointer(&in.v[0]), sums: unsafe.Pointer(&in.sums[:len(list)+1][0]),
		rows: len(start) - 1, entries: len(list)}
	a.ahead = a.list
	if len(in.ahead) > fetchedByDot {
		a.ahead, a.aheadStep = unsafe.Pointer(&in.ahead[fetchedByDot]), 64
	}
	correctRows256((*byte)(unsafe.Pointer(&a)))
}

// Fetch fetches memory into the cache, without waiting for it.
func Fetch[T any](s []T) {
	if len(s) > 0 {
		fetchLines((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
	}
}
