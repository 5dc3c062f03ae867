package dot

import "unsafe"

// trips returns how many vectors of 64 escapes cover n.
func trips(n int) int { return (n + StepCols - 1) / StepCols }

// setEscapes adds w's escapes. Where a row's escapes end is known only from themselves: the last row's are taken to stay inside
// the slice, as PackEscapes wrote them.
func (a *dotArgs) setEscapes(w *Rows) {
	last := w.Start[(w.Count-1)*w.StartStride]
	a.escape = unsafe.Pointer(&w.Escape[:int(last)+EscapeSlack][0])
	a.start, a.startStride, a.trips = unsafe.Pointer(&w.Start[0]), 4*w.StartStride, trips(min(w.Most, w.Steps*StepCols))
	scratch := w.scratch()
	a.expanded, a.current = unsafe.Pointer(&scratch[0]), unsafe.Pointer(&scratch[expandedBytes(w.Steps)])
}

func (w *Rows) scratch() []byte {
	if n := ScratchBytes(w.Steps); len(w.Scratch) < n {
		w.Scratch = make([]byte, n)
	}
	return w.Scratch
}

func dotEscapes512(p *byte, width int) {
	switch width {
	case 3:
		dot512w3e(p)
	case 4:
		dot512w4e(p)
	case 5:
		dot512w5e(p)
	default:
		dot512w6e(p)
	}
}

// escapeArgs continues packArgs.
type escapeArgs struct {
	packArgs
	escape  unsafe.Pointer
	low     int
	scratch unsafe.Pointer
}

func packEscapesAVX512(w *Rows, low int, nibble, bits, escape, codes []byte) int {
	a := escapeArgs{escape: unsafe.Pointer(&escape[:MaxEscapeBytes(w.Steps)][0]), low: low & 255,
		scratch: unsafe.Pointer(&w.scratch()[0])}
	a.set(w.Width, codes, nibble, bits, w.Steps)
	start, p := a.escape, (*byte)(unsafe.Pointer(&a))
	switch w.Width {
	case 3:
		pack512w3e(p)
	case 4:
		pack512w4e(p)
	case 5:
		pack512w5e(p)
	default:
		pack512w6e(p)
	}
	return int(uintptr(a.escape) - uintptr(start))
}

// unpackRowsAVX512 unpacks rows of less than 7 bits.
func unpackRowsAVX512(codes []byte, w *Rows) {
	var a dotArgs
	a.setPlanes(w)
	a.out = unsafe.Pointer(&codes[:w.Count*w.Steps*StepCols][0])
	if w.Escaped {
		a.setEscapes(w)
	}
	p := (*byte)(unsafe.Pointer(&a))
	switch {
	case w.Escaped && w.Width == 3:
		unpackRows512w3e(p)
	case w.Escaped && w.Width == 4:
		unpackRows512w4e(p)
	case w.Escaped && w.Width == 5:
		unpackRows512w5e(p)
	case w.Escaped:
		unpackRows512w6e(p)
	case w.Width == 4:
		unpackRows512w4(p)
	case w.Width == 5:
		unpackRows512w5(p)
	default:
		unpackRows512w6(p)
	}
}
