//go:build !amd64

package dot

// Without AVX2 these are never reached: activations are not kept as bytes and factors.

func stepMax([]float32, []float32) {}

func splitNarrow([]int8, []float32, []narrowStep) int64 { return 0 }

func joinFactors(*[MaxSteps * StepCols]int16, []int8, int) {}

func (k Kernels) dotNarrow(out []int32, w *Rows, x []int8) { k.dotGeneric(out, w, x) }

func gemmNarrow(out []int32, panel []byte, _, steps int, x Tokens) { gemmGeneric(out, panel, steps, x) }
