package dot

import "unsafe"

// setEscapes adds w's escapes. Where a row's escapes end is known only from its planes: the last row's are taken to stay inside the slice, as PackEscapes wrote them.
func (a *dotArgs) setEscapes(w *Rows) {
	last := w.Start[(w.Count-1)*w.StartStride]
	a.escape = unsafe.Pointer(&w.Escape[:int(last)+EscapeSlack][0])
	a.start, a.startStride, a.low = unsafe.Pointer(&w.Start[0]), 4*w.StartStride, w.Low
}

func dotEscapes512(p *byte, width int) {
	switch width {
	case 4:
		dot512w4n(p)
	case 5:
		dot512w5b(p)
	default:
		dot512w6b(p)
	}
}

// escapeArgs continues packArgs.
type escapeArgs struct {
	packArgs
	escape unsafe.Pointer
	low    int
}

func packEscapesAVX512(w *Rows, nibble, bits, escape, codes []byte) int {
	a := escapeArgs{escape: unsafe.Pointer(&escape[:w.Steps*StepCols+EscapeSlack][0]), low: w.Low}
	a.set(w.Width, codes, nibble, bits, w.Steps)
	start, p := a.escape, (*byte)(unsafe.Pointer(&a))
	switch w.Width {
	case 4:
		pack512w4n(p)
	case 5:
		pack512w5b(p)
	default:
		pack512w6b(p)
	}
	return int(uintptr(a.escape) - uintptr(start))
}

func unpackEscapesAVX512(w *Rows, codes, nibble, bits, escape []byte) {
	a := escapeArgs{escape: unsafe.Pointer(&escape[:EscapeSlack][0]), low: w.Low}
	a.set(w.Width, codes, nibble, bits, w.Steps)
	p := (*byte)(unsafe.Pointer(&a))
	switch w.Width {
	case 4:
		unpack512w4n(p)
	case 5:
		unpack512w5b(p)
	default:
		unpack512w6b(p)
	}
}
