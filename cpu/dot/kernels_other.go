//go:build !amd64

package dot

// Best returns the fastest instruction set of this processor.
func Best() ISA { return Generic }

// Without assembly these are never reached: Best is the only source of another ISA than Generic.

func (ISA) quantizeASM(dst []int8, x []float32, steps int) (float32, int64) {
	return quantizeGeneric(dst, x, steps)
}
func (ISA) dotASM(out []int32, w *Rows, x []int8) { dotGeneric(out, w, x) }
func (ISA) dotBlocksASM(out []float32, w *Rows, block int, x []int8) {
	dotBlocksGeneric(out, w, block, x)
}
func gemmAVX2(out []int32, tile []byte, width int, x []int8, xStride, steps, tokens int) {
	gemmGeneric(out, tile, x, xStride, steps, tokens)
}
func packAVX512(width int, nibble, bits, codes []byte, steps int) {
	packGeneric(width, nibble, bits, codes, steps)
}
func unpackAVX512(width int, codes, nibble, bits []byte, steps int) {
	unpackGeneric(width, codes, nibble, bits, steps)
}
func tileAVX512(dst, codes []byte, stride, steps int) { tileGeneric(dst, codes, stride, steps) }
func gemmAVX512(out []int32, tile []byte, x []int8, xStride, steps, tokens int) {
	gemmGeneric(out, tile, x, xStride, steps, tokens)
}

func (ISA) gemmBlocksASM(acc, rest, scale []float32, w *Rows, block int, x []int8, xStride, tokens int) {
	gemmBlocksGeneric(acc, rest, scale, w, block, x, xStride, tokens)
}

func packEscapesAVX512(w *Rows, low int, nibble, bits, escape, codes []byte) int {
	return Generic.PackEscapes(w, low, nibble, bits, escape, codes)
}

func unpackEscapesAVX512(w *Rows, codes, nibble, bits, escape []byte) {
	unpackGeneric(w.Width, codes, nibble, bits, w.Steps)
	insertEscapesGeneric(w, codes[:w.Steps*StepCols], escape)
}
