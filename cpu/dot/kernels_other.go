//go:build !amd64 && !arm64

package dot

// Available returns the instruction sets of this processor, the fastest last.
func Available() []ISA { return []ISA{Generic} }

// Without assembly these are never reached: Available is the only source of an ISA.

func (ISA) quantizeASM(dst []int8, x []float32, steps int) (float32, int64) {
	return quantizeGeneric(dst, x, steps)
}
func (i ISA) dotASM(out []int32, w *Rows, x []int8) { dotGeneric(i, out, w, x) }
func (i ISA) dotBlocksASM(out []float32, w *Rows, block int, x []int8) {
	dotBlocksGeneric(i, out, w, block, x)
}
func (i ISA) gemmBlocksASM(acc, rest, scale []float32, w *Rows, block int, x []int8, xStride, tokens int) {
	gemmBlocksGeneric(i, acc, rest, scale, w, block, x, xStride, tokens)
}
func gemmNEON(out []int32, tile []byte, x []int8, xStride, steps, tokens int) {
	gemmGeneric(out, tile, x, xStride, steps, tokens)
}

// sumJoined is never reached: Available does not return NEON.
func sumJoined(*[MaxSteps * StepCols]int16, []int8, int) int64 { return 0 }
