//go:build !amd64

package dot

// Without AVX2 and AVX-512 these are never reached: Available is the only source of an ISA.

func gemmAVX2(out []int32, tile []byte, width int, x []int8, xStride, steps, tokens int) {
	gemmGeneric(out, tile, x, xStride, steps, tokens)
}
func packAVX512(width int, nibble, bits, codes []byte, steps int) {
	packGeneric(AVX512, width, nibble, bits, codes, steps)
}
func unpackAVX512(width int, codes, nibble, bits []byte, steps int) {
	unpackGeneric(AVX512, width, codes, nibble, bits, steps)
}
func tileAVX512(dst, codes []byte, stride, steps int) { tileGeneric(dst, codes, stride, steps) }
func gemmAVX512(out []int32, tile []byte, x []int8, xStride, steps, tokens int) {
	gemmGeneric(out, tile, x, xStride, steps, tokens)
}

func packEscapesAVX512(w *Rows, low int, nibble, bits, escape, codes []byte) int {
	return Generic.PackEscapes(w, low, nibble, bits, escape, codes)
}

func unpackEscapesAVX512(w *Rows, codes, nibble, bits, escape []byte) {
	unpackGeneric(Generic, w.Width, codes, nibble, bits, w.Steps)
	insertEscapesGeneric(w, codes[:w.Steps*StepCols], escape)
}

func joinAVX2(v *[MaxSteps * StepCols]int16, x []int8, steps int) { Generic.join(v, x, steps) }
func tileAVX2(dst, codes []byte, stride, steps int)               { tileGeneric(dst, codes, stride, steps) }
