//go:build !amd64

package dot

import "github.com/ellm-gpu/ellm-gpu/internal/isa"

// Without AVX2 and AVX-512 these are never reached: Available is the only source of Kernels.

func packAVX2(width int, nibble, bits, codes []byte, steps int) {
	With(isa.AVX2).packGeneric(width, nibble, bits, codes, steps)
}
func unpackAVX2(width int, codes, nibble, bits []byte, steps int, _ uint8) {
	With(isa.AVX2).unpackGeneric(width, codes, nibble, bits, steps)
}
func packAVX512(width int, nibble, bits, codes []byte, steps int) {
	With(isa.AVX512).packGeneric(width, nibble, bits, codes, steps)
}
func unpackAVX512(width int, codes, nibble, bits []byte, steps int) {
	With(isa.AVX512).unpackGeneric(width, codes, nibble, bits, steps)
}
func packEscapesAVX512(w *Rows, low int, nibble, bits, escape, codes []byte) int {
	return With(isa.Generic).PackEscapes(w, low, nibble, bits, escape, codes)
}

func unpackRowsAVX512(codes []byte, w *Rows) { With(isa.Generic).unpackRows(w, codes) }

func wordsAVX2([]int16, []int8, int) {}

func (Kernels) gemmWordsASM(out []int32, codes []byte, stride, rows, steps int, x Words) {
	gemmWordsGeneric(out, codes, stride, rows, steps, x)
}
func addScaledAVX2([]float32, []int32, []int32, float32, int64)  {}
func addPairsAVX2([]float32, []int32, float32, int64)            {}
func raiseAVX2([]byte, uint8)                                    {}
func correctRowsAVX2([]int32, []uint32, []uint16, correctInputs) {}

// Fetch does nothing: where there is a function for it, it fetches memory into the cache.
func Fetch[T any]([]T) {}

func joinAVX2(v *[MaxSteps * StepCols]int16, x []int8, steps int) {
	With(isa.Generic).join(v, x, steps)
}
func panelAVX2(dst, codes []byte, stride, steps int) { panelGeneric(dst, codes, stride, steps) }

func panelGeneric(dst, codes []byte, stride, steps int) {
	for g := range 16 * steps {
		for r := range PanelRows {
			copy(dst[(g*PanelRows+r)*4:][:4], codes[r*stride+4*g:])
		}
	}
}
