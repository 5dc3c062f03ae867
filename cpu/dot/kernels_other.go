//go:build !amd64 && !arm64

package dot

import "github.com/ellm-gpu/ellm-gpu/internal/isa"

// Available returns the functions that this processor can run, the fastest last.
func Available() []Kernels { return []Kernels{With(isa.Generic)} }

// Without assembly these are never reached: Available is the only source of Kernels.

func (Kernels) quantizeASM(dst []int8, x []float32, steps int) (float32, int64) {
	return quantizeGeneric(dst, x, steps)
}
func (k Kernels) dotASM(out []int32, w *Rows, x []int8) { k.dotGeneric(out, w, x) }
func (k Kernels) dotBlocksASM(out []float32, w *Rows, block int, x []int8) {
	k.dotBlocksGeneric(out, w, block, x)
}
func (k Kernels) gemmBlocksASM(acc, rest, scale []float32, w *Rows, block int, x Tokens) {
	k.gemmBlocksGeneric(acc, rest, scale, w, block, x)
}
func gemmNEON(out []int32, panel []byte, steps int, x Tokens) {
	gemmGeneric(out, panel, steps, x)
}

// sumJoined is never reached: Available does not return NEON.
func sumJoined(*[MaxSteps * StepCols]int16, []int8, int) int64 { return 0 }
