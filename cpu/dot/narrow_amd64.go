package dot

import "unsafe"

// narrowArgs mirrors the offsets in internal/asm.
type narrowArgs struct {
	x      unsafe.Pointer
	steps  int
	out    unsafe.Pointer
	scales unsafe.Pointer
	sum    int64
}

func stepMax(most, x []float32) { stepMax256(&x[:len(most)*StepCols][0], len(most), &most[0]) }

func splitNarrow(dst []int8, x []float32, scales []narrowStep) (sum int64) {
	n := len(scales)
	a := narrowArgs{
		x: unsafe.Pointer(&x[:n*StepCols][0]), steps: n, out: unsafe.Pointer(&dst[:2*StepCols*n][0]),
		scales: unsafe.Pointer(&scales[0]),
	}
	splitNarrow256((*byte)(unsafe.Pointer(&a)))
	return a.sum
}

func joinFactors(v *[MaxSteps * StepCols]int16, x []int8, steps int) {
	joinNarrow256(&v[:steps*StepCols][0], &x[:2*StepCols*steps][0], steps)
}

func (k Kernels) dotNarrow(out []int32, w *Rows, x []int8) {
	if w.Escaped { // kept by AVX-512 alone
		k.dotGeneric(out, w, x)
		return
	}
	var a dotArgs
	a.set(w, x)
	a.out = unsafe.Pointer(&out[:2*w.Count][0])
	p := (*byte)(unsafe.Pointer(&a))
	switch {
	case w.Width == 4:
		narrow256w4(p)
	case w.Width == 5:
		narrow256w5(p)
	case w.Width == 6:
		narrow256w6(p)
	case w.Width == 7 && w.Below > 0 && w.Below < 7:
		narrow256b6(p)
	case w.Width == 7:
		narrow256b7(p)
	default:
		narrow256w8(p)
	}
}

// gemmTokensNarrow is how many tokens have their sums in registers.
const gemmTokensNarrow = 4

func gemmNarrow(out []int32, panel []byte, width, steps int, x Tokens) {
	clear(out[:2*PanelRows*x.Count])
	most := 1 << (12 - max(width, 6)) / 4 // steps whose sums fit 32 bits: 64 columns of 32,385 · 2^width
	var a gemmArgs
	for first := 0; first < steps; first += most {
		n := min(most, steps-first)
		for t := 0; t < x.Count; t += gemmTokensNarrow {
			tokens := Tokens{x.from(t)[first*2*StepCols:], x.Stride, min(gemmTokensNarrow, x.Count-t)}
			a.set(out[t*2*PanelRows:], panel[first*StepCols*PanelRows:], n, tokens)
			gemmNarrow256((*byte)(unsafe.Pointer(&a)), width, tokens.Count)
		}
	}
}

func gemmNarrow256(p *byte, width, tokens int) {
	switch {
	case width <= 6:
		gemmNarrowBelow64(p, tokens)
	case width == 7:
		gemmNarrowBelow128(p, tokens)
	default:
		gemmNarrowWhole(p, tokens)
	}
}

func gemmNarrowBelow64(p *byte, tokens int) {
	switch tokens {
	case 1:
		gemmNarrow256w6x1(p)
	case 2:
		gemmNarrow256w6x2(p)
	case 3:
		gemmNarrow256w6x3(p)
	default:
		gemmNarrow256w6x4(p)
	}
}

func gemmNarrowBelow128(p *byte, tokens int) {
	switch tokens {
	case 1:
		gemmNarrow256w7x1(p)
	case 2:
		gemmNarrow256w7x2(p)
	case 3:
		gemmNarrow256w7x3(p)
	default:
		gemmNarrow256w7x4(p)
	}
}

func gemmNarrowWhole(p *byte, tokens int) {
	switch tokens {
	case 1:
		gemmNarrow256w8x1(p)
	case 2:
		gemmNarrow256w8x2(p)
	case 3:
		gemmNarrow256w8x3(p)
	default:
		gemmNarrow256w8x4(p)
	}
}
