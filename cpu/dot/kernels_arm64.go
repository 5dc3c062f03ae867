package dot

import (
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// Available returns the functions that this processor can run, the fastest last.
func Available() []Kernels { return []Kernels{With(isa.Generic), With(isa.NEON)} }

// The argument structures mirror the offsets in internal/asm/arm64. Slices are checked before their pointers go there.

type neonArgs struct {
	out          unsafe.Pointer
	nibble       unsafe.Pointer
	nibbleStride int
	bits         unsafe.Pointer
	bitsStride   int
	x            unsafe.Pointer
	steps, rows  int
	scale        unsafe.Pointer
	scaleStride  int
}

// joined are the activations of a tile as the kernels take them.
type joined = [MaxSteps * StepCols]int16

// set points a to rows first … first+n−1, in place: arguments made here would be allocated, and so would what is on a caller's
// stack and stored here.
func (a *neonArgs) set(w *Rows, first, n int) {
	a.nibbleStride, a.bitsStride, a.steps, a.rows = w.NibbleStride, w.BitsStride, w.Steps, n
	a.nibble = unsafe.Pointer(&w.Nibble[first*w.NibbleStride:][:(n-1)*w.NibbleStride+w.Steps*NibbleBytes(w.Width)][0])
	if bb := BitBytes(w.Width); bb > 0 {
		a.bits = unsafe.Pointer(&w.Bits[first*w.BitsStride:][:(n-1)*w.BitsStride+w.Steps*bb][0])
	}
}

type neonQuantArgs struct {
	x     unsafe.Pointer
	steps int
	out   unsafe.Pointer
	inv   float32
	_     uint32
	sum   int32 // or the bits of a float32
	_     uint32
}

// sumJoined sets v to 256·hi + lo of the activations and returns their sum.
func sumJoined(v *joined, x []int8, steps int) (sum int64) {
	a := neonQuantArgs{x: unsafe.Pointer(&x[:steps*2*StepCols][0]), steps: steps, out: unsafe.Pointer(&v[:steps*StepCols][0])}
	joinNEON((*byte)(unsafe.Pointer(&a)))
	return int64(a.sum)
}

func (Kernels) quantizeASM(dst []int8, x []float32, steps int) (scale float32, sum int64) {
	a := neonQuantArgs{x: unsafe.Pointer(&x[0]), steps: steps, out: unsafe.Pointer(&dst[:2*StepCols*steps][0])}
	p := (*byte)(unsafe.Pointer(&a))
	absMaxNEON(p)
	scale, a.inv = scales(*(*float32)(unsafe.Pointer(&a.sum)))
	splitNEON(p)
	return scale, int64(a.sum)
}

// sums are the products of some rows.
type sums [PanelRows]int64

func dotNEON(p *byte, width int) {
	switch width {
	case 4:
		dotNEONw4(p)
	case 5:
		dotNEONw5(p)
	case 6:
		dotNEONw6(p)
	default:
		dotNEONw8(p)
	}
}

func (Kernels) dotASM(out []int32, w *Rows, x []int8) {
	var a neonArgs
	var v joined
	var s sums
	missing := sumJoined(&v, x, w.Steps)
	switch w.Width { // what the kernels take off the codes
	case 5:
		missing *= 16
	case 6:
		missing *= 32
	default:
		missing = 0
	}
	a.x, a.out = unsafe.Pointer(&v), unsafe.Pointer(&s)
	for first := 0; first < w.Count; first += len(s) {
		n := min(len(s), w.Count-first)
		a.set(w, first, n)
		dotNEON((*byte)(unsafe.Pointer(&a)), w.Width)
		o := out[2*first:][:2*n]
		for r, v := range s[:n] {
			v += missing
			o[2*r], o[2*r+1] = int32(v>>8), int32(v&0xff)
		}
	}
}

func (Kernels) dotBlocksASM(out []float32, w *Rows, block int, x []int8) {
	var a neonArgs
	var v joined
	sumJoined(&v, x, w.Steps)
	a.set(w, 0, w.Count)
	a.x, a.out = unsafe.Pointer(&v), unsafe.Pointer(&out[:w.Count][0])
	a.scale = unsafe.Pointer(&w.Scale[:(w.Count-1)*w.ScaleStride+w.Steps*StepCols/block][0])
	a.scaleStride = 4 * w.ScaleStride
	dotBlockNEON((*byte)(unsafe.Pointer(&a)), w.Width, block)
}

func dotBlockNEON(p *byte, width, block int) {
	switch {
	case width == 4 && block == 16:
		dotBlockNEONw4b16(p)
	case width == 4:
		dotBlockNEONw4b32(p)
	case width == 5 && block == 16:
		dotBlockNEONw5b16(p)
	case width == 5:
		dotBlockNEONw5b32(p)
	case width == 6 && block == 16:
		dotBlockNEONw6b16(p)
	case width == 6:
		dotBlockNEONw6b32(p)
	case block == 16:
		dotBlockNEONw8b16(p)
	default:
		dotBlockNEONw8b32(p)
	}
}

// gemmNEON is dotASM for every token: with four products an instruction both are bound by the multiplier.
func gemmNEON(out []int32, panel []byte, steps int, x Tokens) {
	w := Rows{Width: 8, Nibble: panel, NibbleStride: steps * StepCols, Count: PanelRows, Steps: steps}
	var a neonArgs
	var v joined
	var s sums
	a.set(&w, 0, PanelRows)
	a.x, a.out = unsafe.Pointer(&v), unsafe.Pointer(&s)
	for t := range x.Count {
		sumJoined(&v, x.from(t), steps)
		dotNEONw8((*byte)(unsafe.Pointer(&a)))
		o := out[t*2*PanelRows:][:2*PanelRows]
		for r, v := range s {
			o[r], o[PanelRows+r] = int32(v>>8), int32(v&0xff)
		}
	}
}

func (k Kernels) gemmBlocksASM(acc, rest, scale []float32, w *Rows, block int, x Tokens) {
	k.gemmBlocksGeneric(acc, rest, scale, w, block, x)
}
